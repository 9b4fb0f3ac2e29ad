"""Rounds of sampling, judging and fitting, each from where the last one ended: what momentum between them is worth.

20 prompts, 10 actions, 8 features, a reward that is linear in them; the reference is uniform. A round draws pairs from
the policy as it is, judges them as Bradley and Terry say, and minimises a loss whose reference is that policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import Objective, parse_objective
from omnipref.training.extrapolation import extrapolated
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.choices import Choices, judged
from omnipref.worlds.bandits.descent import updates
from omnipref.worlds.bandits.policies import LogLinear, expected, sample

PROMPTS, ACTIONS, FEATURES = 20, 10, 8
STRENGTH = 3.0


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: of every round, as text.
        momentum: share of the last change that is added to a round's weights before the next.
        pairs: of a round.
    """

    objective: str
    momentum: float = 0.0
    pairs: int = 400


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    rounds: int = 3,
    steps: int = 200,
    rate: float = 10.0,
) -> dict[str, float]:
    """Train one arm; gives the true reward after every round, `reward_1` ..., and that of the best policy, `most`.

    Args:
        arm: one of `arms`.
        seed: of the world, and of the samples and judgements of each round.
        arms: arm to the fields of `Arm`.
        rounds: how many.
        steps: updates of a round, by gradient descent on all its pairs.
        rate: of the descent.
    """
    plan = plan_of(Arm, arms, arm)
    draw = torch.Generator().manual_seed(seed)
    features_XAD = torch.randn(PROMPTS, ACTIONS, FEATURES, generator=draw, dtype=torch.float64) / FEATURES**0.5
    direction = torch.randn(FEATURES, generator=draw, dtype=torch.float64)
    reward_XA = features_XAD @ (STRENGTH * direction / direction.norm())
    objective = parse_objective(plan.objective)
    policy = LogLinear(features_XAD, torch.zeros(PROMPTS, ACTIONS, dtype=torch.float64))
    fitted = {"weight": policy.weight.detach().clone()}
    found = {"most": reward_XA.max(1).values.mean().item()}
    for number in range(1, rounds + 1):
        choices = drawn(policy, reward_XA, plan.pairs, draw)
        now = {"weight": policy.weight.detach() + fit(policy, choices, objective, steps, rate)}
        policy.load_state_dict(extrapolated(now, fitted, plan.momentum), strict=False)
        fitted = now
        found[f"reward_{number}"] = expected(policy().detach(), reward_XA)
    return found


def drawn(policy: LogLinear, reward_XA: Tensor, pairs: int, draw: torch.Generator) -> Choices:
    """Pairs of the policy's own samples, judged by the reward.

    Args:
        policy: what is sampled.
        reward_XA: what judges.
        pairs: how many; two samples may be the same action and then teach nothing.
        draw: random numbers.
    """
    prompt_P = torch.randint(PROMPTS, (pairs,), generator=draw)
    first_P, second_P = sample(policy().detach(), prompt_P, draw, 2).unbind(1)
    return judged(reward_XA, prompt_P, first_P, second_P, draw)


def fit(policy: LogLinear, choices: Choices, objective: Objective, steps: int, rate: float) -> Tensor:
    """The change of the weights that minimises an objective whose reference is the policy as it is.

    Args:
        policy: start and reference; left as it is.
        choices: what is compared.
        objective: what is minimised.
        steps: updates.
        rate: of the descent.
    """
    inner = LogLinear(policy.features_XAD, policy().detach())
    optimizer = torch.optim.SGD(inner.parameters(), lr=rate)
    for _ in updates(inner, objective, lambda logp_XA: choices, optimizer, steps):
        pass
    return inner.weight.detach()
