"""The token forest equals separate rows and the model's own forward pass on every architecture that users align."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from architectures import ARCHITECTURES, QUESTION, WINS, Architecture, case, context, media, records_of
from multimodal_factories import MARKS, mllama

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive import layouts
from omnipref.policies.autoregressive.attention import Attention, MediaBlocks, PromptBlock, attention_of, forest_masks
from omnipref.policies.autoregressive.backbone import is_encoder_decoder, positions_of
from omnipref.policies.autoregressive.encoder_decoder import EncoderDecoder, start_of
from omnipref.policies.autoregressive.implementation import set_text_attention, text_attention
from omnipref.policies.autoregressive.layouts import ONE_ROW, CaseLayout, Forest, Rows
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.autoregressive.media import resampled
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.autoregressive.tree_attention import TREE_ATTENTION
from omnipref.preferences import Case, Message, Part, Preference, pair

EVERY = pytest.mark.parametrize("name", ARCHITECTURES)
# A processor calls numpy as numpy asks it not to.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
FORESTS = [name for name, each in ARCHITECTURES.items() if each.layout == "forest"]


@cache
def made(name: str) -> tuple[Any, Any]:
    """Model in float64 and its tokenizer or processor."""
    model, owner = ARCHITECTURES[name].make()
    return model.double(), owner


def logps(model: Any, owner: Any, records: list[Preference], layout: CaseLayout) -> list[torch.Tensor]:
    """Log-probabilities of each case's answer tokens."""
    policy = AutoregressivePolicy(owner, layout, positions_of(model))
    scores = policy.score(model, policy.collate([policy.encode(record) for record in records]))
    return [line[mask] for line, mask in zip(scores.logp, scores.mask, strict=True)]


def rows(name: str) -> list[torch.Tensor]:
    """One row per case; no two lengths in a batch where the model's own attention would not stand it."""
    (model, owner), each = made(name), ARCHITECTURES[name]
    layout: CaseLayout = Rows(attention=attention_of(model))
    if is_encoder_decoder(model):
        layout = EncoderDecoder(start_of(model))
    records = records_of(each)
    if not each.float32_inside:
        return logps(model, owner, records, layout)
    cases = [scored for record in records for scored in record.cases.values()]
    twice = [Preference({"chosen": one, "rejected": one}, (WINS,)) for one in cases]
    return [logps(model, owner, [record], layout)[0] for record in twice]


def largest(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Largest difference of a token's log-probability."""
    assert [len(line) for line in one] == [len(line) for line in other]
    return max(float((a - b).detach().abs().max()) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def stock(model: Any, owner: Any, each: Architecture, scored: Case) -> torch.Tensor:
    """An independent path: the processor's inputs for the whole prompt, the model's own logits, a full softmax."""
    if is_encoder_decoder(model):
        return stock_encoder_decoder(model, owner, scored)
    tokenizer = getattr(owner, "tokenizer", owner)
    parts, answer = scored.context[0].parts, scored.response[0].text
    if scored.context[0].role == "raw":
        text = "".join(part.value if part.type == "text" else MARKS[part.type] for part in parts)
        end = [tokenizer.eos_token_id]
    else:
        content = [{"type": p.type, **({"text": p.value} if p.type == "text" else {})} for p in parts]
        dialogue = [{"role": "user", "content": content if owner is not tokenizer else parts[0].value}]
        text = owner.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True)
        answer, end = answer + "<|im_end|>\n", []
    start = dict(owner(text=[text], return_tensors="pt", **given(parts)))
    start.pop("attention_mask")
    start.pop("labels", None)
    ids = start.pop("input_ids")
    tail = torch.tensor([tokenizer(answer, add_special_tokens=False)["input_ids"] + end])
    whole = torch.cat([ids, tail], 1)
    for types in {"token_type_ids", "mm_token_type_ids"} & set(start):
        start[types] = torch.cat([torch.as_tensor(start[types]), torch.full_like(tail, each.answer_type)], 1)
    if owner is tokenizer:
        start.pop("token_type_ids", None)
    logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), **start).logits.log_softmax(-1)
    return logits[0, ids.shape[1] - 1 : -1].gather(1, tail[0][:, None])[:, 0]


