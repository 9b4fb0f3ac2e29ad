"""Quantities of logits in one pass forward and one back, without autograd's tensors in between.

Autograd through a log-softmax makes about five passes over `[M, V]` and keeps a second tensor of that size. Here rows
are gone through in blocks that fit a processor's cache; forward keeps the logits alone, and backward writes one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from omnipref.policies.autoregressive.extras import Block, Quantity

BLOCK_ELEMENTS = 2**18
"""Logits gone through at a time on a CPU, 1 MiB in float32; other devices take all at once."""


def quantities_of(
    logits_MV: Tensor, target_M: Tensor, ref_logits_MV: Tensor | None, quantities: Sequence[Quantity]
) -> tuple[Tensor, ...]:
    """The quantities of each row, `[M]` or `[M, K]`, in float32 at least, with gradient to `logits_MV`.

    Args:
        logits_MV: the policy's.
        target_M: token ids.
        ref_logits_MV: the reference's; None when no quantity reads it.
        quantities: which.
    """
    return _Quantities.apply(logits_MV, target_M, ref_logits_MV, quantities)  # type: ignore[return-value]


def _rows(logits: Tensor) -> Iterator[slice]:
    count, width = logits.shape
    step = max(1, BLOCK_ELEMENTS // max(1, width)) if logits.device.type == "cpu" else max(1, count)
    return (slice(start, start + step) for start in range(0, max(1, count), step))


class _Quantities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, ref_logits: Tensor | None, quantities: Sequence[Quantity]
    ) -> tuple[Tensor, ...]:
        blocks = (Block(logits[rows], target[rows], _part(ref_logits, rows)) for rows in _rows(logits))
        pieces = [[quantity.value(block) for quantity in quantities] for block in blocks]
        values = tuple(torch.cat(column) for column in zip(*pieces, strict=True))
        ctx.quantities = quantities
        ctx.save_for_backward(logits, target, ref_logits, *values)
        fixed = [value for value, quantity in zip(values, quantities, strict=True) if quantity.gradient is None]
        ctx.mark_non_differentiable(*fixed)
        ctx.set_materialize_grads(False)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]: by decoration
        logits, target, ref_logits, *values = ctx.saved_tensors
        parts = [
            (quantity.gradient, value, g)
            for quantity, value, g in zip(ctx.quantities, values, grad_outputs, strict=True)
            if quantity.gradient is not None and g is not None
        ]
        if not parts:
            return None, None, None, None
        found = torch.empty_like(logits)
        for rows in _rows(logits):
            block = Block(logits[rows], target[rows], _part(ref_logits, rows))
            first, *others = (gradient(block, value[rows], g[rows]) for gradient, value, g in parts)
            for other in others:
                first.add_(other)
            found[rows] = first
        return found, None, None, None


def _part(value: Tensor | None, rows: slice) -> Tensor | None:
    return None if value is None else value[rows]
