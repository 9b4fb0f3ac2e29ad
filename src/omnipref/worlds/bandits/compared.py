"""The bandits as worlds to compare objectives in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from omnipref.objectives import Objective
from omnipref.worlds.bandits.coverage import Coverage, draw_world, drawn
from omnipref.worlds.bandits.descent import Draw
from omnipref.worlds.bandits.policies import LogLinear

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
    def roles(self) -> frozenset[str]:
        """The pairs' cases; `sample_0` ... of the policy, and one of the reference."""
        return frozenset({*self.world.choices.actions, "reference_sample", *(f"sample_{k}" for k in range(_SAMPLES))})

    def policy(self) -> LogLinear:
        """A new policy at the reference."""
        return self.world.policy()

    def draw(self, objective: Objective, seed: int) -> Draw:
        """The pairs, and samples drawn anew at every update where the objective asks for them.

        Args:
            objective: what is minimised.
            seed: of the samples.
        """
        return drawn(self.world, objective, "policy", seed)

    def measure(self, logp_XA: Tensor) -> Mapping[str, float]:
        """`Coverage.measure`.

        Args:
            logp_XA: log-probabilities of a policy.
        """
        return self.world.measure(logp_XA)


def coverage(seed: int) -> ComparedCoverage:
    """The world of partial coverage.

    Args:
        seed: of features, rewards and pairs.
    """
    return ComparedCoverage(draw_world(seed))
