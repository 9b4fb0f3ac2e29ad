"""The last block's feed-forward part: which modules it is, that states which are read go through it, and when not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, records_of
from peft import LoraConfig, get_peft_model

from omnipref.policies.autoregressive import last_block
from omnipref.policies.autoregressive.backbone import blocks_of
from omnipref.policies.autoregressive.last_block import feed_forward
from omnipref.policies.autoregressive.load import build_policy
from omnipref.preferences import pair

PLAIN = ["LlamaForCausalLM", "GPTNeoXForCausalLM", "Gemma3ForCausalLM", "Qwen3VLForConditionalGeneration"]
EXPERTS = ["MixtralForCausalLM", "Qwen3MoeForCausalLM", "Llama4ForCausalLM"]
PAIR = pair("What is left of the two cups on the table? A fork, a spoon, a ball?", "a fork", "a ball and a spoon")


def seen(name: str, **changes: Any) -> tuple[int, int, int]:
    """Tokens that the first and the last block's feed-forward part see, and states that are read."""
    model, owner = ARCHITECTURES[name].make()
    return tokens_through(model, owner, **changes)


def tokens_through(model: Any, owner: Any, extras: frozenset[str] = frozenset()) -> tuple[int, int, int]:
    policy = build_policy(model, owner)
    batch = policy.collate([policy.encode(PAIR)])
    counts: list[int] = []
    blocks = blocks_of(model)
    parts = [next(iter(feed_forward(blocks[0])), None), next(iter(feed_forward(blocks[-1])), None)]
    leaves = [next(m for m in part.modules() if isinstance(m, last_block.MATRICES)) for part in parts if part]
    hooks = [
        leaf.register_forward_hook(lambda _, given, __: counts.append(given[0][..., 0].numel())) for leaf in leaves
    ]
    policy.score(model, batch, extras=extras)
    for hook in hooks:
        hook.remove()
    first, last = counts if counts else (0, 0)
    return first, last, len(batch.inputs["read_M"])


@pytest.mark.parametrize("name", PLAIN)
def test_only_states_that_are_read_go_through_it(name: str):
    first, last, read = seen(name)
    assert 0 < last == read < first / 2


def test_read_states_are_those_that_predict_and_the_responses_own():
    model, owner = ARCHITECTURES["LlamaForCausalLM"].make()
    policy = build_policy(model, owner)
    encoded = policy.encode(PAIR)
    read = policy.collate([encoded]).inputs["read_M"].tolist()
    start, lengths = len(encoded.cases[0].prompt.ids), [len(case.response) for case in encoded.cases]
    shared = next(k for k, (a, b) in enumerate(zip(*(case.response for case in encoded.cases), strict=False)) if a != b)
    assert read == list(range(start - 1, start + sum(lengths) - shared))


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_see_every_token(name: str):
    model, _ = ARCHITECTURES[name].make()
    assert not any(list(feed_forward(block)) for block in blocks_of(model))


def test_adapters_are_part_of_it():
    model, owner = ARCHITECTURES["LlamaForCausalLM"].make()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    first, last, read = tokens_through(adapted, owner)
    assert last == read < first


def test_nothing_is_left_out_where_blocks_run_again():
    model, owner = ARCHITECTURES["LlamaForCausalLM"].make()
    model.activation_checkpointing_enable()
    first, last, read = tokens_through(model.train(), owner)
    assert read < first == last


@pytest.mark.parametrize("name", PLAIN)
def test_gradients_are_those_of_every_state(name: str, monkeypatch: pytest.MonkeyPatch):
    model, owner = ARCHITECTURES[name].make()
    model.double()
    policy = build_policy(model, owner)
    batch = policy.collate([policy.encode(record) for record in records_of(ARCHITECTURES[name])])
    weights = list(blocks_of(model).parameters())

    def gradients() -> tuple[torch.Tensor, ...]:
        scores = policy.score(model, batch).logp.sum(1)
        return torch.autograd.grad((scores * torch.arange(1, len(scores) + 1)).sum(), weights)

    narrow = gradients()
    monkeypatch.setattr(last_block, "feed_forward", lambda _: ())
    for one, other in zip(narrow, gradients(), strict=True):
        # Norms run in float32 inside, so sums in another order agree to that.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_activations_of_a_reference_are_read_of_all_blocks():
    """They are read of inner modules, one row per token."""
    model, owner = ARCHITECTURES["LlamaForCausalLM"].make()
    policy = build_policy(model, owner)
    rows = build_policy(model, owner, "rows")
    found = []
    for each in (policy, rows):
        batch = each.collate([each.encode(PAIR)])
        reference = _itself
        found.append(each.score(model, batch, extras=frozenset({"ref_activation"}), reference=reference))
    torch.testing.assert_close(
        found[0].extras["ref_activation"], found[1].extras["ref_activation"], rtol=1e-4, atol=1e-4
    )


class _Itself:
    """A model that is its own reference."""

    def __call__(self, model: Any) -> Any:
        from contextlib import nullcontext

        return nullcontext(model)

    def place(self, prepare: Any) -> None:
        """Nothing to place."""


_itself: Any = _Itself()
