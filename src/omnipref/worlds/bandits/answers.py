"""Answers and junk: what a loss on pairs of answers does for a model that hardly answers.

40 prompts to train and 40 to test, each with 12 answers, whose reward is linear in 10 features, and 12 pieces of junk,
reward -2. The base model gives most of its probability to junk; a further feature says, with noise, what an answer is.
Demonstrations and pairs hold answers only, so that junk can be unlearned from demonstrations alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import Objective, parse_objective, sft
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.choices import Choices, labelled
from omnipref.worlds.bandits.descent import updates
from omnipref.worlds.bandits.policies import LogLinear, divergence, expected, sample

PROMPTS, ANSWERS, FEATURES = 40, 12, 10
JUNK_REWARD, MARK_NOISE = -2.0, 0.25


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text.
        demonstrations: that the base model is fine-tuned on before; 0 for none.
        pairs: how many; smaller sets are parts of larger ones.
        junk: probability of junk under the base model.
    """

    objective: str
    demonstrations: int = 0
    pairs: int = 400
    junk: float = 0.88


@dataclass(frozen=True)
class World:
    """One draw of the world; the first 40 prompts are to train.

    Args:
        features_XAD: of each action; the last one marks answers.
        reward_XA: true.
        base_XA: log-probabilities of the base model.
        answers_XA: 1 for answers, 0 for junk.
    """

    features_XAD: Tensor
    reward_XA: Tensor
    base_XA: Tensor
    answers_XA: Tensor

    def measure(self, start_XA: Tensor, logp_XA: Tensor) -> dict[str, float]:
        """What is true of a policy on prompts that it was not trained on: `reward`, `junk`, and `kl` from its start."""
        test_XA, reward_XA, junk_XA = (v[PROMPTS:] for v in (logp_XA, self.reward_XA, 1 - self.answers_XA))
        found = {"reward": expected(test_XA, reward_XA), "junk": expected(test_XA, junk_XA)}
        return {**found, "kl": divergence(test_XA, start_XA[PROMPTS:])}


def draw_world(draw: torch.Generator, junk: float) -> World:
    """A new world.

    Args:
        draw: random numbers.
        junk: probability of junk under the base model.
    """
    answers_XA = (torch.arange(2 * ANSWERS) < ANSWERS).to(torch.float64).expand(2 * PROMPTS, -1)
    features_XAD = torch.randn(2 * PROMPTS, 2 * ANSWERS, FEATURES, generator=draw, dtype=torch.float64)
    direction = torch.randn(FEATURES, generator=draw, dtype=torch.float64)
    reward_XA = features_XAD @ (direction / direction.norm())
    reward_XA = torch.where(answers_XA > 0, reward_XA, JUNK_REWARD)
    mark_XA = answers_XA + MARK_NOISE * torch.randn(answers_XA.shape, generator=draw, dtype=torch.float64)
    base_XA = torch.where(answers_XA > 0, (1 - junk) / ANSWERS, junk / ANSWERS).log()
    return World(torch.cat([features_XAD, mark_XA[..., None]], 2), reward_XA, base_XA, answers_XA)


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    steps: int = 400,
    rate: float = 0.1,
) -> dict[str, float]:
    """Train one arm by gradient descent on all its pairs; gives `World.measure`, and `start`, the reward before.

    Args:
        arm: one of `arms`.
        seed: of the world, the demonstrations and the pairs.
        arms: arm to the fields of `Arm`.
        steps: updates, of the fine-tuning and of the objective each.
        rate: of the descent.
    """
    plan = plan_of(Arm, arms, arm)
    draw = torch.Generator().manual_seed(seed)
    world = draw_world(draw, plan.junk)
    start_XA = world.base_XA
    if plan.demonstrations:
        start_XA = trained(world, start_XA, demonstrations(world, plan.demonstrations, draw), sft(), steps, rate)
    draw.manual_seed(seed + 1_000_000)  # the same pairs after any number of demonstrations
    logp_XA = trained(world, start_XA, pairs(world, plan.pairs, draw), parse_objective(plan.objective), steps, rate)
    return {**world.measure(start_XA, logp_XA), "start": world.measure(start_XA, start_XA)["reward"]}


def demonstrations(world: World, count: int, draw: torch.Generator) -> Choices:
    """Answers of an expert who picks them with the odds of their rewards, `e^r`.

    Args:
        world: its prompts.
        count: how many.
        draw: random numbers.
    """
    expert_XA = torch.where(world.answers_XA > 0, world.reward_XA, -torch.inf).log_softmax(1)
    prompt_P = torch.randint(PROMPTS, (count,), generator=draw)
    return Choices(prompt_P, {"chosen": sample(expert_XA, prompt_P, draw)[:, 0]})


def pairs(world: World, count: int, draw: torch.Generator, most: int = 2000) -> Choices:
    """Pairs of answers, the first so many of the largest set; each also with another prompt's action, for KTO.

    Args:
        world: its prompts.
        count: how many.
        draw: random numbers.
        most: size of the largest set.
    """
    every = labelled(world.reward_XA[:PROMPTS], most, draw, world.answers_XA[:PROMPTS])
    actions = {role: action_P[:count] for role, action_P in every.actions.items()}
    mismatched_P = torch.cat(list(actions.values()))[torch.randint(2 * count, (count,), generator=draw)]
    return replace(every, prompt_P=every.prompt_P[:count], actions={**actions, "mismatched": mismatched_P})


def trained(world: World, start_XA: Tensor, choices: Choices, objective: Objective, steps: int, rate: float) -> Tensor:
    """Log-probabilities after training from a start that is also the reference.

    Args:
        world: its features.
        start_XA: log-probabilities to begin from.
        choices: what is compared, over the prompts to train.
        objective: what is minimised.
        steps: updates.
        rate: of the descent.
    """
    policy = LogLinear(world.features_XAD, start_XA)
    optimizer = torch.optim.SGD(policy.parameters(), lr=rate)
    for _ in updates(policy, objective, lambda logp_XA: choices, optimizer, steps):
        pass
    return policy().detach()
