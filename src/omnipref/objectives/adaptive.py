"""Objectives whose strength, margin or weights follow statistics of the batch; these carry no gradient.

`ρ` is the log-ratio of a case to the reference, `s` its mean log-likelihood per unit,
`Δ = ρ_w − ρ_l`, a bar is a mean per unit. Batches
are the global ones over all processes. Running means of batches `v ← 0.9 v + 0.1 batch` start at the first batch's own
value (the released codes start at 0), include the current batch and are kept as state. With gradient accumulation every
micro-batch is a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omnipref.objectives.batch import everyone, running_mean, spread, standardised
from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_likelihood, log_ratio
from omnipref.objectives.reduce import mean
from omnipref.objectives.units import uniform
from omnipref.scores import Scores

LEAST_BETA = 1e-3
"""Where β-DPO stops to lower β."""


def beta_dpo(
    *,
    beta: float = 0.1,
    alpha: float = 0.6,
    keep: float = 0.8,
    momentum: float = 0.9,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """DPO with dynamic β (β-DPO): a batch whose pairs are further apart is held harder; outliers are left out.

    `L = −log σ(β_b Δ)` on the pairs kept, 0 on the others, times B/kept, so that the mean over the batch is the mean
    over those kept. `β_b = max(10⁻³, β[1 + a(mean_kept Δ − M)])`; of B pairs, `⌊keep·B⌋` are drawn without replacement
    with probabilities `∝ exp(−½((Δ − M)/d)²)`; `M`, `d` running means of the batch's mean and deviation of `Δ`. Reward
    `β_b ρ`.

    Args:
        beta: `β > 0`, per nat.
        alpha: `a ≥ 0`, per nat.
        keep: share of the pairs that are kept, in (0, 1]; at least one pair is.
        momentum: in [0, 1), of `M` and `d`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: a draw depends on the records' numbers and on the count of batches, which is state, so a resumed run goes on
        with the same draws, and all processes draw alike.

    Identities: `dpo(beta)` at `a = 0`, `keep = 1`; the mean is log 2 where policy = reference.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> beta_dpo(beta=0.1)(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.5981])

    Source: arXiv 2407.08639 and its released code.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, alpha=alpha)
    check_number(0, 1, open_low=True, closed_high=True, keep=keep)
    check_number(0, 1, momentum=momentum)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N = log_ratio(scores)
        delta_P = difference(scores, rho_N, chosen, rejected)
        delta_B, own = everyone(delta_P)
        follow = _followed(state, delta_B, momentum)
        likely_B = -0.5 * standardised(delta_B, follow["mean"], follow["spread"]) ** 2
        count = max(1, math.floor(keep * len(delta_B) + 1e-9))
        kept_B = drawn(likely_B, count, everyone(scores.cases.record_P)[0], follow["count"])
        beta_b = (beta * (1 + alpha * (delta_B[kept_B].mean() - follow["mean"]))).clamp(min=LEAST_BETA)
        loss_P = logistic(beta_b * delta_P) * kept_B[own] * (len(delta_B) / count)
        metrics = {"beta": beta_b, "mean": follow["mean"], "spread": follow["spread"]}
        return Outcome(loss_P, beta_b * rho_N, metrics, follow)

    needs = Needs(frozenset({chosen, rejected}), reference=True, batch=True)
    return single(beta_dpo, compute, needs, settings, _nothing_yet())


