"""Quality and obedience: pairs labelled without instructions, and a scorer that is to follow them.

A response is four numbers of quality and six attributes that it has or not. People prefer quality, with a liking for
some attributes. A prompt may require some attributes to be there or not. The scorer is linear in quality, attributes,
and the cells of requirement times attribute; ordinary pairs say nothing of those cells.
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

QUALITY, ATTRIBUTES, PAIRS, FRESH, REQUIRED = 4, 6, 200, 2000, 4
NOTHING = -1
FEATURES = QUALITY + ATTRIBUTES + 4 * ATTRIBUTES


@dataclass(frozen=True)
class Responses:
    """Responses and what is true of them.

    Args:
        quality_PQ: numbers of quality.
        has_PA: attributes, 0 or 1.
    """

    quality_PQ: Tensor
    has_PA: Tensor

    def features(self, required_PA: Tensor | None = None) -> Tensor:
        """What the scorer sees of them under prompts, `[P, 34]`.

        Args:
            required_PA: 1 and 0 for an attribute that must be there and that must not, `NOTHING` for neither.
        """
        required_PA = torch.full_like(self.has_PA, NOTHING) if required_PA is None else required_PA
        cell_PA = 2 * required_PA + self.has_PA
        cells_PA4 = cell_PA[:, :, None] == torch.arange(4)
        cells_PA4 = cells_PA4 & (required_PA != NOTHING)[:, :, None]
        return torch.cat([self.quality_PQ, self.has_PA, cells_PA4.flatten(1)], 1).float()

    def picked(self, first_P: Tensor, other: Responses) -> Responses:
        """These where `first_P`, the others elsewhere.

        Args:
            first_P: bool.
            other: the others.
        """
        return Responses(
            torch.where(first_P[:, None], self.quality_PQ, other.quality_PQ),
            torch.where(first_P[:, None], self.has_PA, other.has_PA),
        )


def draw_responses(count: int, draw: torch.Generator) -> Responses:
    """Responses of any quality, each attribute in half of them.

    Args:
        count: how many.
        draw: random numbers.
    """
    quality_PQ = torch.randn(count, QUALITY, generator=draw)
    return Responses(quality_PQ, torch.randint(2, (count, ATTRIBUTES), generator=draw))


def preferred(taste_D: Tensor, first: Responses, second: Responses) -> tuple[Responses, Responses]:
    """The better and the worse of two, pair by pair.

    Args:
        taste_D: weights of quality and attributes.
        first: one of each pair.
        second: the other.
    """
    score_2P = [torch.cat([one.quality_PQ, one.has_PA], 1) @ taste_D for one in (first, second)]
    first_P = score_2P[0] > score_2P[1]
    return first.picked(first_P, second), first.picked(~first_P, second)


def two_prompts(has_PA: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Requirements that responses obey better, and others on the same two to five attributes.

    Half of them all obeyed against not all, half some obeyed against none.

    Args:
        has_PA: attributes.
        draw: random numbers.
    """
    asked_PA, some_PA = torch.zeros_like(has_PA, dtype=torch.bool), torch.zeros_like(has_PA, dtype=torch.bool)
    for row, count in enumerate(torch.randint(2, ATTRIBUTES, (len(has_PA),), generator=draw).tolist()):
        order = torch.randperm(ATTRIBUTES, generator=draw)[:count]
        asked_PA[row, order] = True
        some_PA[row, order[: int(torch.randint(1, count + 1, (1,), generator=draw))]] = True
    all_P1 = torch.rand(len(has_PA), 1, generator=draw) < 0.5
    right_PA, wrong_PA = has_PA, 1 - has_PA
    better_PA = torch.where(all_P1 | some_PA, right_PA, wrong_PA)
    worse_PA = torch.where(all_P1 & ~some_PA, right_PA, wrong_PA)
    return tuple(torch.where(asked_PA, side, NOTHING) for side in (better_PA, worse_PA))  # type: ignore[return-value]: two


