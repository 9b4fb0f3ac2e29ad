"""Partial coverage: pairs compare a few of the actions, and what is learned from them speaks of all.

10 prompts, 30 actions, 6 features that all actions share. The reference gives 88 % to the first 8 actions, which the
pairs compare and whose reward is linear in the features; the other 22 are bad, although their features may promise
much. Nothing in a loss on differences keeps a policy from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from omnipref.objectives import Objective, parse_objective
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.choices import Choices, labelled
from omnipref.worlds.bandits.descent import Draw, updates
from omnipref.worlds.bandits.policies import LogLinear, divergence, expected, sample

PROMPTS, ACTIONS, FEATURES, COVERED = 10, 30, 6, 8
UNCOVERED_MASS = 0.12


@dataclass(frozen=True)
class Coverage:
    """One draw of the world.

    Args:
        features_XAD: of each action under each prompt, standard normal.
        reference_XA: log-probabilities, even over the covered actions and over the others.
        reward_XA: true; from −1 to 1 on covered actions, −1 on the others.
        choices: the pairs.
    """

    features_XAD: Tensor
    reference_XA: Tensor
    reward_XA: Tensor
    choices: Choices

    def policy(self) -> LogLinear:
        """A new policy at the reference."""
        return LogLinear(self.features_XAD, self.reference_XA)

    def measure(self, logp_XA: Tensor) -> dict[str, float]:
        """What is true of a policy.

        `reward`, the expectation; `uncovered`, the probability of actions that no pair compared in the ordinary
        world; `kl` and `forward_kl`, from and to the reference; `chosen`, the mean log-ratio of chosen actions.

        Args:
            logp_XA: its log-probabilities.
        """
        outside_XA = (torch.arange(ACTIONS) >= COVERED).expand_as(logp_XA).to(logp_XA.dtype)
        picked = (self.choices.prompt_P, self.choices.actions["chosen"])
        return {
            "reward": expected(logp_XA, self.reward_XA),
            "uncovered": expected(logp_XA, outside_XA),
            "kl": divergence(logp_XA, self.reference_XA),
            "forward_kl": divergence(self.reference_XA, logp_XA),
            "chosen": (logp_XA - self.reference_XA)[picked].mean().item(),
        }


def draw_world(seed: int, pairs: int = 60, compared: int = COVERED) -> Coverage:
    """A world and its pairs, labelled as Bradley and Terry say.

    The reward that labels a pair is `2 φ·w`, with a direction `w`, on covered actions; the true reward is its part
    between −1 and 1. Two actions of a pair are never the same.

    Args:
        seed: of everything.
        pairs: how many.
        compared: the first so many actions are compared; 30 is full coverage.
    """
    draw = torch.Generator().manual_seed(seed)
    features_XAD = torch.randn(PROMPTS, ACTIONS, FEATURES, generator=draw, dtype=torch.float64)
    direction = torch.randn(FEATURES, generator=draw, dtype=torch.float64)
    judged_XA = 2 * features_XAD @ (direction / direction.norm())
    judged_XA[:, COVERED:] = -1
    mass_A = torch.full((ACTIONS,), UNCOVERED_MASS / (ACTIONS - COVERED), dtype=torch.float64)
    mass_A[:COVERED] = (1 - UNCOVERED_MASS) / COVERED
    allowed_XA = (torch.arange(ACTIONS) < compared).to(torch.float64).expand(PROMPTS, -1)
    choices = labelled(judged_XA, pairs, draw, allowed_XA)
    coin_P = torch.rand(pairs, generator=draw) < 0.5
    either_P = torch.where(coin_P, choices.actions["chosen"], choices.actions["rejected"])
    reference_XA = mass_A.log().expand(PROMPTS, -1)
    return Coverage(features_XAD, reference_XA, judged_XA.clamp(-1, 1), choices.plus(behaviour=either_P))


def _pair(world: Coverage, logp_XA: Tensor) -> Tensor:
    both_PA = torch.zeros(len(world.choices.prompt_P), ACTIONS, dtype=logp_XA.dtype)
    for role in ("chosen", "rejected"):
        both_PA.scatter_(1, world.choices.actions[role][:, None], 0.5)
    return both_PA.log()


_SOURCES: Mapping[str, Callable[[Coverage, Tensor], Tensor]] = {
    "policy": lambda world, logp_XA: logp_XA[world.choices.prompt_P],
    "reference": lambda world, logp_XA: world.reference_XA[world.choices.prompt_P],
    "data": _pair,
}
"""Log-probabilities `[P, A]` that a pair's further cases are drawn from."""


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text.
        pairs: how many.
        compared: the first so many actions are compared.
        samples: where cases besides the data come from, such as `sample_0`: `policy`, `reference` or `data`, the two
            actions of the pair; a `reference_sample` is always one of the reference. All are drawn anew every update.
    """

    objective: str
    pairs: int = 60
    compared: int = COVERED
    samples: str = "policy"


OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    steps: int = 2000,
    rate: float = 3.0,
    optimizer: Literal["sgd", "adam"] = "sgd",
) -> dict[str, float]:
    """Train one arm on full batches, and measure what is true of it (`Coverage.measure`).

    Args:
        arm: one of `arms`.
        seed: of the world and of samples.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: learning rate.
        optimizer: `sgd`, or `adam` where losses of very different slopes are compared.
    """
    plan = plan_of(Arm, arms, arm)
    world, objective = draw_world(seed, plan.pairs, plan.compared), parse_objective(plan.objective)
    policy = world.policy()
    descent = OPTIMIZERS[optimizer](policy.parameters(), lr=rate)
    for _ in updates(policy, objective, drawn(world, objective, plan.samples, seed), descent, steps):
        pass
    return world.measure(policy().detach())


def drawn(world: Coverage, objective: Objective, samples: str, seed: int) -> Draw:
    """The pairs of a world, and besides them the cases that an objective reads.

    Args:
        world: the pairs.
        objective: what is minimised.
        samples: see `Arm`.
        seed: of the samples.
    """
    fixed, random = world.choices, torch.Generator().manual_seed(seed)
    roles = sorted(objective.needs.roles - set(fixed.actions))
    sources = {role: _SOURCES[samples] for role in roles} | {"reference_sample": _SOURCES["reference"]}
    rows_P = torch.arange(len(fixed.prompt_P))

    def choices(logp_XA: Tensor) -> Choices:
        chances = {role: sources[role](world, logp_XA) for role in roles}
        return fixed.plus(**{role: sample(chance, rows_P, random)[:, 0] for role, chance in chances.items()})

    return choices if roles else lambda logp_XA: fixed
