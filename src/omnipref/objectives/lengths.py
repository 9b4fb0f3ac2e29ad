"""Objectives that keep the length of a response from passing for its quality.

Notation as in `pairwise`: `ρ` log-ratio to the reference, `Δ = ρ_w − ρ_l`, `n` number of units. `dpo(reduce="mean")`,
`ipo` and `simpo` divide by the length instead.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.paired import paired
from omnipref.objectives.ratio import difference, log_ratio
from omnipref.objectives.reduce import decayed, tail_weighted
from omnipref.objectives.units import drawn_units, head_units, shared_length
from omnipref.scores import Scores


def length_dpo(
    *, beta: float = 0.1, alpha: float = 0.05, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Length-regularised DPO (R-DPO): long responses must be better by more.

    `L = −log σ(βΔ + α(n_w − n_l))`, reward `βρ + αn`: the policy that is best for `r − αn` has
    `r = βρ + αn` up to a constant.

    Not robust DPO (rDPO, `robust_dpo`), nor DPO with rationales (RDPO).

    Args:
        beta: `β > 0`, per nat.
        alpha: `α ≥ 0`, reward per unit of length; the paper searches 0.005 to 1.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper; the sign follows from the reward. A public re-implementation has the other one.

    Identities: `dpo` at `α = 0` and for equal lengths.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> length_dpo()(scores).loss_P
        tensor([0.5981])

    Source: arXiv 2403.19159.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, alpha=alpha)

    def reward(scores: Scores) -> Tensor:
        return beta * log_ratio(scores) + alpha * scores.mask.sum(1)

    return paired(length_dpo, settings, (chosen, rejected), reward, lambda better, worse: logistic(better - worse))


def ld_dpo(*, beta: float = 0.1, alpha: float = 0.5, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Length-desensitised DPO (LD-DPO): what a response has beyond the length of the other counts less.

    `L = −log σ(β(ρ̃_w − ρ̃_l))`, `ρ̃ = Σ_{t≤n} ρ_t + α Σ_{t>n} ρ_t` with `n = min(n_w, n_l)`, the same cut under policy
    and reference; reward `βρ̃`.

    Args:
        beta: `β > 0`, per nat.
        alpha: `α` in [0, 1], what the rest counts.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: log 2 where policy = reference; `dpo` at `α = 1` and for equal lengths.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> ld_dpo()(scores).loss_P
        tensor([0.5981])

    Source: arXiv 2409.06411; TRL's `ld_alpha`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 1, closed_high=True, alpha=alpha)

    def reward(scores: Scores) -> Tensor:
        head_NU = head_units(scores.mask, shared_length(scores, chosen, rejected))
        return beta * log_ratio(scores, tail_weighted(head_NU, alpha))

    return paired(ld_dpo, settings, (chosen, rejected), reward, lambda better, worse: logistic(better - worse))


def sampo(*, beta: float = 0.1, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Down-sampled preference optimisation (SamPO): DPO on equally many units of both responses.

    `L = −log σ(β(ρ̃_w − ρ̃_l))`, `ρ̃` summed over `min(n_w, n_l)` units drawn uniformly and without replacement, anew at
    each step and the same under policy and reference; reward `βρ̃`.

    Args:
        beta: `β > 0`, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: a draw depends on the record's number and on the count of steps, which is kept as state, so a resumed run goes
        on with the same draws. With gradient accumulation every micro-batch is a step.

    Identities: log 2 where policy = reference; `dpo` for equal lengths.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> sampo()(scores).loss_P
        tensor([0.5981])

    Source: arXiv 2406.10957.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        step, count_N = state["step"].to(scores.mask.device), shared_length(scores, chosen, rejected)
        record_N = scores.cases.record_P[scores.cases.preference_N]
        kept = replace(scores, mask=drawn_units(scores.mask, count_N, record_N, step))
        reward_N = beta * log_ratio(kept)
        loss_P = logistic(difference(scores, reward_N, chosen, rejected))
        return Outcome(loss_P, reward_N, state={"step": step + 1})

    start = {"step": torch.zeros((), dtype=torch.long)}
    return single(sampo, compute, Needs(frozenset({chosen, rejected}), reference=True), settings, start)


def decayed_dpo(
    *, beta: float = 0.1, gamma: float = 0.98, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """DPO with temporal decay (D²PO): earlier units count more.

    `L = −log σ(β(ρ̃_w − ρ̃_l))` with `ρ̃ = Σ_t γ^t ρ_t`; reward `βρ̃`.

    Not the online method of the same letters (D2PO).

    Args:
        beta: `β > 0`, per nat.
        gamma: `γ` in (0, 1].
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper: `t` counts from 0, so the first unit counts fully.

    Identities: log 2 where policy = reference; `dpo` at `γ = 1`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[[-6.0, -6.0]], [[-7.0, -8.0]], [[-6.0, -7.0]], [[-7.0, -7.0]]]))
        >>> decayed_dpo(gamma=0.5)(scores).loss_P
        tensor([0.6444])

    Source: arXiv 2502.14340.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 1, open_low=True, closed_high=True, gamma=gamma)
    return paired(
        decayed_dpo,
        settings,
        (chosen, rejected),
        lambda scores: beta * log_ratio(scores, decayed(gamma)),
        lambda better, worse: logistic(better - worse),
    )
