"""Objectives on responses that were sampled: from the policy itself, from the reference, or from a mixture of both.

`ρ` is the log-ratio of a case to the reference, `S` its log-likelihood, `t` counts its units. These are surrogates on
given scores; sampling and judging are the builders' and schedules' part. Samples go stale: a gradient that is taken for
one of an expectation over the policy is so only while they are the policy's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.errors import ConfigError, NeedsError
from omnipref.objectives.checks import check_column, check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_likelihood, log_ratio
from omnipref.objectives.reduce import token_weighted
from omnipref.scores import Scores


def nash_md(*, beta: float = 0.1, role: str = "completion") -> Objective:
    """Nash mirror descent (Nash-MD): a policy gradient towards what beats a mixture of policy and reference.

    `L = β Σ_t sg[ρ_t] S_t − (P − ½) S`, no reward of its own. `P` is the probability that the case, a sample of
    the policy, is preferred to a sample of the geometric mixture `π_θ^{1−m} π_ref^m`: the column `score` of the case.
    `sg` carries no gradient. The value means nothing; the gradient does.

    Args:
        beta: `β > 0`, weight of the divergence from the reference, per nat.
        role: the sample of the policy.

    Raises:
        ConfigError: an argument is out of range.
        NeedsError: a score is not a probability; names the records.

    Identities: `(P − ½) n · sft` as `β → 0` for n units; no gradient at `P = ½` where policy = reference.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([0.75, 0.25])}))
        >>> nash_md(role="chosen")(scores).loss_P
        tensor([1.8000])

    Source: arXiv 2312.00886; early TRL's `NashMDTrainer`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(role=role)

    def compute(scores: Scores, state: State) -> Outcome:
        score_P = scores.at(role, scores.cases.columns["score"])
        check_column(scores.cases, "score", (score_P >= 0) & (score_P <= 1), "probabilities, from 0 to 1")
        rho_NU = torch.where(scores.mask, unit_log_ratio(scores), 0.0)
        drift_N = token_weighted(scores.logp, scores.mask, rho_NU)
        gain_P = (score_P - 0.5) * scores.at(role, log_likelihood(scores))
        return Outcome(beta * scores.at(role, drift_N) - gain_P)

    return single(nash_md, compute, Needs(frozenset({role}), reference=True, columns=frozenset({"score"})), settings)


def optimism(role: str = "reference_sample") -> Objective:
    """Exploration by optimism, XPO's bonus: what the reference would say becomes less likely.

    `L = S`, the whole log-likelihood of a sample of the reference, no reward. On its own it has no bound below; give it
    a small weight beside a preference loss, `dpo() + 1e-5 * optimism()`.

    Args:
        role: the sample of the reference.

    Raises:
        ConfigError: the role is not a name.

    Identities: `−n · sft(role)` for n units.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> optimism("rejected")(pair_scores(torch.tensor([-12.0]), torch.tensor([-15.0]))).loss_P
        tensor([-15.])

    Source: arXiv 2405.21046 (XPO).
    """
    settings = dict(locals())
    check_roles(role=role)

    def compute(scores: Scores, state: State) -> Outcome:
        return Outcome(scores.at(role, log_likelihood(scores)))

    return single(optimism, compute, Needs(frozenset({role})), settings)


