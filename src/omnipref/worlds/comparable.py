"""Worlds in which any objectives can be compared: the same start, the same preferences, a true reward."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from omnipref.errors import ConfigError, nearest
from omnipref.objectives import Objective
from omnipref.worlds.bandits.descent import Draw
from omnipref.worlds.bandits.policies import ActionPolicy


class Start(ActionPolicy, Protocol):
    """A policy that an optimizer can train."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        ...


class World(Protocol):
    """One draw of a world, by its seed."""

    @property
    def roles(self) -> frozenset[str]:
        """The cases that it can give an objective."""
        ...

    @property
    def rate(self) -> float:
        """Learning rate of Adam that suits it."""
        ...

    def policy(self) -> Start:
        """A new policy at the start that all objectives share, which is their reference."""
        ...

    def draw(self, objective: Objective, seed: int) -> Draw:
        """What an objective compares at each update."""
        ...

    def measure(self, logp_XA: Tensor) -> Mapping[str, float]:
        """What is true of a policy: `reward` and `kl` (from the start, in nats) at least."""
        ...


WORLDS: Mapping[str, str] = {"coverage": "omnipref.worlds.bandits.compared:coverage"}
"""Name to `module:function`, a function from a seed to a `World`; a world joins by a line."""


def find_world(name: str) -> Callable[[int], World]:
    """The function that draws a world.

    Raises:
        ConfigError: there is no such world; names the nearest.

    Example:
        >>> find_world("coverage")(0).policy()().shape
        torch.Size([10, 30])
    """
    if name not in WORLDS:
        raise ConfigError(f"found no world `{name}`; {nearest(name, WORLDS)}")
    module, _, function = WORLDS[name].partition(":")
    return getattr(importlib.import_module(module), function)
