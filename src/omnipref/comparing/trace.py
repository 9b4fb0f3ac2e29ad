"""One objective in one world: what is true of the policy along its path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from omnipref.errors import NeedsError, OmniprefError
from omnipref.objectives import Objective
from omnipref.worlds.comparable import World


@dataclass(frozen=True)
class Trace:
    """A path.

    Args:
        steps: updates made so far, from 0.
        values: name of a measurement to its values at these steps; `reward` and `kl` among them.
        broke: the step at which something was no longer finite, where the path ends.
    """

    steps: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    broke: int | None = None

    @property
    def furthest(self) -> float:
        """Largest divergence from the start, in nats."""
        return max(self.values["kl"])

    def at_kl(self, kl: float, name: str = "reward") -> float | None:
        """A measurement where the path first gets this far from its start; None where it never does.

        Between two measured steps it is interpolated linearly in the divergence.

        Args:
            kl: in nats.
            name: which measurement.

        Example:
            >>> Trace((0, 1, 2), {"kl": (0.0, 1.0, 3.0), "reward": (0.0, 4.0, 2.0)}).at_kl(2.0)
            3.0
        """
        far, value = self.values["kl"], self.values[name]
        place = next((i for i, k in enumerate(far) if k >= kl), None)
        if place is None or place == 0:
            return None if place is None else value[0]
        share = (kl - far[place - 1]) / (far[place] - far[place - 1])
        return value[place - 1] + share * (value[place] - value[place - 1])


def trace(world: World, objective: Objective, seed: int, steps: int, rate: float) -> Trace:
    """Train from the world's start and measure along the way.

    Args:
        world: one draw of a world.
        objective: what is minimised.
        seed: of what is drawn besides the world.
        steps: updates.
        rate: learning rate.
    """
    rows: dict[int, Mapping[str, float]] = {}
    broke = None
    for number, found in world.walk(objective, seed, steps, rate, measured_steps(steps, world.points)):
        if not all(map(math.isfinite, found.values())):
            broke = number
            break
        rows[number] = found
    return Trace(tuple(rows), {name: tuple(row[name] for row in rows.values()) for name in rows[0]}, broke)


def measured_steps(steps: int, points: int = 100) -> frozenset[int]:
    """The steps at which a path is measured: ever further apart, the last one among them.

    Args:
        steps: updates.
        points: about how many.

    Example:
        >>> sorted(measured_steps(3))
        [1, 2, 3]
    """
    return frozenset(max(1, round(steps ** (point / points))) for point in range(points + 1))


def check_objective(world: World, objective: Objective) -> None:
    """Refuse an objective that reads what the world does not have, by trying it at the start.

    Args:
        world: one draw of a world.
        objective: what is to be minimised.

    Raises:
        NeedsError: names the objective and what is missing.
    """
    lacking = sorted(objective.needs.roles - world.roles)
    if lacking:
        have = ", ".join(sorted(role for role in world.roles if not role[-1:].isdigit()))
        raise NeedsError(f"`{objective}` compares {', '.join(lacking)}, which this world does not draw; it has {have}")
    try:
        trace(world, objective, 0, 1, 0.0)
    except OmniprefError as error:
        raise NeedsError(f"`{objective}` cannot be trained in this world: {error}") from error
