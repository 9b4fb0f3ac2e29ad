"""Attention over token trees, run by run: a run of tokens attends to the runs on its path and to nothing else.

No mask over all pairs of tokens is built, so a row can hold any number of trees at a cost that is linear in them, and
all other operations of the model see one row without padding. `flex_attention` does the same in one kernel, on GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from omnipref.policies.autoregressive.attention import Attention, by_kind, forest_masks, visible

TREE_ATTENTION = "omnipref_tree"
"""Name of the attention implementation in `transformers`; without a plan it is `sdpa`."""


@dataclass(frozen=True)
class TreePlan:
    """How one row of T tokens attends.

    Args:
        lengths: tokens of each run, in the order of the row; they sum to T.
        paths: the runs on each run's path from its root, itself last.
        masks: additive, run's tokens by path's tokens; None where a run is alone on its path and causal.
    """

    lengths: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    masks: tuple[Tensor | None, ...]


def tree_masks(
    attention: Attention, config: Any, inputs: Mapping[str, Any], dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Like `forest_masks`; for one row, masks that stand for a plan and hold one element.

    Args:
        attention: the model's blocks.
        config: its text configuration, which names the layers' reaches.
        inputs: `spans`, `depth_BT`, `block_BT`, `blocks` and the longest depth, `longest`.
        dtype: of the masks.
    """
    if len(inputs["spans"]) > 1:
        return forest_masks(attention, config, inputs, dtype)
    depth, block = inputs["depth_BT"][0], inputs["block_BT"][0]
    spans = inputs["spans"][0]

    def mask(kind: str, reach: int | None) -> Tensor:
        plain = reach is None and not inputs["blocks"]
        masks = []
        for span in spans:
            own = slice(span.start, span.stop)
            if plain and len(span.path) == 1:
                masks.append(None)
                continue
            path = torch.cat([torch.arange(spans[r].start, spans[r].stop) for r in span.path]).to(depth.device)
            far, near = depth[own, None], depth[None, path]
            inside = path[None] >= span.start
            together = inside & (block[own, None] == block[None, path]) & (block[own, None] >= 0)
            sees = visible(attention, kind, reach, near <= far, far, near, together if inputs["blocks"] else None)
            masks.append(torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, float("-inf")))
        lengths = tuple(span.stop - span.start for span in spans)
        return _carrier(TreePlan(lengths, tuple(span.path for span in spans), tuple(masks)), depth)

    return by_kind(config, inputs["longest"], mask)


def _carrier(plan: TreePlan, like: Tensor) -> Tensor:
    """A mask of the shape that models expect, without its memory; models hand it on to attention as it is."""
    width = sum(plan.lengths)
    mask = torch.ones((), dtype=torch.bool, device=like.device).expand(1, 1, width, width)
    mask.tree_plan = plan  # type: ignore[attr-defined]
    return mask


@torch.compiler.disable
def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of `transformers`: by the mask's plan where it has one, else `sdpa`.

    Args:
        module: the attention layer.
        query: `[B, H, T, D]`.
        key: `[B, H / groups, T, D]`.
        value: like `key`.
        attention_mask: from `tree_masks`, or any mask of `sdpa`.
        dropout: probability.
        scaling: factor on the logits.
        options: further arguments of `sdpa`.
    """
    plan: TreePlan | None = getattr(attention_mask, "tree_plan", None)
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    if _has_kernel(query, key, value, dropout):
        return _ByRuns.apply(query, key, value, plan, scaling), None  # type: ignore[return-value]
    groups, found = query.shape[1] // key.shape[1], []
    queries, *sides = (states.split(plan.lengths, dim=2) for states in (query, key, value))
    for own, path, mask in zip(queries, plan.paths, plan.masks, strict=True):
        near, content = (repeat_kv(_along(runs, path), groups) for runs in sides)
        options = {"attn_mask": mask, "dropout_p": dropout, "scale": scaling, "is_causal": mask is None}
        found.append(scaled_dot_product_attention(own, near, content, **options))
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None


def _along(runs: Sequence[Tensor], path: tuple[int, ...]) -> Tensor:
    """The states of a path's tokens, of each run `[B, H, tokens, D]`."""
    near = [runs[r] for r in path]
    return torch.cat(near, 2) if len(near) > 1 else near[0]


_KERNEL: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_KERNEL_BACKWARD: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def _has_kernel(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether `scaled_dot_product_attention` would call the CPU's kernel for these, and a gradient is wanted."""
    alike = query.dtype == key.dtype == value.dtype and query.shape[-1] == key.shape[-1] == value.shape[-1]
    plain = query.device.type == "cpu" and not dropout and not torch.is_autocast_enabled("cpu")
    wanted = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    known = _KERNEL is not None and _KERNEL_BACKWARD is not None and torch.backends.cuda.flash_sdp_enabled()
    return alike and plain and wanted and known


class _ByRuns(torch.autograd.Function):
    """Attention by runs that keeps its inputs for the gradient, and not the states of every path once more.

    A beginning that K responses share would otherwise be kept K times over.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, scaling: float | None) -> Tensor:
        out_BTHD = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        groups, sums = query.shape[1] // key.shape[1], []
        queries, *sides = (states.split(plan.lengths, dim=2) for states in (query, key, value))
        rows = zip(queries, out_BTHD.split(plan.lengths, dim=1), plan.paths, plan.masks, strict=True)
        for own, out, path, mask in rows:
            near, content = (repeat_kv(_along(runs, path), groups) for runs in sides)
            found, log_sum = _KERNEL(own, near, content, 0.0, mask is None, attn_mask=mask, scale=scaling)
            out.copy_(found.transpose(1, 2))
            sums.append(log_sum)
        ctx.save_for_backward(query, key, value, out_BTHD, *sums)
        ctx.plan, ctx.scaling = plan, scaling
        return out_BTHD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]: by decoration
        query, key, value, out_BTHD, *sums = ctx.saved_tensors
        plan: TreePlan = ctx.plan
        groups = query.shape[1] // key.shape[1]
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        given = (query, key, value, grad_outputs[0].transpose(1, 2), out_BTHD.transpose(1, 2))
        queries, keys, values, *after = (states.split(plan.lengths, dim=2) for states in given)
        to_queries, *totals = (states.split(plan.lengths, dim=2) for states in (to_query, to_key, to_value))
        rows = zip(queries, to_queries, *after, sums, plan.paths, plan.masks, strict=True)
        for own, to_own, grad, out, log_sum, path, mask in rows:
            near, content = (repeat_kv(_along(runs, path), groups) for runs in (keys, values))
            found, *others = _KERNEL_BACKWARD(
                grad, own, near, content, out, log_sum, 0.0, mask is None, attn_mask=mask, scale=ctx.scaling
            )
            to_own.copy_(found)
            for runs, part in zip(totals, others, strict=True):
                shared = part if groups == 1 else part.unflatten(1, (-1, groups)).sum(2)
                for r, piece in zip(path, shared.split([plan.lengths[r] for r in path], dim=2), strict=True):
                    runs[r].add_(piece)
        return to_query, to_key, to_value, None, None


AttentionInterface.register(TREE_ATTENTION, tree_attention)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