@torch.no_grad()
def stock_encoder_decoder(model: Any, owner: Any, scored: Case) -> torch.Tensor:
    """The model's own logits where it makes the decoder's input of the answer."""
    read = owner(scored.context[0].text, return_tensors="pt")
    answer = owner(text_target=scored.response[0].text, return_tensors="pt")["input_ids"]
    end = torch.tensor([[owner.eos_token_id]])
    answer = answer if answer[0, -1] == end else torch.cat([answer, end], 1)
    shifted = torch.cat([torch.tensor([[start_of(model)]]), answer[:, :-1]], 1)
    logits = model(input_ids=read["input_ids"], decoder_input_ids=shifted).logits.log_softmax(-1)
    return logits[0].gather(1, answer[0][:, None])[:, 0]


def given(parts: tuple[Part, ...]) -> dict[str, Any]:
    """The processor's arguments for the media of a prompt."""
    found: dict[str, Any] = {}
    if images := [part.value for part in parts if part.type == "image"]:
        found["images"] = [images]
    if videos := [part.value for part in parts if part.type == "video"]:
        told = {"fps": 1.0, "total_num_frames": 4, "duration": 4.0, "frames_indices": [0, 1, 2, 3]}
        found |= {"videos": videos, "video_metadata": [told] * len(videos), "do_sample_frames": False}
    if sounds := [part.value["array"] for part in parts if part.type == "audio"]:
        found |= {"audio": sounds, "sampling_rate": 16000}
    return found


@EVERY
def test_the_layout_is_chosen_by_what_the_model_can_do(name, caplog):
    each = ARCHITECTURES[name]
    model, owner = made(name)
    policy = build_policy(model, owner)
    assert type(policy.layout).__name__.lower() == each.layout.replace("-", "")
    assert (each.reason in caplog.text) if each.reason else "one row per case" not in caplog.text


@EVERY
def test_rows_equal_the_model_itself(name):
    model, owner = made(name)
    each = ARCHITECTURES[name]
    ours = rows(name)
    own = [stock(model, owner, each, scored) for record in records_of(each) for scored in record.cases.values()]
    assert largest(ours, own) < ARCHITECTURES[name].tolerance
    assert all(bool((line < 0).all()) for line in ours)


@pytest.mark.parametrize("name", [name for name, each in ARCHITECTURES.items() if each.reads])
def test_every_medium_and_their_order_matter(name):
    found = iter(rows(name))
    for record in records_of(ARCHITECTURES[name]):
        here = [next(found) for _ in record.cases]
        media = [[part.value for part in scored.context[0].media] for scored in record.cases.values()]
        if media[0] and media[0][0] is not media[1][0]:
            assert largest(here[:1], here[1:2]) > 1e-3


@pytest.mark.parametrize("name", FORESTS)
@pytest.mark.parametrize("row_tokens", [0, 400])
def test_forest_equals_rows(name, row_tokens):
    model, owner = made(name)
    forest = logps(model, owner, records_of(ARCHITECTURES[name]), Forest(row_tokens, attention_of(model)))
    assert largest(rows(name), forest) < ARCHITECTURES[name].tolerance


@pytest.mark.parametrize("name", [name for name in FORESTS if not ARCHITECTURES[name].float32_inside])
def test_all_records_in_one_row_run_by_run_equal_rows(name):
    model, owner = made(name)
    own = text_attention(model)
    assert set_text_attention(model, TREE_ATTENTION)
    forest = logps(model, owner, records_of(ARCHITECTURES[name]), Forest(ONE_ROW, attention_of(model)))
    set_text_attention(model, own)
    assert largest(rows(name), forest) < ARCHITECTURES[name].tolerance


@pytest.mark.parametrize("name", FORESTS)
def test_policies_take_one_row_where_the_attention_allows_it(name):
    model, owner = made(name)
    layout = build_policy(model, owner).layout
    assert (layout.row_tokens == ONE_ROW) == (not ARCHITECTURES[name].float32_inside)