def alpha_dpo(
    *,
    beta: float = 2.5,
    gamma_over_beta: float = 0.6,
    alpha: float = 0.2,
    momentum: float = 0.9,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """SimPO with an adaptive margin (α-DPO): pairs on which the policy has moved further must be further apart.

    `L = −log σ(β[(s_w − s_l) − (γ/β + α(Δ̄ − μ)/d)])`, reward `βs`; the bracket in parentheses carries no gradient,
    `μ`, `d` are running means of the batch's mean and deviation of `Δ̄`.

    Args:
        beta: `β > 0`, per nat and unit; released runs: 2.5 and 10.
        gamma_over_beta: `γ/β ≥ 0`, the margin of mean log-likelihoods; released runs: 0.15 to 0.6.
        alpha: `α ≥ 0`, how far the margin adapts; released runs: 0.05 to 0.2.
        momentum: in [0, 1), of `μ` and `d`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: while `d` is 0, as in batches of one pair and where policy = reference, the margin is `γ/β`; the released code
        divides by 0 there.

    Identities: `simpo(beta, gamma)` at `α = 0` and where policy = reference.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> two = pair_scores(*torch.tensor([[-2.0, -2.0], [-1.875, -1.875], [-2.0, -3.0], [-2.0, -2.0]]))
        >>> alpha_dpo(beta=2.0, gamma_over_beta=0.5, alpha=0.1)(two).loss_P
        tensor([1.3938, 1.6135])

    Source: arXiv 2410.10148 and its released code.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, gamma_over_beta=gamma_over_beta, alpha=alpha)
    check_number(0, 1, momentum=momentum)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_likelihood(scores, mean)
        delta_P = difference(scores, log_ratio(scores, mean), chosen, rejected).detach()
        follow = _followed(state, everyone(delta_P)[0], momentum)
        asked_P = gamma_over_beta + alpha * standardised(delta_P, follow["mean"], follow["spread"])
        loss_P = logistic(difference(scores, reward_N, chosen, rejected) - beta * asked_P)
        return Outcome(loss_P, reward_N, {"mean": follow["mean"], "spread": follow["spread"]}, follow)

    needs = Needs(frozenset({chosen, rejected}), reference=True, batch=True)
    return single(alpha_dpo, compute, needs, settings, _nothing_yet())


def dr_dpo(
    *, beta: float = 0.1, temperature: float = 1.0, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Distributionally robust DPO (Dr. DPO): pairs that the policy finds wrong, perhaps mislabelled, count less.

    `L = −β' log mean_B exp(log σ(βΔ)/β')` for every preference of the batch, reward `βρ`. A pair's own gradient is
    DPO's times `w / mean_B w` with `w = exp(log σ(βΔ)/β')`.

    Args:
        beta: `β > 0`, per nat.
        temperature: `β' > 0`; the smaller, the less a doubtful pair counts.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper.

    Identities: log 2 where policy = reference; `dpo(beta)` for a batch of one; its mean as `β' → ∞`; the least loss of
        the batch as `β' → 0`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> zero = torch.zeros(2)
        >>> dr_dpo()(pair_scores(torch.tensor([2.0, -2.0]), zero, zero, zero)).loss_P
        tensor([0.6931, 0.6931])

    Source: arXiv 2407.07880.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta, temperature=temperature)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_ratio(scores)
        likely_P = -logistic(difference(scores, reward_N, chosen, rejected)) / temperature
        likely_B, own = everyone(likely_P)
        level = likely_B.logsumexp(0) - math.log(len(likely_B))
        weight_P = torch.exp(likely_B[own] - level)
        # The batch's value for every preference, and each one's own part of the gradient.
        loss_P = -temperature * (level + weight_P * (likely_P - likely_P.detach()))
        return Outcome(loss_P, reward_N, {"weight_max": weight_P.max()})

    return single(dr_dpo, compute, Needs(frozenset({chosen, rejected}), reference=True, batch=True), settings)


def drawn(log_weight_P: Tensor, count: int, record_P: Tensor, step: Tensor) -> Tensor:
    """Which `count` preferences are drawn without replacement, with probabilities in proportion to weights: `[P]` bool.

    The draw is a function of the records' numbers and of the step alone: the order of the batch does not matter. The
    largest of `log w + G` with Gumbel noise `G` are such a draw.

    Args:
        log_weight_P: `[P]`.
        count: how many.
        record_P: number of each record.
        step: integer scalar; another step is another draw.

    Example:
        >>> drawn(torch.tensor([0.0, 0.0, -1e3]), 2, torch.arange(3), torch.tensor(0))
        tensor([ True,  True, False])
    """
    gumbel_P = -torch.log(-torch.log(uniform(record_P, step).to(log_weight_P.dtype)))
    place_P = (log_weight_P + gumbel_P).argsort(descending=True, stable=True).argsort()
    return place_P < count


def _nothing_yet() -> State:
    return {"mean": torch.zeros(()), "spread": torch.zeros(()), "count": torch.zeros((), dtype=torch.long)}


def _followed(state: State, value_B: Tensor, momentum: float) -> dict[str, Tensor]:
    """The running mean and spread after this batch; a batch of one tells nothing of the spread, which starts later."""
    now = {name: value.to(value_B.device) for name, value in state.items()}
    wide = now["spread"]
    if len(value_B) > 1:
        wide = running_mean(wide, (wide > 0).long(), spread(value_B), momentum)
    centre = running_mean(now["mean"], now["count"], value_B.mean(), momentum)
    return {"mean": centre, "spread": wide, "count": now["count"] + 1}
