"""Solutions of five steps that branch off a correct one, graded by how many of their steps are right.

Every step is one of eight options, of which one is right; options come in pairs of near synonyms, which have almost the
same embedding. The policy is a table of options under each of 6 questions and 5 steps, so that its divergence from the
reference and its probability of right steps are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import parse_objective, step_weights
from omnipref.scores import Cases, Scores
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.policies import Tabular, divergence, sample
from omnipref.worlds.sentences.tables import descend, list_cases, pair_cases, score, value_at

QUESTIONS, STEPS, OPTIONS, FEATURES, TREES, PATHS = 6, 5, 8, 16, 48, 5
LEVELS = {"kl_0.1": 0.1, "kl_0.2": 0.2, "kl_0.4": 0.4}


@dataclass(frozen=True)
class Trees:
    """One draw of the world: P trees with K paths of U steps; the first path is the correct one.

    Args:
        reference_RV: log-probabilities of each option at each step of each question, question after question.
        right_R: number of the right option.
        embedding_RVD: of each option; options 2i and 2i + 1 are near synonyms.
        row_PU: the row of the table at each step of each tree.
        option_PKU: what each path chose.
        value_PK: how good a path is said to be, in [0, 1]; 1 for the correct one.
    """

    reference_RV: Tensor
    right_R: Tensor
    embedding_RVD: Tensor
    row_PU: Tensor
    option_PKU: Tensor
    value_PK: Tensor

    def place(self, logp_RV: Tensor) -> tuple[float, float]:
        """Where a policy stands: its divergence from the reference in nats per step, and its mean chance to be right.

        Args:
            logp_RV: its log-probabilities.
        """
        right = logp_RV.exp().gather(1, self.right_R[:, None]).mean().item()
        return divergence(logp_RV, self.reference_RV), right


def draw_world(seed: int) -> Trees:
    """A world and its trees: of each question eight, of the correct path, three branches and a free path.

    A branch leaves the correct path at a step of its own and goes on as the reference does; a path is said to be as
    good as its share of right steps plus noise of 0.05. Logits of the reference have a standard deviation of ½,
    embeddings are standard normal, and synonyms differ by 0.2 in each feature.

    Args:
        seed: of everything.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = QUESTIONS * STEPS
    reference_RV = (0.5 * torch.randn(rows, OPTIONS, generator=draw, dtype=torch.float64)).log_softmax(1)
    right_R = torch.randint(OPTIONS, (rows,), generator=draw)
    meaning_RVD = torch.randn(rows, OPTIONS // 2, FEATURES, generator=draw).repeat_interleave(2, 1)
    embedding_RVD = meaning_RVD + 0.2 * torch.randn(rows, OPTIONS, FEATURES, generator=draw)
    row_PU = (torch.arange(TREES) % QUESTIONS)[:, None] * STEPS + torch.arange(STEPS)
    right_PKU = right_R[row_PU][:, None].expand(-1, PATHS, -1)
    leave_PK = torch.rand(TREES, STEPS, generator=draw).argsort(1)[:, : PATHS - 2]
    leave_PK = torch.cat([torch.full((TREES, 1), STEPS), leave_PK, torch.zeros(TREES, 1, dtype=torch.long)], 1)
    free_PKU = sample(reference_RV, row_PU.flatten(), draw, PATHS).reshape(TREES, STEPS, PATHS).transpose(1, 2)
    option_PKU = torch.where(torch.arange(STEPS) < leave_PK[:, :, None], right_PKU, free_PKU)
    value_PK = (option_PKU == right_PKU).double().mean(2)
    value_PK = (value_PK + 0.05 * torch.randn(value_PK.shape, generator=draw, dtype=torch.float64)).clamp(0, 1)
    value_PK[:, 0] = 1
    return Trees(reference_RV, right_R, embedding_RVD, row_PU, option_PKU, value_PK)


def _first_and_worst(value_PK: Tensor) -> Cases:
    first_P = torch.arange(len(value_PK)) * value_PK.shape[1]
    return pair_cases(first_P, first_P + value_PK.argmin(1), value_PK.numel())


def _every_two(value_PK: Tensor) -> Cases:
    tree_P, better_P, worse_P = (value_PK[:, :, None] > value_PK[:, None, :]).nonzero(as_tuple=True)
    first_P = tree_P * value_PK.shape[1]
    return pair_cases(first_P + better_P, first_P + worse_P, value_PK.numel())


VIEWS: Mapping[str, Callable[[Tensor], Cases]] = {
    "list": list_cases,
    "every_two": _every_two,
    "first_and_worst": _first_and_worst,
}
"""What a loss sees of the values `[P, K]`: each tree's list, all its pairs, or one pair of it."""


def _by_similarity(world: Trees, scores: Scores, draw: torch.Generator) -> Tensor:
    del draw
    row_NU = world.row_PU.repeat_interleave(PATHS, 0)
    return step_weights(world.embedding_RVD[row_NU, world.option_PKU.flatten(0, 1)], scores)


def _at_random(world: Trees, scores: Scores, draw: torch.Generator) -> Tensor:
    del world
    return 2 * torch.rand(scores.logp.shape, generator=draw)


def _twice(world: Trees, scores: Scores, draw: torch.Generator) -> Tensor:
    del world, draw
    return torch.full(scores.logp.shape, 2.0)


WEIGHTS: Mapping[str, Callable[[Trees, Scores, torch.Generator], Tensor]] = {
    "similarity": _by_similarity,
    "random": _at_random,
    "twice": _twice,
}
"""What the extra `step_weight` may hold: `1 + cos` of embeddings, uniform numbers in [0, 2], or 2 throughout."""


@dataclass(frozen=True)
class Arm:
    """One way to train on the trees.

    Args:
        objective: as text; it may read the extra `step_weight`.
        view: one of `VIEWS`.
        weights: one of `WEIGHTS`.
        shuffled: whether the values of a tree are given to its paths at random.
    """

    objective: str
    view: str = "list"
    weights: str = "similarity"
    shuffled: bool = False


def batch(world: Trees, plan: Arm, seed: int) -> Callable[[Tabular], Scores]:
    """The scores of all paths under a policy, as an arm sees them.

    Args:
        world: the trees.
        plan: the arm.
        seed: of the shuffle and of random weights.
    """
    draw = torch.Generator().manual_seed(seed)
    value_PK = world.value_PK
    if plan.shuffled:
        value_PK = value_PK.gather(1, torch.rand(value_PK.shape, generator=draw).argsort(1))
    row_NU, option_NU = world.row_PU.repeat_interleave(PATHS, 0), world.option_PKU.flatten(0, 1)
    table_RV, segment_NU = world.reference_RV, torch.arange(STEPS).expand_as(row_NU)
    listed = score(table_RV, table_RV, row_NU, option_NU, list_cases(value_PK))
    weight_NU = WEIGHTS[plan.weights](world, replace(listed, segment=segment_NU), draw).to(table_RV.dtype)
    cases = VIEWS[plan.view](value_PK)

    def scored(policy: Tabular) -> Scores:
        scores = score(policy(), table_RV, row_NU, option_NU, cases)
        return replace(scores, segment=segment_NU, extras={"step_weight": weight_NU})

    return scored


def run(
    arm: str, seed: int, *, arms: Mapping[str, Mapping[str, Any]], steps: int = 400, rate: float = 0.02
) -> dict[str, float]:
    """Train one arm with Adam on the full batch.

    `kl_0.1`, `kl_0.2` and `kl_0.4`, the mean chance of the right step where the policy first is so many nats per step
    away from the reference (at the end, if it never is); `final` and `kl`, chance and divergence at the end.

    Args:
        arm: one of `arms`.
        seed: of the world, shuffles and random weights.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: of Adam.
    """
    plan, world = plan_of(Arm, arms, arm), draw_world(seed)
    policy, scored = Tabular(world.reference_RV), batch(world, plan, seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    path = [world.place(world.reference_RV)]
    for _ in descend(parse_objective(plan.objective), lambda: scored(policy), optimizer, steps):
        path.append(world.place(policy().detach()))
    at_levels = {name: value_at(path, level) for name, level in LEVELS.items()}
    return {**at_levels, "final": path[-1][1], "kl": path[-1][0]}
