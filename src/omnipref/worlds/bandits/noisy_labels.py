"""Labels that are flipped at a known rate: which loss still finds the reward that made them?

20 prompts, 10 actions, 8 features. The reward is linear in the features and the policy is log-linear in them, so with
clean labels every loss could find it; the reference is uniform. A share of the labels is exchanged at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import parse_objective
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.choices import Choices, labelled
from omnipref.worlds.bandits.descent import updates
from omnipref.worlds.bandits.policies import LogLinear, divergence, expected

PROMPTS, ACTIONS, FEATURES = 20, 10, 8
STRENGTH = 3.0
"""Norm of the true direction, over features of length 1 in the mean."""


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text.
        flipped: share of the labels that are exchanged.
    """

    objective: str
    flipped: float


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    beta: float = 0.2,
    pairs: int = 2000,
    steps: int = 600,
    rate: float = 200.0,
) -> dict[str, float]:
    """Train one arm by gradient descent on all pairs.

    Gives `value`, the expected reward less `beta` times the divergence from the reference; its `regret` to the best
    policy; and `error`, the relative distance of `beta` times the parameters from the true direction.

    Args:
        arm: one of `arms`.
        seed: of the world, its pairs and which of them are flipped; clean labels are the same for all rates.
        arms: arm to the fields of `Arm`.
        beta: as the objectives have it.
        pairs: how many.
        steps: updates.
        rate: of the descent.
    """
    plan = plan_of(Arm, arms, arm)
    draw = torch.Generator().manual_seed(seed)
    features_XAD = torch.randn(PROMPTS, ACTIONS, FEATURES, generator=draw, dtype=torch.float64) / FEATURES**0.5
    direction = torch.randn(FEATURES, generator=draw, dtype=torch.float64)
    direction = STRENGTH * direction / direction.norm()
    reward_XA = features_XAD @ direction
    choices = flipped(labelled(reward_XA, pairs, draw), plan.flipped, draw)
    policy = LogLinear(features_XAD, torch.zeros(PROMPTS, ACTIONS, dtype=torch.float64))
    optimizer = torch.optim.SGD(policy.parameters(), lr=rate)
    for _ in updates(policy, parse_objective(plan.objective), lambda logp_XA: choices, optimizer, steps):
        pass
    best_XA = (reward_XA / beta).log_softmax(1)
    value, most = (_value(logp_XA, reward_XA, policy.reference_XA, beta) for logp_XA in (policy().detach(), best_XA))
    error = ((beta * policy.weight.detach() - direction).norm() / direction.norm()).item()
    return {"value": value, "regret": most - value, "error": error}


def flipped(choices: Choices, rate: float, draw: torch.Generator) -> Choices:
    """The same pairs with each label exchanged at this rate.

    Args:
        choices: pairs.
        rate: from 0 to 1.
        draw: random numbers.
    """
    exchanged_P = torch.rand(len(choices.prompt_P), generator=draw) < rate
    chosen_P, rejected_P = choices.actions["chosen"], choices.actions["rejected"]
    return choices.plus(
        chosen=torch.where(exchanged_P, rejected_P, chosen_P), rejected=torch.where(exchanged_P, chosen_P, rejected_P)
    )


def _value(logp_XA: Tensor, reward_XA: Tensor, reference_XA: Tensor, beta: float) -> float:
    return expected(logp_XA, reward_XA) - beta * divergence(logp_XA, reference_XA)
