"""Worlds in which any objectives can be compared: the same start, the same preferences, a true reward."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from omnipref.errors import ConfigError, nearest
from omnipref.objectives import Objective

Measured = tuple[int, Mapping[str, float]]
"""Updates made, and what is true of the policy then: `reward` and `kl` (from the start, in nats) at least."""


class World(Protocol):
    """One draw of a world, by its seed."""

    @property
    def roles(self) -> frozenset[str]:
        """The cases that it can give an objective."""
        ...

    @property
    def rate(self) -> float:
        """Learning rate that suits it."""
        ...

    @property
    def steps(self) -> int:
        """Updates that suit it."""
        ...

    @property
    def points(self) -> int:
        """About how often a path is measured."""
        ...

    def walk(
        self, objective: Objective, seed: int, steps: int, rate: float, wanted: Collection[int]
    ) -> Iterator[Measured]:
        """Train a new policy from the start that all objectives share; measure it before, and after wanted updates."""
        ...


WORLDS: Mapping[str, str] = {
    "coverage": "omnipref.worlds.bandits.compared:coverage",
    "dialogue": "omnipref.worlds.texts.compared:dialogue",
    "arithmetic": "omnipref.worlds.texts.compared:arithmetic",
}
"""Name to `module:function`, a function from a seed to a `World`; a world joins by a line."""


def find_world(name: str) -> Callable[[int], World]:
    """The function that draws a world.

    Raises:
        ConfigError: there is no such world; names the nearest.

    Example:
        >>> find_world("coverage")(0).rate
        0.03
    """
    if name not in WORLDS:
        raise ConfigError(f"found no world `{name}`; {nearest(name, WORLDS)}")
    module, _, function = WORLDS[name].partition(":")
    return getattr(importlib.import_module(module), function)
