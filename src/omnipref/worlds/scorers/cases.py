"""Scores of a scorer as the library's scores: one unit per case, beside a reference of zeros.

So every objective reads a scorer's score as it reads a log-ratio: `dpo(beta=1.0)` is the loss of Bradley and Terry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from omnipref.objectives import Objective, reduce_loss
from omnipref.scores import Cases, Scores

PAIR = {"chosen": 0, "rejected": 1}
"""Ranks of the cases of a pair."""


def scored(value: Mapping[str, Tensor], ranks: Mapping[str, int] = PAIR) -> Scores:
    """Scores of P preferences.

    Args:
        value: role to the scores of its cases, `[P]`, with gradient.
        ranks: role to its rank, 0 best; roles that are not named are not ranked.

    Example:
        >>> from omnipref.objectives import dpo
        >>> value = {"chosen": torch.tensor([1.3]), "rejected": torch.tensor([0.4])}
        >>> dpo(beta=1.0)(scored(value)).loss_P
        tensor([0.3412])
    """
    value_N1 = torch.cat(list(value.values()))[:, None]
    count = len(next(iter(value.values())))
    cases = _aligned(tuple(value), tuple(ranks.get(role, -1) for role in value), count)
    return Scores(value_N1, torch.ones_like(value_N1, dtype=torch.bool), cases, torch.zeros_like(value_N1))


@lru_cache(maxsize=64)
def _aligned(roles: tuple[str, ...], ranks: tuple[int, ...], count: int) -> Cases:
    number_P = torch.arange(count)
    rows = {role: number_P + i * count for i, role in enumerate(roles)}
    label = torch.tensor([{"chosen": 1, "rejected": -1}.get(role, 0) for role in roles])
    rank_N, label_N = (value.repeat_interleave(count) for value in (torch.tensor(ranks), label))
    return Cases(number_P, rows, number_P.repeat(len(roles)), rank_N, label_N)


def minimised(
    scores: Callable[[], Scores],
    objective: Callable[[float], Objective],
    optimizer: torch.optim.Optimizer,
    count: int,
) -> Iterator[int]:
    """Minimise an objective on a scorer's scores, in place; after each update its number is given, from 1.

    Nothing happens until the iterator is read. Objectives are to hold no state.

    Args:
        scores: the whole batch as the scorer scores it now.
        objective: what is minimised, from the share of training that is done.
        optimizer: of the scorer's parameters.
        count: how many updates.
    """
    for number in range(1, count + 1):
        now = scores()
        loss = reduce_loss(objective((number - 1) / count)(now).loss_P, now.cases)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield number
