"""Why a pair is ordered as it is: eight attributes, three that count, and one that goes with the label by chance.

A pair is the differences of eight attributes. The label depends on three of them. A fourth, verbosity, points to the
better response in 80 % of the training pairs, and in half of the test pairs. The reason of a pair is the attribute that
contributes most to its label. One weight vector orders responses, and says which attribute was the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import parse_objective
from omnipref.scores import Scores
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.scorers.cases import minimised, scored

ATTRIBUTES, COUNTING, VERBOSITY, FRESH = 8, 3, 3, 4000


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text; `rationale` reads the reason.
        pairs: how many.
        drawn_reasons: reasons drawn by chance, instead of the true ones.
        spurious: share of the training pairs in which verbosity points to the better response.
    """

    objective: str
    pairs: int = 20
    drawn_reasons: bool = False
    spurious: float = 0.8


@dataclass(frozen=True)
class Reasons:
    """Pairs and why they are ordered.

    Args:
        gap_PA: attributes of the better response minus those of the worse.
        reason_P: attribute that contributes most.
    """

    gap_PA: Tensor
    reason_P: Tensor

    def scores(self, weight_A: Tensor) -> Scores:
        """Scores of both responses, the worse one 0, and as `rationale` the log-probability of the reason.

        Args:
            weight_A: what both share; the reason's distribution is the softmax over attributes of weight times gap.
        """
        part_PA = self.gap_PA * weight_A
        better_P = part_PA.sum(1)
        reason_P = part_PA.log_softmax(1).gather(1, self.reason_P[:, None])[:, 0]
        return scored({"chosen": better_P, "rejected": 0 * better_P, "rationale": reason_P})


def draw_pairs(count: int, spurious: float, draw: torch.Generator) -> Reasons:
    """Pairs with the better response first.

    Args:
        count: how many.
        spurious: share in which verbosity points to the better response.
        draw: random numbers.
    """
    gap_PA = torch.randn(count, ATTRIBUTES, generator=draw)
    gap_PA = gap_PA * gap_PA[:, :COUNTING].sum(1, keepdim=True).sign()
    towards_P = torch.rand(count, generator=draw) < spurious
    gap_PA[:, VERBOSITY] = gap_PA[:, VERBOSITY].abs() * torch.where(towards_P, 1.0, -1.0)
    return Reasons(gap_PA, gap_PA[:, :COUNTING].argmax(1))


def run(
    arm: str, seed: int, *, arms: Mapping[str, Mapping[str, Any]], steps: int = 300, rate: float = 0.5
) -> dict[str, float]:
    """Train the weights by gradient descent.

    `accuracy` is the share of new pairs, in which verbosity says nothing, that are ordered right; `verbosity` the
    weight of verbosity over the mean weight of the attributes that count.

    Args:
        arm: one of `arms`.
        seed: of the pairs.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: of the descent.
    """
    plan = plan_of(Arm, arms, arm)
    draw = torch.Generator().manual_seed(seed)
    fresh, known = draw_pairs(FRESH, 0.5, draw), draw_pairs(plan.pairs, plan.spurious, draw)
    if plan.drawn_reasons:
        known = Reasons(known.gap_PA, torch.randint(ATTRIBUTES, (plan.pairs,), generator=draw))
    objective, weight_A = parse_objective(plan.objective), torch.zeros(ATTRIBUTES, requires_grad=True)
    optimizer = torch.optim.SGD([weight_A], lr=rate)
    for _ in minimised(lambda: known.scores(weight_A), lambda progress: objective, optimizer, steps):
        pass
    found_A = weight_A.detach()
    return {
        "accuracy": (fresh.gap_PA @ found_A > 0).float().mean().item(),
        "verbosity": (found_A[VERBOSITY] / found_A[:COUNTING].mean()).item(),
    }
