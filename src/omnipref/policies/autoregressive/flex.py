"""Token forests for FlexAttention: a mask as a function of two places, from which GPUs get the blocks they can skip.

FlexAttention (arXiv 2412.05496) visits only blocks of 128 by 128 places in which some token sees some other, and needs
no tensor over all pairs: on GPUs a row may hold as many trees as memory allows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from omnipref.policies.autoregressive.attention import Attention, by_kind, visible
from omnipref.policies.autoregressive.backbone import language_model
from omnipref.policies.autoregressive.implementation import set_text_attention, text_attention
from omnipref.policies.reference import evaluating

FLEX_ATTENTION = "flex_attention"
"""Name of the attention implementation in `transformers`."""

BLOCK = 128
"""Places of a block, the size that FlexAttention takes by default."""
STRIPE = 8 * BLOCK
"""Queries of a row whose pairs with all keys are looked at together."""
GRAPHS = 64
"""Versions of the kernel that may be compiled: by kind of layer, with blocks, with gradient, for changing lengths."""

Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a query sees a key: row, head, the query's column, the key's column, to bool."""


def block_masks(
    attention: Attention, config: Any, inputs: Mapping[str, Any], dtype: torch.dtype
) -> BlockMask | dict[str, BlockMask]:
    """Like `forest_masks`, as block masks: one for all layers, or by kind of layer where these differ.

    Args:
        attention: the model's blocks.
        config: its text configuration, which names the layers' reaches.
        inputs: `run_BT`, `ancestor_BGG`, `depth_BT`, `block_BT`, `blocks` and the longest depth, `longest`.
        dtype: of the attention; a block mask has none.
    """
    del dtype
    # Beyond this limit the compiler goes over to plain operations, which hold all pairs.
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    found = visibility(attention, config, inputs)
    if isinstance(found, dict):
        return {kind: _block_mask(sees, inputs["run_BT"]) for kind, sees in found.items()}
    return _block_mask(found, inputs["run_BT"])


