"""Objectives that read whole next-token distributions, as extras: language models have them, denoisers do not.

`ρ` is the log-ratio of a case to the reference, `S_t` its log-likelihood at unit `t`, `w` the chosen and `l` the
rejected case, `Δ = ρ_w − ρ_l`. `mallows_dpo` and `epsilon_dpo` belong here too.
"""

from __future__ import annotations

import torch

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_ratio
from omnipref.objectives.reduce import mean, total
from omnipref.scores import Scores


def tdpo1(*, beta: float = 0.1, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Token-level DPO, first form: the rejected response must not drift further from the reference than the chosen.

    `L = −log σ(β[Δ − (K_l − K_w)])` with `K = Σ_t KL(π_ref ‖ π_θ)` over the vocabulary at each unit; reward `β(ρ + K)`.

    Args:
        beta: `β > 0`, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: log 2 where policy = reference; `dpo(beta)` where both divergences are equal.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> tdpo1()(replace(scores, extras={"kl_ref_policy": torch.tensor([[0.4], [0.9]])})).loss_P
        tensor([0.6210])

    Source: arXiv 2404.11999 and its released code.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * (log_ratio(scores) + total(scores.extras["kl_ref_policy"], scores.mask))
        return Outcome(logistic(difference(scores, reward_N, chosen, rejected)), reward_N)

    return single(tdpo1, compute, distribution_needs(chosen, rejected, "kl_ref_policy"), settings)


def tdpo2(*, beta: float = 0.1, alpha: float = 0.5, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Token-level DPO, second form: the divergence on the chosen response is a yardstick and carries no gradient.

    `L = −log σ(β[Δ − α(K_l − sg K_w)])` with `K = Σ_t KL(π_ref ‖ π_θ)` over the vocabulary at each unit, and `sg` for
    no gradient; reward `β(ρ + αK)`.

    Args:
        beta: `β > 0`, per nat.
        alpha: `α ≥ 0`, weight of the divergences.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: log 2 where policy = reference; `dpo(beta)` at `α = 0`; the value of `tdpo1` at `α = 1`.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> tdpo2()(replace(scores, extras={"kl_ref_policy": torch.tensor([[0.4], [0.9]])})).loss_P
        tensor([0.6095])

    Source: arXiv 2404.11999 and its released code.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, alpha=alpha)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N, drift_N = log_ratio(scores), total(scores.extras["kl_ref_policy"], scores.mask)
        apart_P = scores.at(rejected, drift_N) - scores.at(chosen, drift_N).detach()
        margin_P = difference(scores, rho_N, chosen, rejected) - alpha * apart_P
        return Outcome(logistic(beta * margin_P), beta * (rho_N + alpha * drift_N))

    return single(tdpo2, compute, distribution_needs(chosen, rejected, "kl_ref_policy"), settings)


def wpo(*, beta: float = 0.01, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Weighted preference optimisation (WPO): pairs count by how likely the policy is to write such responses itself.

    `L = w_w w_l (−log σ(βΔ))`, `w = exp(mean_t [S_t − log Σ_v π_θ(v)²])` without gradient; reward `βρ`. A token drawn
    from the policy has `E π_θ = Σ π_θ²`, so that responses of its own have weights near 1.

    Args:
        beta: `β > 0`, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: weights above 1 stay, as in TRL; older code clamps their product to 1.

    Identities: `dpo(beta)` times the weight, in value and gradient.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> even = replace(scores, extras={"square_sum": torch.tensor([[-12.0], [-15.0]]).exp()})
        >>> wpo(beta=0.1)(even).loss_P
        tensor([0.5981])

    Source: arXiv 2406.11827, equation (2); TRL's `use_weighting`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_ratio(scores)
        weight_N = torch.exp(mean(scores.logp - scores.extras["square_sum"].log(), scores.mask)).detach()
        weight_P = scores.at(chosen, weight_N) * scores.at(rejected, weight_N)
        loss_P = weight_P * logistic(difference(scores, reward_N, chosen, rejected))  # (2) of 2406.11827
        return Outcome(loss_P, reward_N, {"weight": weight_P.mean()})

    return single(wpo, compute, distribution_needs(chosen, rejected, "square_sum"), settings)


def distribution_needs(chosen: str, rejected: str, *extras: str) -> Needs:
    """What an objective on a pair reads that asks for these extras, beside the reference.

    Example:
        >>> sorted(distribution_needs("chosen", "rejected", "square_sum").extras)
        ['square_sum']
    """
    return Needs(frozenset({chosen, rejected}), reference=True, extras=frozenset(extras))
