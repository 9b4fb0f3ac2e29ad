"""Attention over token trees, run by run: the same as one dense mask, and what it keeps for the gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from omnipref.policies.autoregressive import tree_attention as runs
from omnipref.policies.autoregressive.tree_attention import TreePlan

TREES = {
    "pair": ((5, 3, 4), ((0,), (0, 1), (0, 2))),
    "steps": ((4, 2, 3, 1, 2), ((0,), (0, 1), (0, 1, 2), (0, 1, 3), (0, 4))),
    "two trees": ((3, 2, 2, 4, 1), ((0,), (0, 1), (0, 2), (3,), (3, 4))),
    "alone": ((6,), ((0,),)),
}
LAYER = nn.Identity()
tree_attention: Any = runs.tree_attention


def dense_mask(lengths: tuple[int, ...], paths: tuple[tuple[int, ...], ...]) -> Tensor:
    """Whether a token (row) sees another: it stands on its path, and not later."""
    run = torch.tensor([r for r, length in enumerate(lengths) for _ in range(length)])
    on_path = torch.tensor([[other in path for other in range(len(lengths))] for path in paths])
    return on_path[run][:, run] & torch.ones(len(run), len(run), dtype=torch.bool).tril()


def carried(lengths: tuple[int, ...], paths: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> Tensor:
    sees = dense_mask(lengths, paths)
    starts = [sum(lengths[:r]) for r in range(len(lengths))]
    masks: list[Tensor | None] = []
    for r, path in enumerate(paths):
        columns = torch.cat([torch.arange(starts[k], starts[k] + lengths[k]) for k in path])
        own = sees[starts[r] : starts[r] + lengths[r], columns]
        masks.append(None if len(path) == 1 else torch.zeros(own.shape, dtype=dtype).masked_fill(~own, -math.inf))
    return runs._carrier(TreePlan(lengths, paths, tuple(masks)), torch.zeros(1))


def states(tokens: int, heads: int = 4, groups: int = 1, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Query, key and value, laid out as models lay them out: heads beside features."""
    drawn = [torch.randn(1, tokens, count, 8, dtype=dtype) for count in (heads, heads // groups, heads // groups)]
    return [each.transpose(1, 2).requires_grad_() for each in drawn]


def gradients(out: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad((out * weight).sum(), given)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("tree", TREES)
def test_runs_give_what_a_dense_mask_gives(tree: str, groups: int, scale: float | None):
    lengths, paths = TREES[tree]
    given = states(sum(lengths), groups=groups)
    out, _ = tree_attention(LAYER, *given, carried(lengths, paths, torch.float64), scaling=scale)
    key, value = (each.repeat_interleave(groups, 1) for each in given[1:])
    sees = dense_mask(lengths, paths)
    dense = scaled_dot_product_attention(given[0], key, value, attn_mask=sees, scale=scale).transpose(1, 2)
    torch.testing.assert_close(out, dense, rtol=0, atol=1e-12)
    for own, other in zip(gradients(out, given), gradients(dense, given), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    lengths, paths = TREES["steps"]
    mask, given = carried(lengths, paths, torch.float64), states(sum(lengths), heads=2, groups=2)
    assert torch.autograd.gradcheck(lambda *each: tree_attention(LAYER, *each, mask)[0], given)


def kept(out: Tensor) -> int:
    """Bytes of the distinct tensors that hang on a result's graph."""
    found: dict[int, int] = {}
    waiting = [out.grad_fn]
    while waiting:
        node = waiting.pop()
        for name in filter(lambda name: name.startswith(("_saved_", "saved_tensors")), dir(node)):
            value = getattr(node, name)
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, Tensor):
                    found[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        waiting += [] if node is None else [before for before, _ in node.next_functions]
    return sum(found.values())


def test_a_beginning_that_many_share_is_kept_once():
    branches, start, length = 8, 64, 4
    lengths = (start, *[length] * branches)
    paths = ((0,), *((0, 1 + k) for k in range(branches)))
    given = states(sum(lengths), groups=2, dtype=torch.float32)
    out, _ = tree_attention(LAYER, *given, carried(lengths, paths, torch.float32))
    own = sum(each.nbytes for each in given) + out.nbytes
    sums = sum(lengths) * 4 * 4
    assert out.is_contiguous() and own <= kept(out) <= own + sums


class Counting(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.count += len(outputs) if isinstance(outputs, (tuple, list)) else 1
        return outputs


def operations(pairs: int) -> int:
    """What the attention of so many pairs in a row takes, forward and backward."""
    lengths = (4, 2, 2) * pairs
    paths = tuple(path for r in range(0, 3 * pairs, 3) for path in ((r,), (r, r + 1), (r, r + 2)))
    mask, given = carried(lengths, paths, torch.float32), states(sum(lengths), dtype=torch.float32)
    with Counting() as counted:
        tree_attention(LAYER, *given, mask)[0].sum().backward()
    return counted.count


def test_the_work_is_linear_in_the_pairs_of_a_row():
    first, second, third = (operations(pairs) for pairs in (4, 8, 12))
    assert first < second < third == 2 * second - first


OTHER_WAYS = {"dropout": {"dropout": 1e-9}, "other heads": {}, "no kernel": {}, "no gradient": {}}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_what_the_kernel_does_not_take_goes_the_common_way(way: str, monkeypatch: pytest.MonkeyPatch):
    lengths, paths = TREES["steps"]
    given, mask = states(sum(lengths), groups=2), carried(lengths, paths, torch.float64)
    expected = tree_attention(LAYER, *given, mask)[0]
    monkeypatch.setattr(runs, "_ByRuns", None)
    if way == "no kernel":
        monkeypatch.setattr(runs, "_KERNEL_BACKWARD", None)
    if way == "other heads":
        given[2] = torch.cat([given[2], given[2][..., :3]], 3)
    if way == "no gradient":
        given = [each.detach() for each in given]
    found = tree_attention(LAYER, *given, mask, **OTHER_WAYS[way])[0]
    torch.testing.assert_close(found[..., :8], expected, rtol=0, atol=1e-8)


def test_autocast_rounds_as_the_common_way_does():
    lengths, paths = TREES["pair"]
    given, mask = states(sum(lengths), dtype=torch.float32), carried(lengths, paths, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert tree_attention(LAYER, *given, mask)[0].dtype == torch.bfloat16


def test_without_a_plan_it_is_the_common_attention():
    given = states(6)
    out, _ = tree_attention(LAYER, *given, None)
    query, key, value = given
    dense = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(out, dense, rtol=0, atol=1e-12)