def _block_mask(sees: Sees, run_BT: Tensor) -> BlockMask:
    """What `create_block_mask` makes, without a tensor over all pairs and without being compiled for every shape."""
    rows, width = run_BT.shape
    count = -(-width // BLOCK)
    row, key = (torch.arange(size, device=run_BT.device) for size in (rows, width))
    pairs = []
    for query in key.split(STRIPE):
        seen = sees(row[:, None, None], row, query[None, :, None], key[None, None, :])
        lines = -(-len(query) // BLOCK)
        whole = pad(seen, (0, count * BLOCK - width, 0, lines * BLOCK - len(query)))
        pairs.append(whole.view(rows, lines, BLOCK, count, BLOCK).sum((2, 4)))
    pairs_BQK = torch.cat(pairs, 1)[:, None]
    full = pairs_BQK == BLOCK * BLOCK
    kinds = [_ordered(which) for which in ((pairs_BQK > 0) & ~full, full)]
    return BlockMask.from_kv_blocks(*kinds[0], *kinds[1], BLOCK, sees, (width, width))


def _ordered(which: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each line are chosen, and all blocks with the chosen ones first."""
    order = which.to(torch.int32).argsort(dim=-1, descending=True, stable=True)
    return which.sum(-1, dtype=torch.int32), order.to(torch.int32)


def visibility(attention: Attention, config: Any, inputs: Mapping[str, Any]) -> Sees | dict[str, Sees]:
    """Who sees whom as a function of places, the same as `forest_masks`: one, or by kind of layer.

    Runs of a tree stand in depth-first order, so all that is below a token stands in one stretch after it: a query sees
    a key if it stands between the key and that stretch's end.

    Args:
        attention: the model's blocks.
        config: its text configuration.
        inputs: see `block_masks`.
    """
    depth_BT, end_BT = inputs["depth_BT"], _ends(inputs["run_BT"], inputs["ancestor_BGG"])
    block_BT = _blocks(inputs["run_BT"], inputs["block_BT"]) if inputs["blocks"] else None

    def one(kind: str, reach: int | None) -> Sees:
        def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            before = (key <= query) & (query < end_BT[row, key])
            together = None if block_BT is None else block_BT[row, query] == block_BT[row, key]
            return visible(attention, kind, reach, before, depth_BT[row, query], depth_BT[row, key], together)

        return sees

    return by_kind(config, inputs["longest"], one)


def _ends(run_BT: Tensor, ancestor_BGG: Tensor) -> Tensor:
    """The column after the last token that is on a path through each token."""
    columns = torch.arange(1, run_BT.shape[1] + 1, device=run_BT.device).expand_as(run_BT)
    last_BG = run_BT.new_zeros(ancestor_BGG.shape[:2]).scatter_reduce(1, run_BT, columns, "amax")
    return (ancestor_BGG * last_BG[:, :, None]).amax(1).gather(1, run_BT)


def _blocks(run_BT: Tensor, block_BT: Tensor) -> Tensor:
    """A number for each two-way block of a row, and one of its own for each token outside of blocks."""
    width = run_BT.shape[1]
    columns = torch.arange(width, device=run_BT.device)
    return torch.where(block_BT >= 0, run_BT * width + block_BT, -1 - columns)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run FlexAttention as plain tensor operations inside, for small trials on any device.

    Example:
        >>> with uncompiled(), torch.no_grad():
        ...     x = torch.ones(1, 1, 4, 8, dtype=torch.float64)
        ...     print(tuple(flex_attention(x, x, x).shape))
        (1, 1, 4, 8)
    """
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        warnings.filterwarnings("ignore", "_compile flag on create_block_mask", DeprecationWarning)
        yield


def why_no_flex(model: nn.Module, device: torch.device | str) -> str | None:
    """Why a model cannot train with FlexAttention on a device, or None; asked with two small trials.

    Args:
        model: as loaded, on any device; its implementation stays what it is.
        device: where it will be trained.
    """
    config = language_model(model).config.get_text_config()  # type: ignore[union-attr,operator]
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    shape = (heads, groups, size)
    return _why_no_states(model) or _why_no_kernel(torch.device(device), next(model.parameters()).dtype, *shape)


@torch.no_grad()
def _why_no_states(model: nn.Module) -> str | None:
    """Run the text part on a few states with its own implementation and with FlexAttention."""
    inner, own = language_model(model), text_attention(model)
    weight = inner.get_input_embeddings().weight  # type: ignore[operator]
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(1, 8, weight.shape[1], generator=draw).to(weight.device, weight.dtype)
    found = []
    try:
        with evaluating(model), uncompiled():
            for name in (own, FLEX_ATTENTION):
                if not set_text_attention(model, name):
                    return f"{type(inner).__name__} does not support {name} in transformers"
                found.append(inner.get_decoder()(inputs_embeds=states, use_cache=False).last_hidden_state)  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        set_text_attention(model, own)
    return _why_different([(found[1], found[0])])


def _why_different(pairs: Iterable[tuple[Tensor, Tensor]]) -> str | None:
    """A sentence if some tensor is not what it should be: wrong masks differ by far more than any precision does."""
    difference = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
    return None if difference < 0.05 else f"a trial differed from dense attention by {difference:.0%}"


@cache
def _why_no_kernel(device: torch.device, dtype: torch.dtype, heads: int, groups: int, size: int) -> str | None:
    """Compile attention of one shape, run it and its gradient, and compare with dense attention."""
    length = 256
    try:
        draw = torch.Generator().manual_seed(0)
        shapes = [(1, count, length, size) for count in (heads, groups, groups)]
        states = [torch.randn(shape, generator=draw).to(device, dtype).requires_grad_() for shape in shapes]
        query, key, value = states
        mask = create_block_mask(_causal, None, None, length, length, device=device)
        found = _compiled(flex_attention)(query, key, value, block_mask=mask, enable_gqa=heads != groups)
        plain = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=heads != groups)
        gradients = [torch.autograd.grad(each.square().sum(), states) for each in (found, plain)]
        return _why_different(zip((found, *gradients[0]), (plain, *gradients[1]), strict=True))
    except Exception as error:  # whatever the compiler or the device cannot do
        return str(error).strip().partition("\n")[0] or type(error).__name__


def _causal(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key