def telling_apart(better: Responses, worse: Responses, draw: torch.Generator, most: int = 3) -> Tensor:
    """Requirements that the better of two obeys and the worse does not, one to `most` of them where there are any.

    Args:
        better: one of each pair.
        worse: the other.
        draw: random numbers.
        most: how many at most.
    """
    differs_PA = better.has_PA != worse.has_PA
    order_PA = torch.where(differs_PA, torch.rand(differs_PA.shape, generator=draw), 2.0).argsort(1).argsort(1)
    count_P1 = torch.randint(1, most + 1, (len(order_PA), 1), generator=draw)
    return torch.where(differs_PA & (order_PA < count_P1), better.has_PA, NOTHING)


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text.
        mixed: prompts of a response exchanged by chance, and the pairs' instructions taken from other pairs.
    """

    objective: str
    mixed: bool = False


def training_cases(plan: Arm, taste_D: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    """Role to the features of its cases, `[P, 34]`: the pairs, and what instructions make of them.

    Args:
        plan: the arm.
        taste_D: by which pairs are labelled.
        draw: random numbers.
    """
    better, worse = preferred(taste_D, draw_responses(PAIRS, draw), draw_responses(PAIRS, draw))
    cases = {"chosen": better.features(), "rejected": worse.features()}
    for role, response in (("chosen", better), ("rejected", worse)):
        obeyed_PA, disobeyed_PA = two_prompts(response.has_PA, draw)
        swap_P1 = (torch.rand(PAIRS, 1, generator=draw) < 0.5) & plan.mixed
        cases[f"{role}@obeyed"] = response.features(torch.where(swap_P1, disobeyed_PA, obeyed_PA))
        cases[f"{role}@disobeyed"] = response.features(torch.where(swap_P1, obeyed_PA, disobeyed_PA))
    required_PA = telling_apart(better, worse, draw)
    required_PA = required_PA[torch.randperm(PAIRS, generator=draw)] if plan.mixed else required_PA
    return cases | {
        "chosen@instructed": better.features(required_PA),
        "rejected@instructed": worse.features(required_PA),
    }


def measure(weight_D: Tensor, taste_D: Tensor, draw: torch.Generator) -> dict[str, float]:
    """Of a scorer on new pairs: how often the one that obeys more of four instructions wins, and the preferred one.

    `following`, over pairs that obey differently; `plain`, without instructions.

    Args:
        weight_D: of the scorer.
        taste_D: by which pairs are preferred.
        draw: random numbers.
    """
    first, second = (draw_responses(FRESH, draw) for _ in range(2))
    order_PA = torch.rand(FRESH, ATTRIBUTES, generator=draw).argsort(1)
    required_PA = torch.randint(2, (FRESH, ATTRIBUTES), generator=draw).where(
        order_PA < REQUIRED, torch.tensor(NOTHING)
    )
    obeyed = [(required_PA == one.has_PA).sum(1) for one in (first, second)]
    margin_P = (first.features(required_PA) - second.features(required_PA)) @ weight_D
    differ_P = obeyed[0] != obeyed[1]
    right_P = (margin_P > 0) == (obeyed[0] > obeyed[1])
    better, worse = preferred(taste_D, first, second)
    plain_P = (better.features() - worse.features()) @ weight_D > 0
    return {"following": right_P[differ_P].float().mean().item(), "plain": plain_P.float().mean().item()}


def run(
    arm: str, seed: int, *, arms: Mapping[str, Mapping[str, Any]], steps: int = 300, rate: float = 0.05
) -> dict[str, float]:
    """Train a linear scorer with Adam on all pairs at once, and see what it follows (`measure`).

    Args:
        arm: one of `arms`.
        seed: of everything.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: of Adam.
    """
    plan, draw = plan_of(Arm, arms, arm), torch.Generator().manual_seed(seed)
    liked_A = torch.randn(ATTRIBUTES, generator=draw) * (torch.arange(ATTRIBUTES) < ATTRIBUTES // 2)
    taste_D = torch.cat([torch.randn(QUALITY, generator=draw), liked_A])
    cases = training_cases(plan, taste_D, draw)
    objective, weight_D = parse_objective(plan.objective), torch.zeros(FEATURES, requires_grad=True)

    def scores() -> Scores:
        return scored({role: features_PD @ weight_D for role, features_PD in cases.items()})

    optimizer = torch.optim.Adam([weight_D], lr=rate)
    for _ in minimised(scores, lambda progress: objective, optimizer, steps):
        pass
    return measure(weight_D.detach(), taste_D, torch.Generator().manual_seed(seed + 1_000_000))
