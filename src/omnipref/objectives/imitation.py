"""Objectives on one response and how good it is: fine-tuning that weighs, or that stops by itself.

`ρ` is the log-ratio of a case to the reference, `S` its log-likelihood, `r` its score (the column `score`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from omnipref.objectives.batch import everyone, spread, standardised
from omnipref.objectives.checks import check_choice, check_number, check_roles
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_likelihood, log_ratio
from omnipref.objectives.reduce import REDUCTIONS
from omnipref.scores import Scores

IMITATION: dict[str, Callable[[Tensor], Tensor]] = {
    "total_variation": lambda x: x,
    "chi_square": lambda x: (x := x.clamp(max=2)) - x.square() / 4,
    "squared_hellinger": lambda x: (x := x.clamp(min=-0.5)) / (1 + x),
    "reverse_kl": lambda x: -torch.exp(-x.clamp(min=-1.6)),
    "jensen_shannon": lambda x: torch.log(2 - torch.exp(-x.clamp(min=-0.5))),
}
"""`φ` by divergence, with slope 1 at 0; held constant where its slope would turn negative or exceed about 5."""


def f_sft(
    role: str = "chosen", *, divergence: str = "chi_square", beta: float = 1.0, reduce: str = "mean"
) -> Objective:
    """Fine-tuning under an f-divergence: demonstrations that have become likely enough are pushed no further.

    `L = −φ(βρ) / β` with `ρ` per unit or whole, reward `βρ`. `φ(x) = x` (total variation) is plain fine-tuning; for the
    others the slope falls as a demonstration gains on the reference: `(1 − x/2)₊` for `chi_square`, `1/(1 + x)²` for
    `squared_hellinger`, `e^{−x}` for `reverse_kl`.

    Args:
        role: the demonstration.
        divergence: one of `IMITATION`.
        beta: `β > 0`, per nat.
        reduce: `mean` per unit, so that long responses stay in range; `total` as the paper's equations are written.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading: the value term `V(x)` of the paper is held at 0, and `reverse_kl` is scaled to slope 1 at 0.
        The forward KL, which has no value at `ρ = 0`, is left out. With `mean` every response weighs alike, as in
        `sft`, however long it is.

    Identities: the gradient of `sft` at `total_variation`, and of every divergence where policy = reference.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-1.0], [-2.0], [-1.5], [-2.0]]))
        >>> f_sft()(scores).loss_P
        tensor([-0.4375])

    Source: arXiv 2507.00018.
    """
    settings = dict(locals())
    check_roles(role=role)
    check_number(0, open_low=True, beta=beta)
    reduction = check_choice("reduce", reduce, REDUCTIONS)
    phi = check_choice("divergence", divergence, IMITATION)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_ratio(scores, reduction)
        return Outcome(-phi(scores.at(role, reward_N)) / beta, reward_N)

    return single(f_sft, compute, Needs(frozenset({role}), reference=True), settings)


def rwr(role: str = "completion", *, temperature: float = 1.0, clip: float = 10.0) -> Objective:
    """Reward-weighted regression: fine-tuning on samples, the better the more.

    `L = −min(e^{r/τ}, c) S`, no reward of its own. Nothing is ever pushed down.

    Args:
        role: the sample.
        temperature: `τ > 0`, in units of the score.
        clip: `c`, the largest weight.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `sft(role, reduce="total")` where all scores are 0.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(torch.tensor([-12.0]), torch.tensor([-15.0]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([1.0, 0.0])}))
        >>> rwr("chosen", temperature=10)(scores).loss_P
        tensor([13.2621])

    Source: arXiv 2404.14367, section 3; Peters and Schaal, 2007.
    """
    settings = dict(locals())
    check_roles(role=role)
    check_number(0, open_low=True, temperature=temperature, clip=clip)

    def compute(scores: Scores, state: State) -> Outcome:
        weight_P = torch.exp(scores.at(role, scores.cases.columns["score"]) / temperature).clamp(max=clip)
        return Outcome(-weight_P * scores.at(role, log_likelihood(scores)))

    return single(rwr, compute, Needs(frozenset({role}), columns=frozenset({"score"})), settings)


def reinforce(role: str = "completion", *, positive_only: bool = False) -> Objective:
    """Policy gradient on samples, with scores that are standardised over the batch.

    `L = −A S` with `A = (r − mean r) / std r`, no reward of its own: a surrogate whose value means nothing. It is the
    gradient of the expected score while samples are the policy's own.

    Args:
        role: the sample.
        positive_only: with `A − min A`, so that nothing is pushed down; it shows what pushing down is worth.

    Raises:
        ConfigError: the role is not a name.

    Identities: no gradient where all scores are equal.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(torch.tensor([-12.0, -11.0]), torch.zeros(2))
        >>> columns = {"score": torch.tensor([1.0, 3.0, 0.0, 0.0])}
        >>> reinforce("chosen")(replace(scores, cases=replace(scores.cases, columns=columns))).loss_P
        tensor([-8.4853,  7.7782])

    Source: arXiv 2404.14367, section 3 and the released bandit code; Williams, 1992.
    """
    settings = dict(locals())
    check_roles(role=role)

    def compute(scores: Scores, state: State) -> Outcome:
        score_P = scores.at(role, scores.cases.columns["score"]).to(scores.logp.dtype)
        all_P, own = everyone(score_P)
        advantage_P = standardised(all_P, all_P.mean(), spread(all_P))
        advantage_P = (advantage_P - advantage_P.min() if positive_only else advantage_P)[own]
        return Outcome(-advantage_P * scores.at(role, log_likelihood(scores)))

    needs = Needs(frozenset({role}), columns=frozenset({"score"}), batch=True)
    return single(reinforce, compute, needs, settings)
