"""Pairs of rated answers from easy to hard, and a reference that follows or stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.build.curriculum import pairs_by_gap, stage_of
from omnipref.objectives import parse_objective
from omnipref.scores import Cases, Scores
from omnipref.training.schedules import CurriculumStages
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.policies import Tabular
from omnipref.worlds.sentences.answers import Answers, draw_world
from omnipref.worlds.sentences.tables import descend, pair_cases, score, value_at

ANSWERS, STAGES = 4, 3


@dataclass(frozen=True)
class Arm:
    """One way through the pairs of the best answer with each of the others.

    Args:
        stages: which difficulties each stage trains on, 0 for the largest gap of a prompt and 2 for the smallest; all
            stages together have the same number of updates in every arm.
        refresh: whether a stage's reference is the policy that it starts from.
        shuffled: whether the pairs of a prompt are given to difficulties at random.
    """

    stages: tuple[tuple[int, ...], ...] = ((0,), (1,), (2,))
    refresh: bool = True
    shuffled: bool = False


@dataclass(frozen=True)
class Pairs:
    """P pairs between the N answers of a world, prompt after prompt.

    Args:
        chosen_P: number of the better answer of each pair.
        rejected_P: of the worse one.
        columns: of each pair: its `stage`.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    columns: tuple[dict[str, float], ...]


def rated(observed_PK: Tensor) -> Tensor:
    """What is observed as a rating from 1 to 5, in tenths.

    Example:
        >>> rated(torch.tensor([-4.0, 0.0, 0.26]))
        tensor([1.0000, 3.0000, 3.3000])
    """
    return ((observed_PK + 3).clamp(1, 5) * 10).round() / 10


def draw_pairs(world: Answers, plan: Arm, seed: int) -> Pairs:
    """The pairs of an arm; equal ratings make none.

    Args:
        world: prompts and answers.
        plan: the arm.
        seed: of the shuffle.
    """
    draw = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    rejected: list[int] = []
    columns: list[dict[str, float]] = []
    for p, ratings in enumerate(rated(world.observed_PK).tolist()):
        pairs = pairs_by_gap(ratings)
        stages = [stage_of(number, len(pairs), STAGES) for number in range(len(pairs))]
        if plan.shuffled:
            stages = [stages[i] for i in torch.randperm(len(stages), generator=draw).tolist()]
        chosen += [p * ANSWERS + better for better, _, _ in pairs]
        rejected += [p * ANSWERS + worse for _, worse, _ in pairs]
        columns += [{"stage": float(stage)} for stage in stages]
    return Pairs(torch.tensor(chosen), torch.tensor(rejected), tuple(columns))


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    objective: str = "dpo(beta=0.1)",
    steps: int = 240,
    rate: float = 0.01,
    noise: float = 0.5,
    level: float = 0.4,
) -> dict[str, float]:
    """Train one arm, with a fresh Adam at every stage, on the stage's full batch.

    `reward`, the true reward where the policy first is `level` nats per word away from the first reference (at the end,
    if it never is); `final` and `kl`, reward and divergence at the end.

    Args:
        arm: one of `arms`.
        seed: of the world and of shuffles.
        arms: arm to the fields of `Arm`.
        objective: as text, over pairs.
        steps: updates of all stages together.
        rate: of Adam.
        noise: of the ratings.
        level: the divergence at which arms are compared.
    """
    plan, minimised = plan_of(Arm, arms, arm), parse_objective(objective)
    world = draw_world(seed, ANSWERS, noise)
    schedule = CurriculumStages(stages=plan.stages, refresh_reference=plan.refresh)
    pairs = draw_pairs(world, plan, seed)
    row_NU, words_NU, policy = world.rows(world.words_PKU), world.words_PKU.flatten(0, 1), world.policy()
    reference_XV = policy().detach()
    path = [world.place(reference_XV)]
    for part in schedule.parts(pairs.columns):
        if schedule.refresh_reference:
            reference_XV = policy().detach()
        kept = torch.tensor(part)
        cases = pair_cases(pairs.chosen_P[kept], pairs.rejected_P[kept], len(row_NU))
        optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
        batch = _batch(policy, reference_XV, row_NU, words_NU, cases)
        for _ in descend(minimised, batch, optimizer, steps // len(plan.stages)):
            path.append(world.place(policy().detach()))
    return {"reward": value_at(path, level), "final": path[-1][1], "kl": path[-1][0]}


def _batch(
    policy: Tabular, reference_XV: Tensor, row_NU: Tensor, words_NU: Tensor, cases: Cases
) -> Callable[[], Scores]:
    return lambda: score(policy(), reference_XV, row_NU, words_NU, cases)
