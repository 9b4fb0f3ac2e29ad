"""The frame of objectives that are a function of two implicit rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from omnipref.objectives.checks import check_roles
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.scores import Scores


def paired(
    constructor: Callable[..., Objective],
    settings: Mapping[str, object],
    roles: tuple[str, str],
    reward: Callable[[Scores], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    reference: bool = True,
) -> Objective:
    """`L = f(r_w, r_l)` with one implicit reward per case.

    Args:
        constructor: the function that is called to build the objective.
        settings: its arguments by name.
        roles: of the chosen and of the rejected case.
        reward: `r`, from scores to `[N]`.
        loss: `f`, of the rewards `[P]` of the chosen and of the rejected cases.
        reference: whether `reward` reads the reference.

    Raises:
        ConfigError: the two roles are not two names.
    """
    check_roles(chosen=roles[0], rejected=roles[1])

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = reward(scores)
        better_P, worse_P = (scores.at(role, reward_N) for role in roles)
        return Outcome(loss(better_P, worse_P), reward_N)

    return single(constructor, compute, Needs(frozenset(roles), reference=reference), settings)
