"""The short loop of these worlds: any objective on exact policies, full batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from omnipref.objectives import Objective, reduce_loss
from omnipref.worlds.bandits.choices import Choices, score
from omnipref.worlds.bandits.policies import ActionPolicy

Draw = Callable[[Tensor], Choices]
"""From the policy's log-probabilities as they are, `[X, A]` without gradient, to what is compared at this update."""


def updates(
    policy: ActionPolicy, objective: Objective, draw: Draw, optimizer: torch.optim.Optimizer, count: int
) -> Iterator[int]:
    """Minimise an objective, in place; after each update its number is given, from 1.

    Nothing happens until the iterator is read.

    Args:
        policy: what is trained, against the reference that it holds.
        objective: what is minimised.
        draw: gives the batch of each update.
        optimizer: of the policy's parameters.
        count: how many updates.
    """
    state = objective.initial_state()
    for number in range(1, count + 1):
        logp_XA = policy()
        scores = score(logp_XA, policy.reference_XA, draw(logp_XA.detach()), objective.needs.extras)
        outcome = objective(scores, state)
        state = outcome.state
        optimizer.zero_grad()
        reduce_loss(outcome.loss_P, scores.cases).backward()
        optimizer.step()
        yield number
