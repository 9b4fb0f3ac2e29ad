"""Few demonstrations of an expert with habits, and then preferences: how much should be learned from the first?

60 prompts to train and 60 to test, 20 actions, 12 features; reward and style are two directions in them. The base model
likes good actions already, with noise. The expert likes reward and style alike. After fine-tuning on its
demonstrations, one at a time, DPO on clean pairs begins from the result, which is also its reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import dpo, parse_objective
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.choices import Choices, labelled
from omnipref.worlds.bandits.descent import updates
from omnipref.worlds.bandits.policies import LogLinear, divergence, expected, sample

PROMPTS, ACTIONS, FEATURES = 60, 20, 12
BASE, NOISE = 0.8, 0.8
EXPERT = 2.0
"""How much the expert likes reward."""


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: of fine-tuning, as text.
        rate: of fine-tuning; 0 for none.
        count: of demonstrations.
        style: how much the expert likes style, beside a reward of 2.
    """

    objective: str = "sft()"
    rate: float = 0.0
    count: int = 40
    style: float = 1.5


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    epochs: int = 3,
    pairs: int = 300,
    beta: float = 0.1,
    steps: int = 300,
    rate: float = 0.3,
) -> dict[str, float]:
    """Fine-tune, then DPO; on test prompts: `reward` after both, `reward_sft` and `kl_sft` after the first.

    Args:
        arm: one of `arms`.
        seed: of the world, demonstrations and pairs; the pairs are the same for all arms.
        arms: arm to the fields of `Arm`.
        epochs: of fine-tuning.
        pairs: uniform over actions, labelled as Bradley and Terry say.
        beta: of DPO.
        steps: updates of DPO.
        rate: of DPO's descent.
    """
    plan = plan_of(Arm, arms, arm)
    draw = torch.Generator().manual_seed(seed)
    features_XAD = torch.randn(2 * PROMPTS, ACTIONS, FEATURES, generator=draw, dtype=torch.float64)
    axes_DD = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=draw, dtype=torch.float64)).Q
    reward_XA, style_XA = features_XAD @ axes_DD[0], features_XAD @ axes_DD[1]
    noise_XA = torch.randn(reward_XA.shape, generator=draw, dtype=torch.float64)
    base_XA = (BASE * reward_XA + NOISE * noise_XA).log_softmax(1)
    compared = labelled(reward_XA[:PROMPTS], pairs, draw)
    expert_XA = (EXPERT * reward_XA + plan.style * style_XA).log_softmax(1)
    shown = shown_by(expert_XA, plan.count, draw)
    tuned_XA = fine_tuned(LogLinear(features_XAD, base_XA), shown, plan, epochs)
    policy = LogLinear(features_XAD, tuned_XA)
    for _ in updates(policy, dpo(beta=beta), lambda _: compared, torch.optim.SGD(policy.parameters(), lr=rate), steps):
        pass
    test = slice(PROMPTS, None)
    return {
        "reward": expected(policy().detach()[test], reward_XA[test]),
        "reward_sft": expected(tuned_XA[test], reward_XA[test]),
        "kl_sft": divergence(tuned_XA[test], base_XA[test]),
    }


def shown_by(expert_XA: Tensor, count: int, draw: torch.Generator) -> Choices:
    """Demonstrations of an expert on prompts to train.

    Args:
        expert_XA: its log-probabilities.
        count: how many.
        draw: random numbers.
    """
    prompt_P = torch.randint(PROMPTS, (count,), generator=draw)
    return Choices(prompt_P, {"chosen": sample(expert_XA, prompt_P, draw)[:, 0]})


def fine_tuned(policy: LogLinear, shown: Choices, plan: Arm, epochs: int) -> Tensor:
    """Log-probabilities after stochastic descent, one demonstration after the other.

    Args:
        policy: trained in place.
        shown: demonstrations.
        plan: objective and rate.
        epochs: how often each is seen.
    """
    one_by_one = iter(range(epochs * plan.count))

    def draw(logp_XA: Tensor) -> Choices:
        number = next(one_by_one) % plan.count
        only = slice(number, number + 1)
        return Choices(shown.prompt_P[only], {"chosen": shown.actions["chosen"][only]})

    optimizer = torch.optim.SGD(policy.parameters(), lr=plan.rate)
    for _ in updates(policy, parse_objective(plan.objective), draw, optimizer, epochs * plan.count):
        pass
    return policy().detach()
