"""Pairwise objectives that need no reference: the likelihood itself is the reward.

Notation: `S` log-likelihood of a case under the policy, `s` its mean per unit, `w` the chosen and `l` the rejected
case. `simpo` and `orpo` are in `pairwise`.
"""

from __future__ import annotations

import torch

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.divergences import box_cox
from omnipref.objectives.links import logistic
from omnipref.objectives.noise import smooth
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.paired import paired
from omnipref.objectives.ratio import difference, log_likelihood
from omnipref.objectives.reduce import mean
from omnipref.scores import Scores


def cpo(
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Contrastive preference optimisation (CPO): DPO under a uniform reference, plus fine-tuning on the chosen case.

    `L = −log σ(β(S_w − S_l)) − α s_w`, reward `βS`.

    Not chain of preference optimisation, nor controllable preference optimisation.

    Args:
        beta: `β > 0`, per nat.
        alpha: `α ≥ 0`, weight of the fine-tuning.
        label_smoothing: `ε` in [0, 0.5), the share of labels believed flipped, as in `dpo`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: the fine-tuning part is the mean over the response's own units. The released code averages over all tokens of
        the batch, so that long responses weigh more.

    Identities: at `α = 0`, `dpo` under a reference that finds both cases equally likely; in general that `+ α sft()`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> cpo(alpha=0.0)(pair_scores(torch.tensor([-12.0]), torch.tensor([-15.0]))).loss_P
        tensor([0.5544])

    Source: arXiv 2401.08417, equations (3) and (5); TRL's `CPOTrainer`, `sigmoid`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, alpha=alpha)
    check_number(0, 0.5, label_smoothing=label_smoothing)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_likelihood(scores)
        tuning_P = -scores.at(chosen, log_likelihood(scores, mean))
        loss_P = smooth(logistic, difference(scores, reward_N, chosen, rejected), label_smoothing)
        return Outcome(loss_P + alpha * tuning_P, reward_N)

    return single(cpo, compute, Needs(frozenset({chosen, rejected})), settings)


def slic(
    *,
    delta: float = 1.0,
    regularization: float = 1.0,
    target: str = "chosen",
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Sequence likelihood calibration from human feedback (SLiC-HF): a margin of log-likelihoods, and fine-tuning.

    `L = max(0, δ − S_w + S_l) − λ S_target`, reward `S`.

    Args:
        delta: `δ ≥ 0`, in nats; the paper searches 0.1 to 2.
        regularization: `λ ≥ 0`, weight of the fine-tuning; the paper searches 0.1 to 10.
        target: role of the case to fit: the chosen one, or one with the reference answer.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper: log-likelihoods of whole responses, in both parts.

    Identities: `δ − λS` for equally likely responses; at `λ = 0` and `δ = 1/β` it is `1/β` times `hinge(β)` under a
        reference that finds both cases equally likely.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> slic(delta=4.0, regularization=0.1)(pair_scores(torch.tensor([-12.0]), torch.tensor([-15.0]))).loss_P
        tensor([2.2000])

    Source: arXiv 2305.10425, equation (5).
    """
    settings = dict(locals())
    check_number(0, delta=delta, regularization=regularization)
    check_roles(target=target)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        logp_N = log_likelihood(scores)
        short_P = torch.relu(delta - difference(scores, logp_N, chosen, rejected))
        return Outcome(short_P - regularization * scores.at(target, logp_N), logp_N)

    return single(slic, compute, Needs(frozenset({chosen, rejected, target})), settings)


def alphapo(
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    alpha: float = 0.25,
    label_smoothing: float = 0.0,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """AlphaPO: SimPO with a reward of another shape, which decides how far likelihoods are displaced.

    `L = −log σ(β(t_w − t_l) − γ)` with `t = (1 − e^{−αs})/α`, reward `βt`.

    Args:
        beta: `β > 0`.
        gamma: `γ ≥ 0`, the margin of rewards that is asked for.
        alpha: `α`, any number; 0 is SimPO. 0.25 is near the paper's best, by our reading.
        label_smoothing: `ε` in [0, 0.5), the share of labels believed flipped, as in `dpo`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: `−αs` counts as at most 80.

    Identities: `simpo` as `α → 0`; `log(1 + e^γ)` for equal responses; ignores the reference.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> alphapo(beta=2.0, gamma=1.0)(pair_scores(torch.tensor([-2.0]), torch.tensor([-1.875]))).loss_P
        tensor([1.6251])

    Source: arXiv 2501.03884; TRL's `CPOTrainer`, `alpha`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, gamma=gamma)
    check_number(alpha=alpha)
    check_number(0, 0.5, label_smoothing=label_smoothing)
    return paired(
        alphapo,
        settings,
        (chosen, rejected),
        lambda scores: beta * box_cox(log_likelihood(scores, mean), -alpha),
        lambda better, worse: smooth(logistic, better - worse - gamma, label_smoothing),
        reference=False,
    )


def simper(*, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """SimPER: the chosen response's inverse perplexity up, the rejected one's down; nothing to tune.

    `L = e^{s_l} − e^{s_w}`, reward `e^s`, the inverse perplexity.

    Args:
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: the two roles are not two names.

    Here: our reading of the paper.

    Identities: 0 for equally likely responses; within −1 and 1; `L(w, l) + L(l, w) = 0`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> simper()(pair_scores(torch.tensor([-2.0]), torch.tensor([-1.875]))).loss_P
        tensor([0.0180])

    Source: arXiv 2502.00883.
    """
    return paired(
        simper,
        dict(locals()),
        (chosen, rejected),
        lambda scores: log_likelihood(scores, mean).exp(),
        lambda better, worse: worse - better,
        reference=False,
    )


def soft_spo(*, alpha: float = 0.1, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Soft preference optimisation (SPO), its part on pairs: the likelihoods themselves must order the two.

    `L = −(1/α) log [e^{αS_w} / (e^{αS_w} + e^{αS_l})]`, reward `αS`. The method adds `β KL(π_θ ‖ π_ref)` on the
    policy's own samples.

    Not minimax SPO (self-play), step-aware SPO, self-supervised SPO or sequential preference optimisation.

    Args:
        alpha: `α > 0`, the softmax's exponent; larger is harder.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper; the default exponent is ours.

    Identities: `log 2 / α` for equally likely responses; `cpo(beta=α, alpha=0) / α`; `max(0, S_l − S_w)` as `α → ∞`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> soft_spo(alpha=0.1)(pair_scores(torch.tensor([-12.0]), torch.tensor([-15.0]))).loss_P
        tensor([5.5436])

    Source: arXiv 2405.00747.
    """
    settings = dict(locals())
    check_number(0, open_low=True, alpha=alpha)
    return paired(
        soft_spo,
        settings,
        (chosen, rejected),
        lambda scores: alpha * log_likelihood(scores),
        lambda better, worse: logistic(better - worse) / alpha,
        reference=False,
    )
