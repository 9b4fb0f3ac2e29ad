"""The bandits as worlds to compare objectives in."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from omnipref.objectives import Objective
from omnipref.worlds.bandits.coverage import Coverage, draw_world, drawn
from omnipref.worlds.bandits.descent import updates
from omnipref.worlds.comparable import Measured

_SAMPLES = 16


@dataclass(frozen=True)
class ComparedCoverage:
    """Partial coverage (`omnipref.worlds.bandits.coverage`), with samples of the policy and of the reference.

    Args:
        world: one draw of it.
        rate: learning rate of Adam.
    """

    world: Coverage
    rate: float = 0.03

    @property
    def steps(self) -> int:
        """Enough for DPO to be far from the reference."""
        return 1500

    @property
    def points(self) -> int:
        """Measuring costs little."""
        return 100

    @property
    def roles(self) -> frozenset[str]:
        """The pairs' cases; `sample_0` ... of the policy, and one of the reference."""
        return frozenset({*self.world.choices.actions, "reference_sample", *(f"sample_{k}" for k in range(_SAMPLES))})

    def walk(
        self, objective: Objective, seed: int, steps: int, rate: float, wanted: Collection[int]
    ) -> Iterator[Measured]:
        """Adam on all pairs; samples are drawn anew at every update where the objective asks for them.

        Args:
            objective: what is minimised.
            seed: of the samples.
            steps: updates.
            rate: of Adam.
            wanted: updates after which `Coverage.measure` is asked.
        """
        policy = self.world.policy()
        optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
        yield 0, self.world.measure(policy().detach())
        for number in updates(policy, objective, drawn(self.world, objective, "policy", seed), optimizer, steps):
            if number in wanted:
                yield number, self.world.measure(policy().detach())


def coverage(seed: int) -> ComparedCoverage:
    """The world of partial coverage.

    Args:
        seed: of features, rewards and pairs.
    """
    return ComparedCoverage(draw_world(seed))
