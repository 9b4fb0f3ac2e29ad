"""Block masks say what dense masks say, and FlexAttention scores with them as dense attention does."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import factories
import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, records_of
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward

from omnipref.policies.autoregressive.attention import Attention, attention_of, forest_masks
from omnipref.policies.autoregressive.backbone import positions_of
from omnipref.policies.autoregressive.flex import (
    FLEX_ATTENTION,
    block_masks,
    uncompiled,
    visibility,
    why_no_flex,
)
from omnipref.policies.autoregressive.forest import grow, lay_out
from omnipref.policies.autoregressive.implementation import set_text_attention, text_attention
from omnipref.policies.autoregressive.layouts import ONE_ROW, Forest
from omnipref.policies.autoregressive.policy import AutoregressivePolicy

pytestmark = [
    # A processor calls numpy as numpy asks it not to.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # torch's compiler imports what torch deprecates.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=7).map(np.array), min_size=1, max_size=5)
KINDS = ["full_attention", "sliding_attention", "chunked_attention"]


def inputs_of(groups, row_tokens: int, blocks: bool, seed: int) -> dict:
    """The structure of a batch of trees, with two-way blocks drawn at random."""
    cases = [sequence for group in groups for sequence in group]
    placed = lay_out([grow(group) for group in groups], [1] * len(cases), [len(c) for c in cases], row_tokens)
    block_BT = np.random.default_rng(seed).integers(-1, 2, placed.run_BT.shape)
    names = ("run_BT", "ancestor_BGG", "depth_BT")
    arrays = {**{name: getattr(placed, name) for name in names}, "block_BT": block_BT if blocks else block_BT * 0 - 1}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {**tensors, "blocks": blocks, "longest": int(placed.depth_BT.max()) + 1}


@given(
    st.lists(SEQUENCES, min_size=1, max_size=4),
    st.sampled_from([0, 12, ONE_ROW]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
)
def test_who_sees_whom_is_the_same_as_in_dense_masks(groups, row_tokens, blocks, limited, seed):
    inputs = inputs_of(groups, row_tokens, blocks, seed)
    attention = Attention(window_limits_blocks=limited)
    config = SimpleNamespace(layer_types=KINDS, sliding_window=3, attention_chunk_size=2)
    rows, width = inputs["run_BT"].shape
    dense = forest_masks(attention, config, inputs, torch.float32)
    sees = visibility(attention, config, inputs)
    assert isinstance(dense, dict) == isinstance(sees, dict)
    for kind in KINDS if isinstance(sees, dict) else ["all"]:
        one, other = (found[kind] if isinstance(found, dict) else found for found in (dense, sees))
        assert torch.equal(create_mask(other, rows, None, width, width, device="cpu"), one == 0)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_are_those_that_torch_finds(seed):
    draw = np.random.default_rng(seed)
    size = partial(draw.integers, 1, 200)
    prompts = [draw.integers(0, 9, size()) for _ in range(draw.integers(1, 9))]
    groups = [[np.concatenate([prompt, draw.integers(0, 9, size())]) for _ in "abc"] for prompt in prompts]
    inputs = inputs_of(groups, seed % 2 * ONE_ROW, seed % 3 == 0, seed)
    config = SimpleNamespace(layer_types=KINDS, sliding_window=150, attention_chunk_size=100)
    masks, sees = (make(Attention(), config, inputs) for make in (partial(block_masks, dtype=None), visibility))
    rows, width = inputs["run_BT"].shape
    for kind in KINDS:
        found, expected = masks[kind], create_block_mask(sees[kind], rows, None, width, width, device="cpu")
        assert found.shape == expected.shape
        for name in ("", "full_"):
            for axis in ("kv", "q"):
                count, order = (getattr(expected, f"{name}{axis}_{what}") for what in ("num_blocks", "indices"))
                assert torch.equal(getattr(found, f"{name}{axis}_num_blocks"), count)
                assert torch.equal(getattr(found, f"{name}{axis}_indices"), order)


def test_blocks_without_a_pair_are_left_out():
    """Eight pairs of responses of 128 tokens on prompts of 128: a block sees its prompt's block and itself."""
    draw = np.random.default_rng(0)
    groups = [
        [np.concatenate([prompt, draw.integers(0, 9, 128)]) for _ in "ab"] for prompt in np.eye(8, 128, dtype=int)
    ]
    inputs = inputs_of(groups, ONE_ROW, False, 0)
    mask = block_masks(Attention(), SimpleNamespace(), inputs, torch.float32)
    assert isinstance(mask, BlockMask)
    seen = mask.to_dense()[0, 0]
    assert seen.shape[0] == pytest.approx(8 * 3, abs=1)  # responses may begin alike
    assert seen.sum() <= 8 * 12  # of 24 * 24 = 576


FORESTS = [name for name, each in ARCHITECTURES.items() if each.layout == "forest" and not each.float32_inside]


@pytest.mark.parametrize("name", FORESTS)
@pytest.mark.parametrize("row_tokens", [0, ONE_ROW])
def test_flex_attention_scores_like_dense_attention(name, row_tokens):
    each = ARCHITECTURES[name]
    model, owner = each.make()
    model = model.double()
    policy = AutoregressivePolicy(owner, Forest(row_tokens, attention_of(model)), positions_of(model))
    batch = policy.collate([policy.encode(record) for record in records_of(each)])
    found = []
    with torch.no_grad(), uncompiled():
        for implementation in ("sdpa", FLEX_ATTENTION):
            assert set_text_attention(model, implementation)
            found.append(policy.score(model, batch).logp)
    assert (found[0] - found[1]).abs().max() < 1e-10


def test_where_flex_attention_cannot_train_it_says_why():
    model, _ = factories.llama()
    assert "does not support backward on CPU" in (why_no_flex(model, "cpu") or "")
    assert text_attention(model) == "sdpa"
    recurrent, _ = ARCHITECTURES["MambaForCausalLM"].make()
    assert why_no_flex(recurrent, "cpu") == "MambaForCausalLM does not support flex_attention in transformers"


def test_a_model_that_says_something_else_with_flex_attention_is_seen(monkeypatch):
    model, _ = factories.llama()
    wrong = partial(flex_attention_forward, softcap=0.1)
    monkeypatch.setitem(AttentionInterface._global_mapping, FLEX_ATTENTION, wrong)
    assert "a trial differed from dense attention" in (why_no_flex(model, "cpu") or "")
    assert text_attention(model) == "sdpa"
