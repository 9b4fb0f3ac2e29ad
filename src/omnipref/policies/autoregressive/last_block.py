"""The last block's feed-forward part, computed only for states that are read.

What the last block adds to a token's state matters to that state alone, because no further block attends to it. Of a
prompt only the last state is read, so the feed-forward part, most of a block's work, is left out for the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from omnipref.policies.autoregressive.backbone import accepts, blocks_within

MATRICES = (nn.Linear, Conv1D)
"""What a part may hold of weights that treats each token alone. Experts are others: their routers' loss is of all."""


@contextmanager
def read_at(backbone: nn.Module, read_M: Tensor | None, shape_BT: Sequence[int]) -> Iterator[None]:
    """Inside, the feed-forward parts of the last block give zeros for states that are not read.

    Nothing is left out where that could not be repeated: under gradient checkpointing, which runs blocks again after
    the pass, in compiled blocks, which would be compiled anew, and where a part is given tokens in another shape, some
    of them at a time, or something beside them, such as a residual to add.

    Args:
        backbone: the model without its head.
        read_M: index of each state that is read, over all tokens of the batch, each once; None for all.
        shape_BT: rows and columns of the tokens.
    """
    with ExitStack() as stack:
        if read_M is not None:
            for part in _once_through(backbone):
                stack.enter_context(_narrowed(part, read_M, tuple(shape_BT)))
        yield


def _once_through(backbone: nn.Module) -> Iterator[nn.Module]:
    """The feed-forward parts of the last block, where a pass through them is not repeated."""
    blocks = blocks_within(backbone)
    if blocks is None:
        return
    again = blocks[-1].training and any(
        getattr(each, "gradient_checkpointing", False) for each in (backbone, blocks[-1])
    )
    if again or any(getattr(part, "_compiled_call_impl", None) for part in blocks[-1].modules()):
        return
    yield from feed_forward(blocks[-1])


@contextmanager
def _narrowed(part: nn.Module, read_M: Tensor, shape_BT: tuple[int, ...]) -> Iterator[None]:
    """Let a module from `[B, T, D]` to `[B, T, E]` see some of its tokens alone."""
    narrow: list[bool] = []

    def before(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        narrow.append(len(given) == 1 and tuple(given[0].shape[:-1]) == shape_BT)
        return (given[0].flatten(0, 1)[read_M.to(given[0].device)][None],) if narrow[-1] else given

    def after(_module: nn.Module, _given: tuple[Any, ...], found_MD: Tensor) -> Tensor:
        if not narrow.pop():
            return found_MD
        whole = found_MD.new_zeros(math.prod(shape_BT), found_MD.shape[-1])
        return whole.index_copy(0, read_M.to(whole.device), found_MD[0]).unflatten(0, shape_BT)

    hooks = [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def feed_forward(block: nn.Module) -> Iterator[nn.Module]:
    """The parts of a block that treat each token alone: of matrices only, and without an attention mask.

    Args:
        block: of a `transformers` model, adapters included.
    """
    for part in block.children():
        owners = [module for module in part.modules() if any(True for _ in module.parameters(recurse=False))]
        whole = any(True for _ in part.children()) and not accepts(part.forward, "attention_mask")
        if whole and owners and all(isinstance(module, MATRICES) for module in owners):
            yield part
