"""Sequences under a table: each unit was drawn from one of its rows, which is a state, as one of its columns.

Axes besides the library's: R rows of the table, V columns (words, options). Policies over a table are those of
`worlds.bandits.policies`, with rows for prompts and columns for actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from omnipref.objectives import Objective, reduce_loss
from omnipref.scores import Cases, Scores


def score(logp_RV: Tensor, reference_RV: Tensor, row_NU: Tensor, column_NU: Tensor, cases: Cases) -> Scores:
    """Scores of N sequences of U units under a table and under its reference.

    Args:
        logp_RV: log-probabilities of the policy, with gradient.
        reference_RV: those of the reference.
        row_NU: the row that each unit was drawn from.
        column_NU: what was drawn.
        cases: what each sequence is.

    Example:
        >>> table_RV = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
        >>> rows, columns = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1, 1], [0, 0]])
        >>> score(table_RV, table_RV, rows, columns, list_cases(torch.tensor([[1.0, 0.0]]))).logp.exp()
        tensor([[0.5000, 0.7500],
                [0.5000, 0.2500]])
    """
    picked = (row_NU, column_NU)
    return Scores(logp_RV[picked], torch.ones_like(row_NU, dtype=torch.bool), cases, reference_RV[picked])


def list_cases(score_PK: Tensor) -> Cases:
    """P lists of K scored cases, list after list, as roles `response_0` ... in the order given; equal scores tie.

    Example:
        >>> list_cases(torch.tensor([[0.2, 0.9, 0.2]])).rank_N
        tensor([1, 0, 1])
    """
    lists, length = score_PK.shape
    number_P = torch.arange(lists)
    rank_PK = (score_PK[:, None, :] > score_PK[:, :, None]).sum(2)
    return Cases(
        number_P,
        {f"response_{k}": number_P * length + k for k in range(length)},
        number_P.repeat_interleave(length),
        rank_PK.flatten(),
        torch.zeros(lists * length, dtype=torch.long),
        {"score": score_PK.flatten()},
    )


def pair_cases(chosen_P: Tensor, rejected_P: Tensor, count: int) -> Cases:
    """P pairs between N sequences; one sequence may stand in several pairs, so none has a rank of its own.

    Args:
        chosen_P: number of the better sequence of each pair.
        rejected_P: of the worse one.
        count: N.
    """
    unranked_N = torch.full((count,), -1)
    rows = {"chosen": chosen_P, "rejected": rejected_P}
    return Cases(torch.arange(len(chosen_P)), rows, torch.zeros_like(unranked_N), unranked_N, unranked_N + 1)


def descend(
    objective: Objective, scored: Callable[[], Scores], optimizer: torch.optim.Optimizer, count: int
) -> Iterator[int]:
    """Minimise an objective on full batches, in place; after each update its number is given, from 1.

    Nothing happens until the iterator is read.

    Args:
        objective: what is minimised.
        scored: the batch under the policy as it is, with gradient.
        optimizer: of all that is trained.
        count: how many updates.
    """
    state = objective.initial_state()
    for number in range(1, count + 1):
        scores = scored()
        outcome = objective(scores, state)
        state = outcome.state
        optimizer.zero_grad()
        reduce_loss(outcome.loss_P, scores.cases).backward()
        optimizer.step()
        yield number


def value_at(path: Sequence[tuple[float, float]], level: float) -> float:
    """The second number where the first one gets to `level` for the first time, between points on a straight line.

    Where it never does, that of the last point.

    Example:
        >>> value_at([(0.0, 0.0), (0.1, 1.0), (0.3, 2.0), (0.2, 5.0)], 0.2)
        1.5
    """
    for (before, low), (after, high) in pairwise(path):
        if before < level <= after:
            return low + (high - low) * (level - before) / (after - before)
    return path[-1][1]