@pytest.mark.parametrize("name", ["Gemma3ForConditionalGeneration", "Qwen3VLForConditionalGeneration"])
def test_gradients_of_the_vision_tower_are_those_of_rows(name):
    model, owner = made(name)
    attention, records = attention_of(model), records_of(ARCHITECTURES[name])
    towers = [p for key, p in model.named_parameters() if "vis" in key and "head" not in key]
    found = []
    for layout in (Rows(0, attention), Forest(0, attention)):
        lines = logps(model, owner, records, layout)
        total = torch.stack([line.sum() * (n + 1) for n, line in enumerate(lines)]).sum()
        found.append(torch.autograd.grad(total, towers, allow_unused=True))
    assert sum(one is not None and bool(one.abs().max() > 1e-3) for one in found[0]) > 10
    for one, other in zip(*found, strict=True):
        if one is not None:
            # Norms run in float32 inside, so sums in another order agree to that.
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


WINDOWED = "PaliGemmaForConditionalGeneration, Gemma 2"


def test_forest_within_a_window_that_masks_cannot_tell_apart():
    model, owner = made(WINDOWED)
    policy = build_policy(model, owner, max_length=40)
    assert isinstance(policy.layout, Forest)
    each, one, two = ARCHITECTURES[WINDOWED], media("image", 0), media("image", 1)
    contexts = [context(each, picture, "a cup?") for picture in (one, two, one)]
    cases = [case(each, before, answer) for before, answer in zip(contexts, ("yes", "yes", "no"), strict=True)]
    record = Preference(dict(zip(("chosen", "rejected", "response_2"), cases, strict=True)), (WINS,))
    forest = logps(model, owner, [record], policy.layout)
    assert largest(forest, [stock(model, owner, each, scored) for scored in cases]) < each.tolerance


