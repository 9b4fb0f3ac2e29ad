"""Objectives over two cases of each preference.

Notation: `s` mean log-likelihood per unit under the policy, `ρ` log-ratio to the reference, `w` the chosen and `l` the
rejected case, `Δ = ρ_w − ρ_l`; a bar is a mean per unit. Any two roles can be compared:
`dpo(rejected="chosen@negative_image")` prefers the same answer under the right picture.

Methods that are made of these, with other data or another reference, need no constructor of their own:

- conservative DPO (cDPO): `dpo(label_smoothing=0.1)`; length-normalised DPO (LN-DPO): `dpo(beta=5.0, reduce="mean")`;
- DPO with fine-tuning (iterative reasoning preference optimisation, arXiv 2404.19733): `dpo() + sft()`;
- self-play fine-tuning (SPIN, arXiv 2401.01335): `dpo(beta=λ)` where demonstrations are chosen and samples of the
  previous iterate, which is also the reference, are rejected;
- behaviour-proximal preference optimisation (BPO, arXiv 2406.12168): `dpo()` where the policy that wrote the pairs
  is the reference;
- online DPO (OAIF, arXiv 2402.04792): `dpo()` with `omnipref train --online "best_vs_worst(reward=..., n=2)"`;
- direct Nash optimisation (DNO-Prct, arXiv 2404.03715): `dpo()` in rounds, on pairs of the model's own samples and a
  teacher's whose gap is large; IPO-MD (arXiv 2403.08635): `ipo()` on samples of a mixture of policy and reference;
- trust-region DPO (TR-DPO, arXiv 2404.09656): `dpo()` with `omnipref train --sync-ref-model`;
- triple preference optimisation (TPO, arXiv 2405.16681, not Tree-TPO): `cpo(alpha=0.0) + sft("gold")` with a gold
  response of its own; per token (TPO-L): `simpo() + sft("gold")`; IPO's: `ipo(reference=False) + sft("gold")`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.objectives.checks import check_choice, check_number, check_roles
from omnipref.objectives.links import LINKS, logistic, square
from omnipref.objectives.noise import smooth
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_likelihood, log_ratio
from omnipref.objectives.reduce import REDUCTIONS, mean
from omnipref.scores import Scores


def dpo(
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    reduce: str = "total",
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Direct preference optimisation.

    `L = −(1 − ε) log σ(βΔ) − ε log σ(−βΔ)`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat: how hard the policy is held to the reference.
        label_smoothing: `ε` in [0, 0.5), the share of labels believed flipped (conservative DPO).
        reduce: `total` for log-ratios of whole responses; `mean` per unit (length-normalised DPO, `β` near 5).
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: log 2 where policy = reference, for any `β` and `ε`; `plackett_luce(beta)` on pairs;
        `gpo(link="logistic")` at `ε = 0`; `L(w, l) − L(l, w) = −(1 − 2ε)βΔ`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> dpo(beta=0.1)(scores).loss_P
        tensor([0.5981])

    Source: arXiv 2305.18290, equation (7); smoothing: E. Mitchell, 2023.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 0.5, label_smoothing=label_smoothing)
    check_roles(chosen=chosen, rejected=rejected)
    reduction = check_choice("reduce", reduce, REDUCTIONS)

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N = log_ratio(scores, reduction)
        delta_P = difference(scores, rho_N, chosen, rejected)
        return Outcome(smooth(logistic, beta * delta_P, label_smoothing), beta * rho_N)  # (7) of 2305.18290

    return single(dpo, compute, Needs(frozenset({chosen, rejected}), reference=True), settings)


def ipo(
    *,
    beta: float = 0.1,
    reduce: str = "mean",
    reference: bool = True,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Identity preference optimisation: the margin is drawn to a finite target.

    `L = (Δ̄ − 1/(2β))²`, reward `βρ̄`; without a reference `s` stands in place of `ρ̄`.

    Args:
        beta: `τ > 0` of the paper, per nat; the target is its inverse, so a larger `β` means a smaller margin.
        reduce: `mean`, which the authors confirmed and TRL uses; `total` as the paper's equation is written.
        reference: whether log-ratios are compared; without, log-likelihoods, as in TRL's `CPOTrainer`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `1/(4β²)` where policy = reference, 0 at the target; `gpo(link="square", beta=2β) / (4β²)` with totals.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> ipo(beta=0.1)(scores).loss_P
        tensor([9.])

    Source: arXiv 2310.12036, equation (17).
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected)
    reduction = check_choice("reduce", reduce, REDUCTIONS)
    value = log_ratio if reference else log_likelihood

    def compute(scores: Scores, state: State) -> Outcome:
        value_N = value(scores, reduction)
        delta_P = difference(scores, value_N, chosen, rejected)
        return Outcome(square(delta_P, 1 / (2 * beta)), beta * value_N)  # (17) of 2310.12036

    return single(ipo, compute, Needs(frozenset({chosen, rejected}), reference=reference), settings)


def gpo(*, link: str = "logistic", beta: float = 0.1, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Generalised preference optimisation: any link on DPO's margin.

    `L = f(βΔ)`, reward `βρ`.

    Args:
        link: `f`, one of `logistic`, `hinge`, `square`, `exponential`, `truncated_square`, `savage`.
        beta: `β > 0`, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range, or an unknown link.

    Identities: `logistic` is `dpo`, `hinge` is `hinge`; `f(0)` where policy = reference.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> gpo(link="exponential")(scores).loss_P
        tensor([0.8187])

    Source: arXiv 2402.05749.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected)
    function = check_choice("link", link, LINKS)

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N = log_ratio(scores)
        return Outcome(function(beta * difference(scores, rho_N, chosen, rejected)), beta * rho_N)

    return single(gpo, compute, Needs(frozenset({chosen, rejected}), reference=True), settings)


def hinge(*, beta: float = 0.05, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Hinge loss on DPO's margin, as in RSO.

    `L = max(0, 1 − βΔ)`, reward `βρ`.

    Args:
        beta: `γ > 0` of the paper, per nat; the loss ends at a margin of `1/β` nats.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: 1 where policy = reference; 0, with no gradient, from `Δ = 1/β` on.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> hinge(beta=0.1)(scores).loss_P
        tensor([0.8000])

    Source: arXiv 2309.06657 (RSO); without the reference: 2305.10425 (SLiC).
    """
    settings = dict(locals())
    (term,) = gpo(link="hinge", beta=beta, chosen=chosen, rejected=rejected).terms
    return single(hinge, term.compute, term.needs, settings)


