"""Statistics of a batch that a loss reads but does not differentiate."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def batch_mean(value: Tensor) -> Tensor:
    """The mean over the global batch, without gradient: all processes of a distributed run get the same number.

    Every process must call it the same number of times. Processes may hold different numbers of values, even none;
    the mean of nothing at all is 0.

    Args:
        value: any shape; this process's part.

    Example:
        >>> batch_mean(torch.tensor([1.0, 3.0], requires_grad=True))
        tensor(2.)
    """
    value = value.detach()
    both = torch.stack([value.sum(), value.new_tensor(value.numel())])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(both)
    return both[0] / both[1].clamp(min=1)


def running_mean(previous: Tensor, count: Tensor, new: Tensor, momentum: float | None = None) -> Tensor:
    """A mean over batches that includes the newest.

    `δ + (r − δ)/(count + 1)`, the mean of all batches so far; or with a momentum `m`: `mδ + (1 − m)r`, starting at the
    first batch's own mean.

    Args:
        previous: `δ` before this batch.
        count: number of batches before this one.
        new: `r`, the mean of this batch.
        momentum: None for the plain mean of all batches.

    Example:
        >>> running_mean(torch.tensor(0.05), torch.tensor(1.0), torch.tensor(0.0))
        tensor(0.0250)
    """
    step = 1 / (count + 1) if momentum is None else torch.where(count == 0, 1.0, 1 - momentum)
    return (previous + (new - previous) * step).detach()
