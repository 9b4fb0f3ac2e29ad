"""Pairwise objectives that read a column of the records: by how much, how surely, or how long ago a case was preferred.

Notation as in `pairwise`: `ρ` log-ratio to the reference, `Δ = ρ_w − ρ_l`. A column is one number per case (`score`,
which records give as `score/<role>`) or one per record (`margin`, or any other name); columns carry no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from omnipref.errors import ConfigError
from omnipref.objectives.checks import check_choice, check_column, check_number, check_roles
from omnipref.objectives.links import LINKS, logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_ratio, stated_margin
from omnipref.scores import Scores


def odpo(
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
    column: str = "score",
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """DPO with an offset (ODPO): the better a response is said to be, the larger the margin that is asked for.

    `L = −log σ(βΔ − α log(score_w − score_l))`, reward `βρ`. Equal scores ask for nothing: loss 0.

    Args:
        beta: `β > 0`, per nat.
        alpha: `α ≥ 0`, rewards per factor e of the difference of scores.
        column: `score` of the cases, or a column with the difference itself, such as `margin`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.
        NeedsError: a chosen case has a lower score than its rejected one; names the records.

    Here: our reading of the paper.

    Identities: `dpo` at `α = 0` and where scores differ by 1.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> from dataclasses import replace
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([4.0, 1.5])}))
        >>> odpo()(scores).loss_P
        tensor([1.1141])

    Source: arXiv 2402.10571.
    """
    settings = dict(locals())
    check_number(0, alpha=alpha)

    def loss(delta_P: Tensor, scores: Scores) -> Tensor:
        stated_P = stated_margin(scores, column, chosen, rejected)
        check_column(scores.cases, column, stated_P >= 0, f"`{chosen}` not to be worse than `{rejected}`")
        # With no offset a score that is equal must not turn 0 * log 0 into a loss that is not a number.
        return logistic(delta_P - alpha * torch.log(stated_P) if alpha else delta_P)

    return _graded(odpo, settings, beta, (chosen, rejected), loss, (column,))


def gdpo_geometric(
    *, beta: float = 0.1, column: str = "probability", chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Geometric-averaged DPO (GDPO): soft labels shrink the margin, so that a near tie hardly counts.

    `L = −log σ(βΔ(2p̂ − 1))`, reward `βρ`.

    Not group DPO, nor group-robust optimisation.

    Args:
        beta: `β > 0`, per nat.
        column: name of `p̂`, the probability that the chosen case is the better one; below ½ the order is turned round.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.
        NeedsError: a value is not a probability; names the records.

    Here: our reading of the paper.

    Identities: `dpo` at `p̂ = 1`; log 2 without gradient at `p̂ = ½`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> from dataclasses import replace
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"probability": torch.tensor([0.75])}))
        >>> gdpo_geometric()(scores).loss_P
        tensor([0.6444])

    Source: arXiv 2409.06691.
    """
    settings = dict(locals())

    def loss(delta_P: Tensor, scores: Scores) -> Tensor:
        sure_P = scores.cases.columns[column]
        check_column(scores.cases, column, (sure_P >= 0) & (sure_P <= 1), "probabilities, from 0 to 1")
        return logistic(delta_P * (2 * sure_P - 1))

    return _graded(gdpo_geometric, settings, beta, (chosen, rejected), loss, (column,))


