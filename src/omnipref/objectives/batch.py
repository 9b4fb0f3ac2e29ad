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


def everyone(value_P: Tensor) -> tuple[Tensor, slice]:
    """The values of the global batch, without gradient, and where this process's own stand among them.

    Every process must call it the same number of times, and gets the same values in the same order. Processes may hold
    different numbers of values, even none.

    Args:
        value_P: `[P]`, this process's part.

    Example:
        >>> everyone(torch.tensor([1.0, 3.0], requires_grad=True))
        (tensor([1., 3.]), slice(0, 2, None))
    """
    value_P = value_P.detach()
    if not (distributed.is_available() and distributed.is_initialized()):
        return value_P, slice(0, len(value_P))
    lengths = [torch.zeros((), dtype=torch.long, device=value_P.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(lengths, torch.tensor(len(value_P), device=value_P.device))
    sizes = [int(length) for length in lengths]
    padded = value_P.new_zeros(max(sizes)).index_copy(0, torch.arange(len(value_P), device=value_P.device), value_P)
    gathered = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(gathered, padded)
    start = sum(sizes[: distributed.get_rank()])
    whole = torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])
    return whole, slice(start, start + len(value_P))


def spread(value: Tensor) -> Tensor:
    """The standard deviation of a sample, with `n − 1`; 0 for fewer than two values.

    Example:
        >>> spread(torch.tensor([1.0, 3.0])), spread(torch.tensor([5.0]))
        (tensor(1.4142), tensor(0.))
    """
    return ((value - value.mean()).square().sum() / max(value.numel() - 1, 1)).sqrt()


def standardised(value: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """`(v − centre) / scale`; 0 where the scale is 0, that is, where nothing has differed yet.

    Example:
        >>> standardised(torch.tensor([1.0, 3.0]), torch.tensor(2.0), torch.tensor(0.5))
        tensor([-2.,  2.])
    """
    return torch.where(scale > 0, (value - centre) / torch.where(scale > 0, scale, 1.0), 0.0)


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