def xpo(
    *,
    beta: float = 0.1,
    alpha: float = 1e-5,
    chosen: str = "chosen",
    rejected: str = "rejected",
    sampled: str = "reference_sample",
) -> Objective:
    """Exploratory preference optimisation (XPO): DPO on a sample of the policy and one of the reference, and optimism.

    `L = −log σ(βΔ) + α S(ỹ)`, reward `βρ`, with `ỹ` the sample of the reference, one of the two that were judged.

    Args:
        beta: `β > 0`, per nat.
        alpha: `α ≥ 0`, weight of the optimism, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.
        sampled: role of `ỹ`: the same case once more, or `chosen` or `rejected` where it is always that one.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `dpo(beta) + α · optimism(sampled)`; `dpo(beta)` at `α = 0`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> xpo(alpha=0.01, sampled="rejected")(scores).loss_P
        tensor([0.4481])

    Source: arXiv 2405.21046; early TRL's `XPOTrainer`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, alpha=alpha)
    check_roles(chosen=chosen, rejected=rejected)
    check_roles(sampled=sampled)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_ratio(scores)
        bonus_P = alpha * scores.at(sampled, log_likelihood(scores))
        loss_P = logistic(difference(scores, reward_N, chosen, rejected)) + bonus_P
        return Outcome(loss_P, reward_N, {"bonus": bonus_P.detach().mean()})

    return single(xpo, compute, Needs(frozenset({chosen, rejected, sampled}), reference=True), settings)


def sampled_kl(*, samples: int = 2) -> Objective:
    """`KL(π_θ ‖ π_ref)` on the policy's own samples, with the gradient of the expectation: soft SPO's second part.

    `L = mean_k ρ_k`, no reward. Its gradient is the score function's, `mean_k A_k ∇S_k`, with each sample's log-ratio
    less the mean of the others as `A_k` (leave one out), not that of the value, which would only push its own samples
    down. `soft_spo() + 0.1 * sampled_kl()` is soft preference optimisation.

    Args:
        samples: K, at least 2: roles `sample_0` ... `sample_{K-1}`, independent samples of the policy.

    Raises:
        ConfigError: fewer than two samples.

    Here: our reading of the paper, which leaves the estimator open.

    Identities: 0 without gradient where policy = reference; no gradient where all samples have one log-ratio.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> rows = {"sample_0": torch.tensor([0]), "sample_1": torch.tensor([1])}
        >>> sampled_kl()(replace(scores, cases=replace(scores.cases, rows=rows))).loss_P
        tensor([0.])

    Source: soft preference optimisation, arXiv 2405.00747; leave one out: Kool et al., 2019.
    """
    settings = dict(locals())
    if not isinstance(samples, int) or samples < 2:
        raise ConfigError(f"found samples={samples!r}; expected a whole number of 2 or more")
    roles = [f"sample_{k}" for k in range(samples)]

    def compute(scores: Scores, state: State) -> Outcome:
        rho_PK = at_all(scores, roles, log_ratio(scores)).detach()
        logp_PK = at_all(scores, roles, log_likelihood(scores))
        advantage_PK = (rho_PK - rho_PK.mean(1, keepdim=True)) * samples / (samples - 1)
        return Outcome((rho_PK + advantage_PK * (logp_PK - logp_PK.detach())).mean(1))

    return single(sampled_kl, compute, Needs(frozenset(roles), reference=True), settings)


def unit_log_ratio(scores: Scores) -> Tensor:
    """`ρ_t`, the log-ratio of each unit to the reference, `[N, U]`; anything where the mask is false.

    Raises:
        NeedsError: the scores hold no reference.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> unit_log_ratio(pair_scores(*torch.tensor([[[-1.0, -3.0]], [[-2.0, -2.0]], [[-2.0, -2.0]], [[-2.0, -2.0]]])))
        tensor([[ 1., -1.],
                [ 0.,  0.]])
    """
    if scores.ref_logp is None:
        raise NeedsError("found scores without ref_logp; expected log-likelihoods under the reference")
    return scores.logp - scores.ref_logp


def at_all(scores: Scores, roles: list[str], value_N: Tensor) -> Tensor:
    """The values of several roles side by side: `[N]` to `[P, K]`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> at_all(pair_scores(torch.zeros(1), torch.zeros(1)), ["rejected", "chosen"], torch.tensor([1.0, 2.0]))
        tensor([[2., 1.]])
    """
    return torch.stack([scores.at(role, value_N) for role in roles], dim=1)
