"""Longer and shorter ranked lists of answers: what a list teaches, at equal distance from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import parse_objective
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.sentences.answers import Answers, draw_world
from omnipref.worlds.sentences.tables import descend, list_cases, score, value_at


@dataclass(frozen=True)
class Arm:
    """One way to train on the lists.

    Args:
        objective: as text; roles are `response_0` ... best first.
        answers: how many of a prompt's five answers are ranked.
        places: which places of the ranking stay, counted from 0 for the best; empty for all.
        shuffled_from: from this place on, the answers are put in random order under scores that stay where they are.
    """

    objective: str
    answers: int = 5
    places: tuple[int, ...] = ()
    shuffled_from: int | None = None


def ranked(world: Answers, plan: Arm, seed: int) -> tuple[Tensor, Tensor]:
    """The answers that an arm trains on, best first: their words `[P, K, U]` and scores `[P, K]`.

    Args:
        world: prompts and answers.
        plan: the arm.
        seed: of the shuffle.
    """
    observed_PK = world.observed_PK[:, : plan.answers]
    score_PK, order_PK = observed_PK.sort(dim=1, descending=True, stable=True)
    if plan.shuffled_from is not None:
        key_PK = torch.rand(order_PK.shape, generator=torch.Generator().manual_seed(seed))
        key_PK[:, : plan.shuffled_from] = torch.arange(plan.shuffled_from) - plan.shuffled_from
        order_PK = order_PK.gather(1, key_PK.argsort(1))
    words_PKU = world.words_PKU.gather(1, order_PK[:, :, None].expand(-1, -1, world.words_PKU.shape[2]))
    kept = list(plan.places or range(plan.answers))
    return words_PKU[:, kept], score_PK[:, kept]


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    steps: int = 400,
    rate: float = 0.01,
    noise: float = 0.5,
    level: float = 0.1,
) -> dict[str, float]:
    """Train one arm with Adam on the full batch.

    `reward`, the true reward where the policy first is `level` nats per word away from the reference (at the end, if it
    never is); `final` and `kl`, reward and divergence at the end.

    Args:
        arm: one of `arms`.
        seed: of the world and of shuffles.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: of Adam.
        noise: of the judge.
        level: the divergence at which arms are compared.
    """
    plan = plan_of(Arm, arms, arm)
    world = draw_world(seed, noise=noise)
    words_PKU, score_PK = ranked(world, plan, seed)
    row_NU, words_NU = world.rows(words_PKU), words_PKU.flatten(0, 1)
    cases, policy = list_cases(score_PK), world.policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    path = [world.place(policy().detach())]
    for _ in descend(
        parse_objective(plan.objective),
        lambda: score(policy(), world.reference_XV, row_NU, words_NU, cases),
        optimizer,
        steps,
    ):
        path.append(world.place(policy().detach()))
    return {"reward": value_at(path, level), "final": path[-1][1], "kl": path[-1][0]}
