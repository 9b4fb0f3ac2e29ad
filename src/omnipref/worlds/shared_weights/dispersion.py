"""Where the probability goes: four prompts, ten responses, and one pair for each prompt.

The model is first trained to give 98 % to four responses of each prompt, evenly; these are on-policy, the others are
off-policy. A pair is a chosen and a rejected response, each of either kind. The eight others are never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import parse_objective
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.choices import Choices
from omnipref.worlds.bandits.descent import updates
from omnipref.worlds.bandits.policies import Tabular
from omnipref.worlds.shared_weights.network import Network, fit, untrained

PROMPTS, RESPONSES, LIKELY, WIDTH = 4, 10, 4, 64
LIKELY_MASS = 0.98


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text.
        chosen_likely: whether the chosen response is on-policy.
        rejected_likely: whether the rejected response is on-policy.
        shared: a network that all responses share; otherwise a logit for every prompt and response.
        rate: of Adam.
    """

    objective: str
    chosen_likely: bool = True
    rejected_likely: bool = True
    shared: bool = True
    rate: float = 1e-3


@dataclass(frozen=True)
class Course:
    """Log-probabilities of the chosen and of the rejected response at every step, `[T, X]`, from before training on."""

    chosen_TX: Tensor
    rejected_TX: Tensor

    def measure(self) -> dict[str, float]:
        """What became of the pair, as means over prompts.

        `peak` and `chosen`, the highest and the last probability of the chosen response; `fall`, their difference;
        `log_rejected`, the last log-probability of the rejected response, in nats; `unseen`, the last probability of
        all responses that no pair holds.
        """
        chosen_T, rejected_T = (log_TX.exp().mean(1) for log_TX in (self.chosen_TX, self.rejected_TX))
        peak, last = chosen_T.max().item(), chosen_T[-1].item()
        return {
            "peak": peak,
            "chosen": last,
            "fall": peak - last,
            "log_rejected": self.rejected_TX[-1].mean().item(),
            "unseen": 1 - last - rejected_T[-1].item(),
        }


def draw_model(seed: int) -> tuple[Network, Tensor]:
    """The trained model, and the responses of each prompt, `[X, A]`, the likely ones first.

    Args:
        seed: of the weights and of which responses are likely.
    """
    draw = torch.Generator().manual_seed(seed)
    order_XA = torch.rand(PROMPTS, RESPONSES, generator=draw).argsort(1)
    mass_A = torch.full((RESPONSES,), (1 - LIKELY_MASS) / (RESPONSES - LIKELY))
    mass_A[:LIKELY] = LIKELY_MASS / LIKELY
    target_XA = torch.zeros(PROMPTS, RESPONSES).scatter(1, order_XA, mass_A.expand(PROMPTS, -1))
    return fit(untrained(PROMPTS, RESPONSES, WIDTH, seed), target_XA), order_XA


def run(arm: str, seed: int, *, arms: Mapping[str, Mapping[str, Any]], steps: int = 500) -> dict[str, float]:
    """Train one arm with Adam on all four pairs at once, and follow the probabilities (`Course.measure`).

    Args:
        arm: one of `arms`.
        seed: of the model and of the pairs.
        arms: arm to the fields of `Arm`.
        steps: updates.
    """
    plan = plan_of(Arm, arms, arm)
    network, order_XA = draw_model(seed)
    policy = network if plan.shared else Tabular(network.reference_XA)
    chosen_X = order_XA[:, 0 if plan.chosen_likely else LIKELY]
    rejected_X = order_XA[:, 1 if plan.rejected_likely else LIKELY + 1]
    pairs = Choices(torch.arange(PROMPTS), {"chosen": chosen_X, "rejected": rejected_X})
    seen: list[Tensor] = []

    def draw(logp_XA: Tensor) -> Choices:
        seen.append(logp_XA)
        return pairs

    optimizer = torch.optim.Adam(policy.parameters(), lr=plan.rate)
    for _ in updates(policy, parse_objective(plan.objective), draw, optimizer, steps):
        pass
    logp_TXA = torch.stack([*seen, policy().detach()])
    rows_X = torch.arange(PROMPTS)
    return Course(logp_TXA[:, rows_X, chosen_X], logp_TXA[:, rows_X, rejected_X]).measure()