def simpo(
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    label_smoothing: float = 0.0,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Simple preference optimisation: mean log-likelihoods, a target margin, no reference.

    `L = −log σ(β(s_w − s_l) − γ)`, reward `βs`.

    Args:
        beta: `β > 0`, per nat and unit; the paper searches 2 to 10.
        gamma: `γ ≥ 0`, the margin of rewards that is asked for; the paper searches 0.3 to 1.6.
        label_smoothing: `ε` in [0, 0.5), the share of labels believed flipped, as in `dpo`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `log(1 + e^γ)` for equal responses; ignores the reference; `γ = 0` is `dpo(reduce="mean")` under a
        reference that gives both cases the same mean.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> simpo(beta=2.0, gamma=1.0)(pair_scores(torch.tensor([-2.0]), torch.tensor([-1.875]))).loss_P
        tensor([1.5019])

    Source: arXiv 2405.14734, equation (6).
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, gamma=gamma)
    check_number(0, 0.5, label_smoothing=label_smoothing)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_likelihood(scores, mean)
        margin_P = difference(scores, reward_N, chosen, rejected) - gamma
        return Outcome(smooth(logistic, margin_P, label_smoothing), reward_N)  # (6) of 2405.14734

    return single(simpo, compute, Needs(frozenset({chosen, rejected})), settings)


def orpo(*, beta: float = 0.1, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Odds-ratio preference optimisation: fine-tuning on the chosen case plus a ratio of odds, no reference.

    `L = −s_w − λ log σ(o_w − o_l)` with log-odds `o = s − log(1 − e^s)`; reward `λs`.

    Args:
        beta: `λ > 0`, the weight of the odds term.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: the fine-tuning part is the mean over the response's own units. The released code averages over all tokens
        of the batch, prompts included, so that long responses weigh more.

    Identities: `sft(chosen) + λ log 2` for equally likely responses.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> orpo(beta=0.1)(pair_scores(torch.tensor([-2.0]), torch.tensor([-1.875]))).loss_P
        tensor([2.0769])

    Source: arXiv 2403.07691, equations (6) and (7).
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        logp_N = log_likelihood(scores, mean)
        ratio_P = logistic(difference(scores, log_odds(logp_N), chosen, rejected))  # (7) of 2403.07691
        return Outcome(beta * ratio_P - scores.at(chosen, logp_N), beta * logp_N)  # (6) of 2403.07691

    return single(orpo, compute, Needs(frozenset({chosen, rejected})), settings)


def log_odds(logp: Tensor) -> Tensor:
    """`log p − log(1 − p)` from `log p < 0`, exact near both ends; `log p` counts as at most −ε of its type.

    Example:
        >>> log_odds(torch.tensor([0.5]).log())
        tensor([0.])
    """
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    complement = torch.where(logp > -0.6931, torch.log(-torch.expm1(logp)), torch.log1p(-torch.exp(logp)))
    return logp - complement
