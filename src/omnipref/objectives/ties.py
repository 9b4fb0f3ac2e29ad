"""Objectives over pairs of which some are ties: a tie is a record's comparison with `tie=True`.

`ρ` is the log-ratio to the reference, `w` the chosen and `l` the rejected case, `d = β(ρ_w − ρ_l)`. Both are models of
how often one of two responses wins, loses or draws; the three probabilities sum to 1. Which case of a tie is called
chosen does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_ratio
from omnipref.scores import Scores


def rao_kupper_dpo(
    *, beta: float = 0.1, nu: float = 3.0, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """DPO under the Rao-Kupper model of ties (DPO-RK): a win must clear a threshold, a tie lies within it.

    Win `−log σ(d − log ν)`, tie `−log [(ν² − 1) σ(−d − log ν) σ(d − log ν)]`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        nu: `ν > 1`; two equal responses tie with probability `(ν − 1)/(ν + 1)`.
        chosen: role of the better case, or of one of two equal ones.
        rejected: role of the worse case, or of the other.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper.

    Identities: `log(1 + ν)` for a win and `log((ν + 1)/(ν − 1))` for a tie where policy = reference; wins are `dpo` as
        `ν → 1`; a tie's loss is least, and symmetric, at `d = 0`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> rao_kupper_dpo()(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([1.2402])

    Source: arXiv 2409.17431; the model: Rao and Kupper, 1967.
    """
    settings = dict(locals())
    check_number(1, open_low=True, nu=nu)
    threshold, room = math.log(nu), math.log(nu**2 - 1)
    return _with_ties(
        rao_kupper_dpo,
        settings,
        (chosen, rejected),
        beta,
        win=lambda d: logistic(d - threshold),
        tie=lambda d: logistic(d - threshold) + logistic(-d - threshold) - room,
    )


def davidson_dpo(
    *, beta: float = 0.1, nu: float = 1.0, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """DPO under the Davidson model of ties (DPO-D): a tie weighs as the geometric mean of the two wins does.

    Win `−log [1/(1 + e^{−d} + 2ν e^{−d/2})]`, tie `−log [2ν e^{−d/2}/(1 + e^{−d} + 2ν e^{−d/2})]`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        nu: `ν > 0`; two equal responses tie with probability `ν/(1 + ν)`.
        chosen: role of the better case, or of one of two equal ones.
        rejected: role of the worse case, or of the other.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper.

    Identities: `log(2 + 2ν)` for a win and `log((1 + ν)/ν)` for a tie where policy = reference; wins are `dpo` as
        `ν → 0`; a tie's loss is least, and symmetric, at `d = 0`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> davidson_dpo()(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([1.2888])

    Source: arXiv 2409.17431; the model: Davidson, 1970.
    """
    settings = dict(locals())
    check_number(0, open_low=True, nu=nu)

    def draw(d: Tensor) -> Tensor:
        return math.log(2 * nu) - d / 2

    def win(d: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(d), -d, draw(d)]).logsumexp(0)

    return _with_ties(davidson_dpo, settings, (chosen, rejected), beta, win=win, tie=lambda d: win(d) - draw(d))


def tied(scores: Scores, chosen: str, rejected: str) -> Tensor:
    """Whether the two cases of each preference are compared and share a rank: `[P]` bool.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> tied(pair_scores(torch.zeros(1), torch.zeros(1)), "chosen", "rejected")
        tensor([False])
    """
    first_P, second_P = (scores.at(role, scores.cases.rank_N) for role in (chosen, rejected))
    return (first_P >= 0) & (first_P == second_P)


def _with_ties(
    constructor: Callable[..., Objective],
    settings: Mapping[str, object],
    roles: tuple[str, str],
    beta: float,
    *,
    win: Callable[[Tensor], Tensor],
    tie: Callable[[Tensor], Tensor],
) -> Objective:
    """`L = win(d)` or `tie(d)`, whichever the record says."""
    check_number(0, open_low=True, beta=beta)
    chosen, rejected = roles
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N, tied_P = beta * log_ratio(scores), tied(scores, chosen, rejected)
        d_P = difference(scores, reward_N, chosen, rejected)
        return Outcome(torch.where(tied_P, tie(d_P), win(d_P)), reward_N, {"ties": tied_P.to(d_P.dtype).mean()})

    return single(constructor, compute, Needs(frozenset({chosen, rejected}), reference=True, ties=True), settings)
