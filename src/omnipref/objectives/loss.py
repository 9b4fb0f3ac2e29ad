"""The one place where losses per preference become one number."""

from __future__ import annotations

from torch import Tensor

from omnipref.scores import Cases


def reduce_loss(loss_P: Tensor, cases: Cases) -> Tensor:
    """The mean over preferences of weight times loss: `Σ_p w_p L_p / P`, with gradient.

    The weight is the column `weight` and 1 without it. It is divided by the number of preferences, not by the sum of
    weights, so that a weight means the same in any batch: the mean over equal micro-batches, or over processes that
    hold equally many preferences, is the value of the whole batch.

    Args:
        loss_P: `[P]`, as an objective returns it.
        cases: their alignment.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> reduce_loss(torch.tensor([1.0, 3.0]), pair_scores(torch.zeros(2), torch.zeros(2)).cases)
        tensor(2.)
    """
    weight_P = cases.columns.get("weight")
    return (loss_P if weight_P is None else loss_P * weight_P).mean()
