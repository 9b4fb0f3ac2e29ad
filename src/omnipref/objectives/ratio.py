"""Second and third stage: the value of a case, and the difference between two cases of a preference."""

from __future__ import annotations

from torch import Tensor

from omnipref.errors import NeedsError
from omnipref.objectives.reduce import Reduction, total
from omnipref.scores import Scores


def log_likelihood(scores: Scores, reduce: Reduction = total) -> Tensor:
    """`log π_θ(y|x)` of every case, `[N]`, in nats; per unit when `reduce` is `mean`."""
    return reduce(scores.logp, scores.mask)


def log_ratio(scores: Scores, reduce: Reduction = total) -> Tensor:
    """`ρ = log π_θ(y|x) − log π_ref(y|x)` of every case, `[N]`, in nats. The reference takes no gradient.

    Raises:
        NeedsError: the scores hold no reference.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> log_ratio(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]])))
        tensor([ 1., -1.])
    """
    if scores.ref_logp is None:
        raise NeedsError("found scores without ref_logp; expected log-likelihoods under the reference")
    return reduce(scores.logp, scores.mask) - reduce(scores.ref_logp.detach(), scores.mask)


def difference(scores: Scores, value_N: Tensor, chosen: str, rejected: str) -> Tensor:
    """`v_chosen − v_rejected` of every preference: `[N]` to `[P]`.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(torch.tensor([-1.0]), torch.tensor([-4.0]))
        >>> difference(scores, log_likelihood(scores), "chosen", "rejected")
        tensor([3.])
    """
    return scores.at(chosen, value_N) - scores.at(rejected, value_N)


def stated_margin(scores: Scores, column: str, chosen: str, rejected: str) -> Tensor:
    """How much better a column says that the chosen case is, `[P]`: without gradient.

    A column per case, such as `score`, gives the difference of the two cases; one per preference, such as `margin`, is
    taken as it is.

    Example:
        >>> import torch
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(torch.tensor([-1.0]), torch.tensor([-4.0]))
        >>> columns = {"score": torch.tensor([7.0, 4.5]), "margin": torch.tensor([2.5])}
        >>> scores = replace(scores, cases=replace(scores.cases, columns=columns))
        >>> [stated_margin(scores, name, "chosen", "rejected").item() for name in columns]
        [2.5, 2.5]
    """
    value = scores.cases.columns[column]
    # A preference has two cases or more, so the lengths tell the two kinds of column apart.
    return difference(scores, value, chosen, rejected) if len(value) > scores.cases.count else value