def ns_dpo(
    *,
    beta: float = 0.1,
    gamma: float = 0.95,
    column: str = "age",
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Non-stationary DPO (NS-DPO): preferences drift, so old ones count less.

    `L = γ^{T−t} (−log σ(βΔ))`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        gamma: `γ` in (0, 1].
        column: name of `T − t ≥ 0`, how many steps of time before now the preference was given.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.
        NeedsError: an age is negative; names the records.

    Here: our reading of the paper.

    Identities: `dpo` at `γ = 1` and at age 0.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> from dataclasses import replace
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"age": torch.tensor([2.0])}))
        >>> ns_dpo()(scores).loss_P
        tensor([0.5398])

    Source: arXiv 2407.18676.
    """
    settings = dict(locals())
    check_number(0, 1, open_low=True, closed_high=True, gamma=gamma)

    def loss(delta_P: Tensor, scores: Scores) -> Tensor:
        age_P = scores.cases.columns[column]
        check_column(scores.cases, column, age_P >= 0, "ages of 0 or more")
        return gamma**age_P * logistic(delta_P)

    return _graded(ns_dpo, settings, beta, (chosen, rejected), loss, (column,))


def modpo(
    *,
    beta: float = 0.1,
    weight: float = 0.5,
    columns: Sequence[str] = ("score",),
    weights: Sequence[float] = (0.5,),
    link: str = "logistic",
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Multi-objective DPO (MODPO): pairs say which is better in one respect, columns say how good both are in others.

    `L = f([βΔ − Σ_j w_j (r_{j,w} − r_{j,l})] / w_k)`, reward `βρ`, which estimates the weighted sum of all rewards.

    Args:
        beta: `β > 0`, per nat.
        weight: `w_k > 0`, of the objective that the pairs are about.
        columns: the other rewards `r_j`: `score` of the cases, or columns with the difference itself.
        weights: `w_j`, one per column.
        link: `f`, one of `gpo`'s; the released code has `logistic` and `hinge`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range, or there are not as many weights as columns.

    Identities: `dpo` at `w_k = 1` without other rewards; the same for `(β, w)` times any positive number, and for `r_j`
        plus a constant.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> from dataclasses import replace
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([0.3, 0.8])}))
        >>> modpo()(scores).loss_P
        tensor([0.3412])

    Source: arXiv 2310.03708.
    """
    settings = dict(locals())
    check_number(0, open_low=True, weight=weight)
    if len(columns) != len(weights):
        raise ConfigError(f"found {len(columns)} columns and {len(weights)} weights; expected one weight per column")
    for value in weights:
        check_number(weights=value)
    function = check_choice("link", link, LINKS)

    def loss(delta_P: Tensor, scores: Scores) -> Tensor:
        others = [w * stated_margin(scores, name, chosen, rejected) for name, w in zip(columns, weights, strict=True)]
        return function((delta_P - sum(others)) / weight)

    return _graded(modpo, settings, beta, (chosen, rejected), loss, columns)


def reward_distillation(
    *,
    beta: float = 0.1,
    columns: Sequence[str] = ("score",),
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Reward distillation (e-DPO with several rewards): the implicit rewards differ as much as explicit ones do.

    `L = min_k (βΔ − (r_{k,w} − r_{k,l}))²`, reward `βρ`: the margin must be near that of one model of an ensemble.

    Not ε-DPO, which relaxes `β` per record.

    Args:
        beta: `β > 0`, per nat.
        columns: one reward model each: `score` of the cases, or columns with the difference itself.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range, or there is no column.

    Here: our reading of the paper: the least is taken for each preference.

    Identities: 0 where the margins agree; `β²·ipo(reduce="total")` where rewards differ by ½.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> from dataclasses import replace
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> columns = {"score": torch.tensor([4.0, 1.5]), "margin": torch.tensor([1.2])}
        >>> scores = replace(scores, cases=replace(scores.cases, columns=columns))
        >>> reward_distillation(columns=("score", "margin"))(scores).loss_P
        tensor([1.])

    Source: arXiv 2405.19316.
    """
    settings = dict(locals())
    if not columns:
        raise ConfigError("found columns=(); expected the names of one reward or more")

    def loss(delta_P: Tensor, scores: Scores) -> Tensor:
        stated = torch.stack([stated_margin(scores, name, chosen, rejected) for name in columns])
        return ((delta_P - stated) ** 2).amin(0)

    return _graded(reward_distillation, settings, beta, (chosen, rejected), loss, columns)


def _graded(
    constructor: Callable[..., Objective],
    settings: Mapping[str, object],
    beta: float,
    roles: tuple[str, str],
    loss: Callable[[Tensor, Scores], Tensor],
    columns: Sequence[str],
) -> Objective:
    """`L = f(βΔ, columns)`, reward `βρ`."""
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=roles[0], rejected=roles[1])
    for name in columns:
        check_roles(column=name)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_ratio(scores)
        return Outcome(loss(difference(scores, reward_N, *roles), scores), reward_N)

    needs = Needs(frozenset(roles), reference=True, columns=frozenset(columns))
    return single(constructor, compute, needs, settings)
