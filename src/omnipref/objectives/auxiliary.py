"""Terms that teach a model about a preference, beside the loss that teaches it the preference itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from omnipref.errors import ConfigError
from omnipref.objectives.checks import check_choice, check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_likelihood
from omnipref.objectives.reduce import REDUCTIONS
from omnipref.scores import Scores


def rationale(role: str = "rationale", *, gamma: float = 0.001, form: str = "nll", reduce: str = "total") -> Objective:
    """The likelihood of a reason why one response is better (RDPO), given the prompt and both responses.

    nll, `L = −γ log π_θ(r|q)`; logsigmoid, `L = −log σ(γ log π_θ(r|q))`; no reward, no reference.

    `sft` is the mean per unit with weight 1; `anchor` has a log-ratio where this has a log-likelihood.

    Args:
        role: the case whose context asks for the reason and whose response is it.
        gamma: `γ ≥ 0`, per nat.
        form: `nll`, the paper's; `logsigmoid`, the released code's, which pulls with a weight between `γ/2` and `γ`.
        reduce: `total` over the units of the reason, or `mean`, which goes with a `γ` about as many times larger.

    Raises:
        ConfigError: an argument is out of range.

    Identities: nll with `γ = 1` and `mean` is `sft(role)`; nll is linear in `γ`; logsigmoid is between nll and
        nll + log 2, and log 2 at `γ = 0`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(torch.tensor([-45.0]), torch.tensor([-50.0]))
        >>> [rationale("chosen", gamma=0.1, form=form)(scores).loss_P.item() for form in ("nll", "logsigmoid")]
        [4.5, 4.511047840118408]

    Source: arXiv 2407.14477; logsigmoid: the released code.
    """
    settings = dict(locals())
    check_roles(role=role)
    check_number(0, gamma=gamma)
    loss, reduction = check_choice("form", form, FORMS), check_choice("reduce", reduce, REDUCTIONS)

    def compute(scores: Scores, state: State) -> Outcome:
        return Outcome(loss(gamma * scores.at(role, log_likelihood(scores, reduction))))

    return single(rationale, compute, Needs(frozenset({role})), settings)


FORMS: Mapping[str, Callable[[Tensor], Tensor]] = {"nll": torch.neg, "logsigmoid": logistic}
"""What the argument `form` of `rationale` may name: from `γ` times a log-likelihood to a loss."""


def choice(*, right: str = "chosen", wrong: Sequence[str] = ("rejected",)) -> Objective:
    """A question with several answers: the right one must be the likeliest of them.

    `L = −log(e^{S_right} / Σ_a e^{S_a})`, the sum over the right answer and the wrong ones; no reward, no reference.

    `S` is the log-likelihood of a case, so the answers of a language model compete, whatever else it could say; a
    classifier's logits come as one unit per case.

    Args:
        right: role of the right answer.
        wrong: roles of the wrong answers, one or more.

    Raises:
        ConfigError: a role is not a name, recurs, or there is no wrong answer.

    Identities: log C for C equally likely answers; `soft_spo(alpha=1)` for two.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> choice()(pair_scores(torch.tensor([0.5]), torch.tensor([0.2]))).loss_P
        tensor([0.5544])

    Source: the degrees of preference of arXiv 2409.17791; multiple choice by likelihood: 2005.14165, section 2.4.
    """
    settings = dict(locals())
    roles = (right, *wrong)
    for role in roles:
        check_roles(right=role)
    if not wrong or len(set(roles)) < len(roles):
        raise ConfigError(f"found right={right!r} and wrong={wrong!r}; expected two or more different answers")

    def compute(scores: Scores, state: State) -> Outcome:
        logp_N = log_likelihood(scores)
        answer_PC = torch.stack([scores.at(role, logp_N) for role in roles], 1)
        return Outcome(answer_PC.logsumexp(1) - answer_PC[:, 0])

    return single(choice, compute, Needs(frozenset(roles)), settings)
