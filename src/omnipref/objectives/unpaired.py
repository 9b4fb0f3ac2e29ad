"""Objectives over single cases that are labelled desirable or undesirable; a pair labels its two cases.

`ρ` is the log-ratio of a case to the reference. Likes, pairs and mixtures of both are taken alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from omnipref.objectives.batch import batch_mean, running_mean
from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_ratio
from omnipref.scores import Cases, Scores

Baseline = tuple[Callable[[Scores, Tensor], Tensor], bool]
"""From scores and log-ratios `[N]` to what `z` is the mean of, and whether it couples the preferences of a batch."""

BASELINES: Mapping[str, Baseline] = {
    "batch": (lambda scores, rho_N: rho_N[scores.cases.label_N != 0], True),
    "zero": (lambda scores, rho_N: rho_N.new_zeros(1), False),
}
"""What the argument `baseline` of `kto` may name beside a role."""


def kto(
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    baseline: str = "mismatched",
) -> Objective:
    """Kahneman-Tversky optimisation: each case against a reference point, gains and losses saturating.

    Desirable `λ_D (1 − σ(β(ρ − z)))`, undesirable `λ_U (1 − σ(β(z − ρ)))`, with `z = max(0, mean ρ of the baseline)`
    over the global batch, without gradient. A preference's loss is the mean over its labelled cases, so the mean over
    preferences is the mean over cases where all preferences have equally many. Reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        desirable_weight: `λ_D ≥ 0`.
        undesirable_weight: `λ_U ≥ 0`; keep `λ_D n_D / (λ_U n_U)` within 1 to 4/3.
        baseline: role of the cases that give `z`: a response that belongs to another prompt, as in the paper; or
            `batch`, the labelled cases themselves, as in Diffusion-KTO, which needs no further case; or `zero`, for
            which `z = 0` (APO-zero on single cases).

    Raises:
        ConfigError: an argument is out of range.

    Identities: `λ/2` where policy = reference; on pairs, swapping the labels maps `L` to `1 − L` where `λ = 1`;
        `apo_zero(beta)/2` on pairs with `zero`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> kto(baseline="batch")(scores).loss_P
        tensor([0.4750])

    Source: arXiv 2402.01306, equation (7); `batch`: arXiv 2404.04465; `zero`: TRL's `apo_zero_unpaired`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    check_roles(baseline=baseline)
    role: Baseline = (lambda scores, rho_N: scores.at(baseline, rho_N), True)
    picked, coupled = BASELINES.get(baseline, role)

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N, label_N = log_ratio(scores), scores.cases.label_N
        z = batch_mean(picked(scores, rho_N)).clamp(min=0)
        weight_N = torch.where(label_N > 0, desirable_weight, undesirable_weight)
        loss_N = weight_N * (1 - torch.sigmoid(label_N * (beta * (rho_N - z))))  # (7) of 2402.01306
        count_P = labelled_sum(torch.ones_like(loss_N), scores.cases)
        return Outcome(labelled_sum(loss_N, scores.cases) / count_P, beta * rho_N, {"kl": z})

    roles = frozenset({baseline} - set(BASELINES))
    return single(kto, compute, Needs(roles, reference=True, labels=True, batch=coupled), settings)


def kto_pair(*, beta: float = 0.1, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """KTO on pairs in its old form: each half of the batch is the other half's reference point.

    `L = ½ [1 − σ(β(ρ_w − z_l))] + ½ [1 − σ(β(z_w − ρ_l))]`, with `z_w`, `z_l = max(0, mean ρ)` of the chosen and of the
    rejected cases over the global batch, without gradient; reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: the mean of a preference's two parts, so that the mean over preferences is that over cases, as in `kto`. Early
        TRL differentiated `z` as well.

    Identities: ½ where policy = reference; `apo_zero(beta)/2` where both means are negative; `kto` where both are
        equal.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> kto_pair()(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.4626])

    Source: early TRL's `kto_pair`, after arXiv 2402.01306.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_ratio(scores)
        better_P, worse_P = (scores.at(role, reward_N) for role in (chosen, rejected))
        above, below = (batch_mean(part_P).clamp(min=0) for part_P in (better_P, worse_P))
        loss_P = (torch.sigmoid(below - better_P) + torch.sigmoid(worse_P - above)) / 2
        return Outcome(loss_P, reward_N, {"chosen_kl": above / beta, "rejected_kl": below / beta})

    return single(kto_pair, compute, Needs(frozenset({chosen, rejected}), reference=True, batch=True), settings)


def bco(*, beta: float = 0.1, shift: bool = True, momentum: float | None = None) -> Objective:
    """Binary classifier optimisation: is this case desirable? With a running shift of the rewards.

    Desirable `−log σ(βρ − δ)`, undesirable `−log σ(−(βρ − δ))`, reward `βρ`. A preference's loss is the sum over its
    labelled cases: for pairs the sum of the two class means, as in the paper. `δ` is the mean over all batches so far,
    the current one included, of the batch's mean `βρ`; without gradient, over the global batch, and kept as state.

    Args:
        beta: `β > 0`, per nat; TRL's default, where the survey lists 0.01 for models of billions of weights.
        shift: whether `δ` is used; without it the loss is TRL's `bco_pair` on pairs.
        momentum: in [0, 1), for an exponential instead of the plain mean: `δ ← mδ + (1 − m)·batch`.

    Raises:
        ConfigError: an argument is out of range.

    Here: the released weight of undesirable cases by a density ratio is left to the column `weight`. With gradient
        accumulation every micro-batch counts as a batch for `δ`, as in the released code.

    Identities: log 2 per labelled case where policy = reference; the gradient of a case does not depend on the other
        cases but through `δ`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> outcome = bco(beta=0.1)(scores)
        >>> outcome.loss_P, outcome.state["bco/shift"]
        (tensor([1.2888]), tensor(0.))

    Source: arXiv 2404.04656; on pairs inside a mixed loss: arXiv 2411.10442.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 1, momentum=0.0 if momentum is None else momentum)
    initial = {"shift": torch.zeros(()), "count": torch.zeros(())} if shift else {}

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N, label_N = beta * log_ratio(scores), scores.cases.label_N
        delta = reward_N.new_zeros(())
        following: dict[str, Tensor] = {}
        if shift:
            before = {name: value.to(reward_N.device) for name, value in state.items()}
            delta = running_mean(before["shift"], before["count"], batch_mean(reward_N[label_N != 0]), momentum)
            following = {"shift": delta, "count": before["count"] + 1}
        loss_N = logistic(label_N * (reward_N - delta))
        return Outcome(labelled_sum(loss_N, scores.cases), reward_N, {"shift": delta}, following)

    return single(bco, compute, Needs(reference=True, labels=True, batch=shift), settings, initial)


def labelled_sum(value_N: Tensor, cases: Cases) -> Tensor:
    """The sum over each preference's labelled cases: `[N]` to `[P]`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> labelled_sum(torch.tensor([1.0, 2.0]), pair_scores(torch.zeros(1), torch.zeros(1)).cases)
        tensor([3.])
    """
    labelled_N = cases.label_N != 0
    return value_N.new_zeros(cases.count).index_add(0, cases.preference_N[labelled_N], value_N[labelled_N])
