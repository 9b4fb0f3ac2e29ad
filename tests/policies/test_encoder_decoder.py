"""Encoder-decoders: one reading per prompt, gradients, training from a folder, sampling."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import encoder_decoder_factories as factories
import pytest
import torch
import transformers as hf

from omnipref.cli import main
from omnipref.errors import CapabilityError, DataError
from omnipref.policies.autoregressive.backbone import blocks_of
from omnipref.policies.autoregressive.encoder_decoder import EncoderDecoder, start_of
from omnipref.policies.autoregressive.load import build_policy, load_model
from omnipref.policies.autoregressive.media import MediaItem
from omnipref.policies.autoregressive.state_extras import taps_of
from omnipref.policies.autoregressive.trials import why_no_forest
from omnipref.policies.reference import FrozenCopy
from omnipref.policies.sampling import LocalSampler
from omnipref.preferences import Case, Comparison, Message, Part, Preference, pair, ranked

MAKERS = pytest.mark.parametrize(
    "make", [factories.t5, factories.bart, factories.t5gemma], ids=lambda make: make.__name__
)
Make = Callable[[], tuple[Any, Any]]
RECORDS = [
    pair("What is one plus one?", "two", "a red cube and a ball"),
    ranked("Is there a tree?", ["yes", "no", "I am fine", "two cups on the table"], record=1),
    pair("What is one plus one?", "three cups", "four", record=2),
]


@MAKERS
def test_each_prompt_is_read_once(make: Make):
    model, owner = make()
    policy = build_policy(model, owner)
    batch = policy.collate([policy.encode(record) for record in RECORDS])
    read: list[torch.Tensor] = []
    model.get_encoder().register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"]), with_kwargs=True
    )
    scores = policy.score(model, batch)
    assert [len(ids) for ids in read] == [2] and len(scores.logp) == 8
    assert read[0].shape == batch.inputs["prompt_ES"].shape and batch.inputs["prompt_N"].tolist() == [
        0,
        0,
        1,
        1,
        1,
        1,
        0,
        0,
    ]
    rows = batch.inputs["prompt_ES"].numel() + batch.inputs["ids_BT"].numel()
    assert policy.tokens([policy.encode(record) for record in RECORDS]) == rows


@MAKERS
def test_a_batch_gives_the_scores_and_gradients_of_its_records(make: Make):
    model, owner = make()
    model.double()
    policy = build_policy(model, owner)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def found(records: list[Preference]) -> tuple[list[float], tuple[torch.Tensor, ...]]:
        scores = policy.score(model, policy.collate([policy.encode(record) for record in records]))
        sums = scores.logp.sum(1)
        return sums.tolist(), torch.autograd.grad((sums * torch.tensor([1.0, -2.0])).sum(), parameters)

    pairs = [RECORDS[0], RECORDS[2]]
    both = policy.score(model, policy.collate([policy.encode(record) for record in pairs]))
    sums = both.logp.sum(1)
    whole = torch.autograd.grad((sums * torch.tensor([1.0, -2.0, 1.0, -2.0])).sum(), parameters)
    apart = [found([record]) for record in pairs]
    assert sums.tolist() == pytest.approx([value for values, _ in apart for value in values], abs=1e-4)
    for own, one, other in zip(whole, apart[0][1], apart[1][1], strict=True):
        torch.testing.assert_close(own, one + other, rtol=1e-3, atol=1e-4)


def test_tokens_that_begin_and_end_a_response_are_scored_and_belong_to_its_parts():
    model, owner = factories.bart()
    steps = (Message("raw", (Part("text", "first add"), Part("text", " then write"))),)
    context = (Message.of("raw", "sum?"),)
    record = Preference({"chosen": Case(context, steps), "rejected": Case(context, (Message.of("raw", "no"),))}, WINS)
    encoded = build_policy(model, owner).encode(record)
    chosen = encoded.cases[0]
    assert chosen.response[0] == owner.bos_token_id and chosen.response[-1] == owner.eos_token_id
    assert chosen.prompt.ids[-1] == owner.eos_token_id
    assert chosen.segment[0] == 0 and chosen.segment[-1] == 1 and (chosen.segment[1:] >= chosen.segment[:-1]).all()
    assert list(chosen.segment).count(0) > 1


WINS = (Comparison("chosen", "rejected"),)


@MAKERS
def test_it_trains_from_a_folder_with_an_adapter(make: Make, tmp_path: Path):
    model, owner = make()
    model.save_pretrained(tmp_path / "model")
    owner.save_pretrained(tmp_path / "model")
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "one plus one?", "chosen": "two", "rejected": "a ball"}\n' * 8)
    flags = {
        "--model-name-or-path": tmp_path / "model",
        "--dataset": data,
        "--output-dir": tmp_path / "out",
        "--lora-r": 4,
        "--max-batch-tokens": 40,
        "--per-device-train-batch-size": 4,
        "--max-steps": 6,
        "--learning-rate": 0.05,
        "--logging-steps": 1,
        "--training-arguments": "use_cpu=true",
    }
    assert main(["train", *(str(word) for item in flags.items() for word in item)]) == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    losses = [line["loss"] for line in history if "loss" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4) and losses[-1] < 0.6


@MAKERS
@pytest.mark.parametrize("count", [1, 3])
def test_greedy_samples_are_those_of_generate(make: Make, count: int):
    model, owner = make()
    sampler = LocalSampler(model, owner, max_new_tokens=6, temperature=0, progress=False)
    questions = ["What is one plus one?", "tree?"]
    found = sampler([(Message.of("raw", text),) for text in questions], n=count)
    for text, answers in zip(questions, found, strict=True):
        ids = model.generate(
            **owner(text, return_tensors="pt", return_token_type_ids=False), max_new_tokens=6, do_sample=False
        )
        assert answers == owner.batch_decode(ids[:, 1:], skip_special_tokens=True) * count


@MAKERS
def test_samples_do_not_depend_on_their_batch(make: Make):
    model, owner = make()
    contexts = [(Message.of("raw", text),) for text in ("What is one plus one?", "tree?", "a cup or a fork")]
    one, all_together = (
        LocalSampler(model, owner, max_new_tokens=6, batch_size=size, seed=3, progress=False)(contexts, n=2)
        for size in (2, 6)
    )
    assert one == all_together and len({answer for answers in one for answer in answers}) > 3


def test_media_in_a_prompt_are_refused_with_their_record():
    model, owner = factories.t5()
    policy = build_policy(model, owner)
    encoded = policy.encode(pair("What is it?", "two", "no", record=7))
    prompt = replace(encoded.cases[0].prompt, items=(MediaItem("image", "0" * 16, {}, "<image>"),))
    with_media = replace(encoded, cases=tuple(replace(case, prompt=prompt) for case in encoded.cases))
    with pytest.raises(CapabilityError, match=r"records \[7\].*leave these records out"):
        policy.collate([policy.encode(RECORDS[0]), with_media])


def test_what_cannot_be_is_said(tmp_path: Path):
    model, owner = factories.t5()
    assert "T5ForConditionalGeneration is an encoder-decoder" in (why_no_forest(model) or "")
    with pytest.raises(DataError, match="empty response"):
        build_policy(model, owner).encode(pair("a", "b", " "))
    with pytest.raises(DataError, match="at most 6"):
        build_policy(model, owner, max_length=6).encode(RECORDS[0])
    assert isinstance(build_policy(model, owner, "rows").layout, EncoderDecoder)
    model.config.decoder_start_token_id = model.config.bos_token_id = None
    model.generation_config.decoder_start_token_id = model.generation_config.bos_token_id = None
    with pytest.raises(CapabilityError, match="decoder_start_token_id"):
        start_of(model)
    model.save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path))) is type(model)


@MAKERS
def test_activations_do_not_depend_on_how_far_prompts_are_padded(make: Make):
    model, owner = make()
    for name, weight in model.named_parameters():
        if "norm" in name:  # fresh ones give features of mean 0, and stretched rounding
            torch.nn.init.normal_(weight)
    policy = build_policy(model, owner)
    record = pair("What is one plus one?", "two cups on the table", "a red cube and a ball")

    def found(records: list[Preference]) -> torch.Tensor:
        batch = policy.collate([policy.encode(each) for each in records])
        scores = policy.score(model, batch, extras=frozenset({"ref_activation"}), reference=FrozenCopy(model))
        return scores.extras["ref_activation"][0][scores.mask[0]]

    alone = found([record])
    for words in range(16):
        other = pair("tree" + " cup" * words, "two", "three", record=1)
        torch.testing.assert_close(found([record, other]), alone, rtol=0, atol=1e-4)


def test_activations_are_read_of_projections_in_lists_too():
    model, _ = factories.t5()
    kinds = [[kind for kind, _ in taps_of(block)] for block in blocks_of(model)]
    assert kinds[0] == kinds[1] and {"layer.0.SelfAttention.q", "layer.1.EncDecAttention.o", "layer.2"} <= {*kinds[0]}


def test_a_limit_is_of_either_side():
    model, owner = factories.bart()
    policy = build_policy(model, owner, max_length=12)
    fitting = policy.encode(pair("cup " * 4, "ball " * 4, "two")).cases[0]
    assert len(fitting.prompt.ids) <= 12 < len(fitting.prompt.ids) + len(fitting.response)
    for record in (pair("cup " * 20, "two", "three"), pair("cup", "ball " * 20, "two")):
        with pytest.raises(DataError, match="expected at most 12"):
            policy.encode(record)
    cut = replace(policy, truncate=True).encode(pair("cup", "ball " * 20, "two"))
    assert len(cut.cases[0].response) == 11  # and the token that the decoder begins with
    policy.score(model, policy.collate([cut]))


def test_a_decoder_saved_alone_is_loaded_alone(tmp_path: Path):
    _, owner = factories.bart()
    config = hf.BartConfig(
        vocab_size=len(owner), d_model=8, decoder_layers=1, decoder_ffn_dim=8, decoder_attention_heads=2
    )
    hf.BartForCausalLM(config).save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path))) is hf.BartForCausalLM
