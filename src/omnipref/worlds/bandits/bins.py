"""A hundred bins in a row and a peak of reward, near to what the reference does or far from it.

The reference is a histogram of 10,000 draws of tanh(Cauchy(-0.7, 0.4)). A batch is 100 groups of 10 samples, of the
reference or of the policy as it was some updates ago; every sample has its true reward, and what a loss makes of them,
pairs, the best of each group or all of them with their rewards, is the loss's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import parse_objective
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.choices import Choices
from omnipref.worlds.bandits.descent import updates
from omnipref.worlds.bandits.policies import Tabular, divergence, expected, sample

BINS, GROUPS, SAMPLES = 100, 100, 10
WIDTH = 10.0


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text; its roles say what it is given: pairs of each group, its best, or every sample.
        peak: the bin of the largest reward.
        refresh: updates after which new samples are drawn from the policy; 0 for samples of the reference throughout.
    """

    objective: str
    peak: int = 70
    refresh: int = 0


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    steps: int = 200,
    rate: float = 0.05,
) -> dict[str, float]:
    """Train one arm by Adam; gives the true `reward`, that after 60 updates, and `kl` from the reference.

    Args:
        arm: one of `arms`.
        seed: of the reference and of the samples.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: of Adam.
    """
    plan = plan_of(Arm, arms, arm)
    draw = torch.Generator().manual_seed(seed)
    reference_XA = histogram(draw)
    reward_A = torch.exp(-(((torch.arange(BINS) - plan.peak) / WIDTH) ** 2)).to(reference_XA.dtype)
    policy, objective = Tabular(reference_XA), parse_objective(plan.objective)
    made = next(make for roles, make in USES.items() if objective.needs.roles <= roles)
    batch = _Batch(reward_A, made, plan.refresh, draw)
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    found = {}
    for number in updates(policy, objective, batch, optimizer, steps):
        if number in (60, steps):
            found["reward_60" if number == 60 else "reward"] = expected(policy().detach(), reward_A[None])
    return {**found, "kl": divergence(policy().detach(), policy.reference_XA)}


def histogram(draw: torch.Generator) -> Tensor:
    """Log-probabilities of the reference, `[1, 100]`; a bin that was never drawn counts as drawn a tenth of a time.

    Args:
        draw: random numbers.
    """
    uniform = torch.rand(10_000, generator=draw, dtype=torch.float64)
    values = torch.tanh(-0.7 + 0.4 * torch.tan(torch.pi * (uniform - 0.5)))
    counts = torch.histc(values, BINS, -1, 1)
    return counts.clamp(min=0.1).log().log_softmax(0)[None]


def pairs(action_GK: Tensor, reward_GK: Tensor) -> Choices:
    """All pairs of each group whose rewards differ."""
    first_M, second_M = torch.triu_indices(SAMPLES, SAMPLES, 1)
    better_GM = reward_GK[:, first_M] > reward_GK[:, second_M]
    differ_GM = reward_GK[:, first_M] != reward_GK[:, second_M]
    one_GM, other_GM = action_GK[:, first_M], action_GK[:, second_M]
    chosen_P, rejected_P = (torch.where(better, one_GM, other_GM)[differ_GM] for better in (better_GM, ~better_GM))
    return Choices(torch.zeros_like(chosen_P), {"chosen": chosen_P, "rejected": rejected_P})


def best(action_GK: Tensor, reward_GK: Tensor) -> Choices:
    """The best of each group."""
    chosen_P = action_GK.gather(1, reward_GK.argmax(1, keepdim=True))[:, 0]
    return Choices(torch.zeros_like(chosen_P), {"chosen": chosen_P})


def every(action_GK: Tensor, reward_GK: Tensor) -> Choices:
    """Every sample with its reward."""
    action_P = action_GK.flatten()
    return Choices(torch.zeros_like(action_P), {"completion": action_P}, {"score": reward_GK.flatten()})


USES: Mapping[frozenset[str], Callable[[Tensor, Tensor], Choices]] = {
    frozenset({"chosen"}): best,
    frozenset({"chosen", "rejected"}): pairs,
    frozenset({"completion"}): every,
}
"""Roles that an objective reads, to what is made of groups of samples for it."""


@dataclass
class _Batch:
    """What is compared at an update, drawn anew as often as asked for."""

    reward_A: Tensor
    make: Callable[[Tensor, Tensor], Choices]
    refresh: int
    draw: torch.Generator
    count: int = 0
    choices: Choices | None = None

    def __call__(self, logp_XA: Tensor) -> Choices:
        if self.choices is None or (self.refresh and self.count % self.refresh == 0):
            group_P = torch.zeros(GROUPS, dtype=torch.long)
            action_GK = sample(logp_XA, group_P, self.draw, SAMPLES)
            self.choices = self.make(action_GK, self.reward_A[action_GK])
        self.count += 1
        return self.choices