# What each architecture needs, taken away: the forest must notice.
NEEDS = {
    "MistralForCausalLM": ("sliding_window", 10**6),
    "Gemma3ForCausalLM": ("sliding_window", 10**6),
    "Llama4ForCausalLM": ("attention_chunk_size", 10**6),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_forest_without_the_windows_would_differ(name, monkeypatch):
    model, owner = made(name)
    expected = rows(name)
    monkeypatch.setattr(model.config, *NEEDS[name])
    assert largest(expected, logps(model, owner, records_of(ARCHITECTURES[name]), Forest())) > 1e-3


@pytest.mark.parametrize("name", ["Gemma3ForConditionalGeneration", "PaliGemmaForConditionalGeneration"])
def test_a_forest_without_the_blocks_would_differ(name):
    model, owner = made(name)
    assert largest(rows(name), logps(model, owner, records_of(ARCHITECTURES[name]), Forest())) > 1e-3


def test_blocks_are_found_by_asking_the_model():
    found = {name: attention_of(made(name)[0]) for name in ARCHITECTURES}
    both = {name: attention for name, attention in found.items() if attention != Attention()}
    assert both == {
        "Gemma3ForConditionalGeneration": Attention(MediaBlocks(), window_limits_blocks=True),
        "PaliGemmaForConditionalGeneration": Attention(PromptBlock()),
        WINDOWED: Attention(PromptBlock()),
    }


def test_prompts_read_both_ways_are_shared_entirely_or_not_at_all():
    model, owner = made("PaliGemmaForConditionalGeneration")
    each, picture = ARCHITECTURES["PaliGemmaForConditionalGeneration"], media("image", 0)
    short, long = context(each, picture, "a cup?"), context(each, picture, "a cup? two?")
    cases = {
        "chosen": case(each, short, "yes"),
        "rejected": case(each, long, "yes"),
        "response_2": case(each, short, "no"),
    }
    encoded = build_policy(model, owner).encode(Preference(cases, (WINS,)))
    (tree,) = Forest(attention=attention_of(model)).trees([encoded])
    prompts = [len(encoded.cases[n].prompt.ids) for n in (0, 1)]
    assert tree.paths[0][0] == tree.paths[2][0] != tree.paths[1][0]
    assert tree.size >= sum(prompts)


@pytest.mark.parametrize("name", ["InternVLForConditionalGeneration", "Gemma3ForConditionalGeneration"])
def test_tiles_of_a_picture_that_cases_share_are_encoded_once(name, monkeypatch):
    model, owner = made(name)
    seen, own = [], model.model.get_image_features
    monkeypatch.setattr(model.model, "get_image_features", lambda *a, **k: seen.append(k) or own(*a, **k))
    records = records_of(ARCHITECTURES[name])[1:]
    logps(model, owner, records, Forest(attention=attention_of(model)))
    pictures = {
        part.value.tobytes(): part.value for r in records for c in r.cases.values() for part in c.context[0].media
    }
    alone = [owner(text=[owner.image_token], images=[[each]], return_tensors="pt") for each in pictures.values()]
    assert sum(len(k["pixel_values"]) for k in seen) == sum(len(each["pixel_values"]) for each in alone)


def test_a_trial_beyond_the_window_finds_masks_without_it(monkeypatch, caplog):
    model, owner = made("MistralForCausalLM")
    monkeypatch.setattr(layouts, "MASKS", {})
    monkeypatch.setattr(layouts, "forest_masks", lambda a, _, i, d: forest_masks(a, hf.LlamaConfig(), i, d))
    assert isinstance(build_policy(model, owner).layout, Rows)
    assert "its sliding window of 6 tokens is shorter than the longest case; set --max-length 6" in caplog.text
    assert isinstance(build_policy(model, owner, max_length=6).layout, Forest)
    assert model.config.sliding_window == 6


def test_a_trial_with_pictures_finds_blocks_left_out(monkeypatch, caplog):
    model, owner = made("Gemma3ForConditionalGeneration")
    monkeypatch.setattr(layouts, "MASKS", {})
    monkeypatch.setattr(layouts, "forest_masks", lambda _, c, i, d: forest_masks(Attention(), c, i | NO_BLOCKS, d))
    assert isinstance(build_policy(model, owner).layout, Rows)
    assert "a trial differed from separate rows" in caplog.text


NO_BLOCKS = {"blocks": False}


def test_logits_that_the_configuration_does_not_explain_are_refused(monkeypatch):
    model, owner = made("LlamaForCausalLM")
    own = type(model).forward

    def scaled(self, *args, **kwargs):
        found = own(self, *args, **kwargs)
        found.logits = found.logits * 3
        return found

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(CapabilityError, match="does something to its logits"):
        build_policy(model, owner)


def test_sound_of_another_rate_is_resampled():
    time = np.arange(16000) / 16000
    found = resampled(np.sin(2 * np.pi * 100 * time[::2]).astype(np.float32), 8000, 16000)
    assert np.abs(found - np.sin(2 * np.pi * 100 * time)).max() < 1e-4


def test_half_precision_is_scored_by_a_model_that_keeps_its_states_in_float32():
    model, owner = ARCHITECTURES["MambaForCausalLM"].make()
    record = pair(QUESTION, "two", "no")
    exact = logps(model, owner, [record], Rows())
    assert largest(exact, logps(model.bfloat16(), owner, [record], Rows())) < 0.5


def test_pictures_through_cross_attention_are_refused_and_text_is_scored_in_rows(caplog):
    model, owner = mllama()
    policy = build_policy(model.double(), owner)
    assert "MllamaModel looks at pictures through cross-attention" in caplog.text
    record = pair((Message.of("user", QUESTION),), "a fork", "a red cube and a ball")
    for case_, line in zip(policy.encode(record).cases, logps(model, owner, [record], policy.layout), strict=True):
        ids, start = torch.from_numpy(case_.ids)[None], len(case_.prompt.ids)
        logits = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(line, logits.gather(1, ids[0, start:, None])[:, 0], rtol=0, atol=1e-10)
    with pytest.raises(CapabilityError, match="MllamaProcessor does not tell which tokens stand for one image"):
        policy.encode(pair((Message.of("user", media("image", 0), QUESTION),), "yes", "no"))


def test_the_page_shows_what_the_tests_run():
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    for name, each in ARCHITECTURES.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
        assert f"| {each.layout} " in line
        assert all(kind in line for kind in each.reads)
