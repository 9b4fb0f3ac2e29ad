"""The last block's feed-forward part: which modules it is, that states which are read go through it, and when not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from architectures import ARCHITECTURES, records_of
from peft import LoraConfig, get_peft_model

from omnipref.policies.autoregressive import last_block
from omnipref.policies.autoregressive.backbone import blocks_of
from omnipref.policies.autoregressive.last_block import feed_forward
from omnipref.policies.autoregressive.layouts import Forest
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


def test_a_part_that_is_given_some_tokens_at_a_time_sees_all_of_them():
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    pictures = {**small, "image_size": 4, "patch_size": 2, "num_hidden_layers": 1}
    owner, found = ARCHITECTURES["LlamaForCausalLM"].make()[1], []
    for size in (0, 1):
        torch.manual_seed(0)
        settings = {"vocab_size": len(owner), "initializer_range": 0.2, "chunk_size_feed_forward": size, **small}
        model = hf.GitForCausalLM(hf.GitConfig(vision_config=pictures, **settings)).eval()
        policy = build_policy(model, owner)
        assert isinstance(policy.layout, Forest)
        found.append(policy.score(model, policy.collate([policy.encode(PAIR)])).logp)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_blocks_are_those_of_the_text_where_other_lists_are_as_long():
    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3}
    pictures = {**small, "image_size": 4, "patch_size": 2}
    blocks = blocks_of(hf.GitForCausalLM(hf.GitConfig(vocab_size=9, vision_config=pictures, **small)))
    assert [type(block).__name__ for block in blocks] == ["GitLayer"] * 3


@pytest.mark.parametrize(("encoder", "decoder"), [(3, 2), (2, 3), (2, 2)])
def test_blocks_of_an_encoder_decoder_are_the_decoders(encoder: int, decoder: int):
    heads = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("attention_heads", "ffn_dim")}
    sides = {"encoder_layers": encoder, "decoder_layers": decoder}
    bart = hf.BartForConditionalGeneration(hf.BartConfig(vocab_size=9, d_model=8, **heads, **sides))
    assert blocks_of(bart) is bart.model.decoder.layers
    sides = {"num_layers": encoder, "num_decoder_layers": decoder}
    t5 = hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_heads=2, **sides))
    assert blocks_of(t5) is t5.decoder.block


class _Itself:
    """A model that is its own reference."""

    def __call__(self, model: Any) -> Any:
        from contextlib import nullcontext

        return nullcontext(model)

    def place(self, prepare: Any) -> None:
        """Nothing to place."""


_itself: Any = _Itself()
