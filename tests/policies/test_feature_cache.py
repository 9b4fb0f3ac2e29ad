"""Features of frozen encoders: encoded once, equal to encoding every time, and never those of other weights."""

from __future__ import annotations

import copy
import pickle
import sqlite3
from dataclasses import replace

import factories
import multimodal_factories
import numpy as np
import pytest
import qwen_factories
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from omnipref.policies.autoregressive.backbone import backbone_of
from omnipref.policies.autoregressive.feature_cache import FeatureCache
from omnipref.policies.autoregressive.features import ItemFeatures
from omnipref.policies.autoregressive.layouts import Forest
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.reference import AdapterOff, frozen_copy
from omnipref.preferences import Case, Comparison, Message, Part, Preference

MODELS = {
    "llava": factories.llava,
    "llava_next": multimodal_factories.llava_next,
    "qwen2_5_vl": factories.qwen2_5_vl,
    "qwen3_vl": qwen_factories.qwen("Qwen3VL"),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def record(*pictures: int, number: int = 0) -> Preference:
    """A question about pictures with two answers, the second about the pictures in another order."""
    images = [Part("image", factories.picture(i, 32 + 16 * (i % 2), 32)) for i in pictures]
    contexts = [(Message("user", (*order, Part("text", "what? "))),) for order in (images, images[::-1])]
    answers = ("a red cube", "blue")
    cases = {
        role: Case(context, (Message.of("assistant", answer),))
        for role, context, answer in zip(("chosen", "rejected"), contexts, answers, strict=True)
    }
    return Preference(cases, (Comparison("chosen", "rejected"),), record=number)


RECORDS = [record(0), record(1, 2, number=1), record(2, number=2)]


class Setting:
    """A model with frozen encoders, its policy, and a count of what its encoder is given."""

    def __init__(self, name: str, features: FeatureCache | None = None):
        self.model, owner = MODELS[name]()
        parts = [n for n, _ in backbone_of(self.model).named_children() if n != "language_model"]
        for part in parts:
            backbone_of(self.model).get_submodule(part).requires_grad_(False)
        for parameter in backbone_of(self.model).parameters(recurse=False):
            parameter.requires_grad_(False)
        policy = build_policy(self.model, owner)
        assert isinstance(policy.layout, Forest)
        self.policy = replace(policy, layout=replace(policy.layout, features=features or FeatureCache()))
        self.encoder: nn.Module = backbone_of(self.model).get_encoder(modality="image")
        self.calls = self.count(self.model)

    def count(self, model: nn.Module) -> list[int]:
        """Runs of a model's encoder, as they happen."""
        calls: list[int] = []
        encoder = backbone_of(model).get_encoder(modality="image")  # type: ignore[operator]
        encoder.register_forward_hook(lambda *_: calls.append(1))
        return calls

    def batch(self, records=RECORDS):
        return self.policy.collate([self.policy.encode(each) for each in records])

    def score(self, model=None, records=RECORDS) -> torch.Tensor:
        return self.policy.score(model or self.model, self.batch(records)).logp


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@EVERY_MODEL
def test_scores_and_gradients_are_those_of_encoding_every_time(name, tmp_path):
    setting = Setting(name)
    always = Setting(name, FeatureCache(capacity=0))
    for mine in (RECORDS, RECORDS, RECORDS[1:], RECORDS[::-1]):
        kept, new = setting.score(records=mine), always.score(records=mine)
        assert torch.allclose(kept, new, atol=1e-6)
        kept.sum().backward()
        new.sum().backward()
        one, other = gradients(setting.model), gradients(always.model)
        assert one.keys() == other.keys() and len(one) > 5
        assert all(torch.allclose(one[n], other[n], atol=1e-5) for n in one)
    assert len(always.calls) > len(setting.calls)
    on_disk = FeatureCache(directory=tmp_path)
    first, again = Setting(name, on_disk), Setting(name, FeatureCache(directory=tmp_path))
    written, read = first.score(), again.score()
    calls = len(again.calls)
    assert torch.allclose(written, read, atol=1e-6) and calls == 1  # the first pass shows which weights encode
    other = [record(0, 1, 2)]
    assert torch.allclose(again.score(records=other), always.score(records=other), atol=1e-6)
    assert len(again.calls) == calls and len(first.calls) > 0


@EVERY_MODEL
def test_policy_and_a_frozen_copy_encode_each_picture_once(name):
    setting = Setting(name)
    reference = frozen_copy(setting.model).model
    theirs = setting.count(reference)
    setting.score()
    before = len(setting.calls)
    own, under_reference = setting.score(), setting.score(reference)
    assert torch.allclose(own, under_reference, atol=1e-6)
    assert len(setting.calls) == before and not theirs
    for number in range(3):
        setting.score(records=[record(0, 10 + number)])
    assert len(setting.calls) == before + 3


@EVERY_MODEL
def test_another_weight_in_the_encoder_gives_other_features(name, tmp_path):
    setting = Setting(name, FeatureCache(directory=tmp_path))
    before = setting.score()
    with torch.no_grad():
        next(p for p in setting.encoder.parameters() if p.dim() > 1).view(-1)[0] += 0.5
    changed = setting.score()
    always = Setting(name, FeatureCache(capacity=0))
    with torch.no_grad():
        next(p for p in always.encoder.parameters() if p.dim() > 1).view(-1)[0] += 0.5
    assert torch.allclose(changed, always.score(), atol=1e-6)
    assert not torch.allclose(changed, before, atol=1e-6)


def test_a_weight_of_the_projector_counts_as_well():
    setting = Setting("llava")
    before = setting.score()
    with torch.no_grad():
        backbone_of(setting.model).multi_modal_projector.linear_2.weight[0, 0] += 0.5
    assert not torch.allclose(setting.score(), before, atol=1e-6)


def test_another_setting_of_the_processor_gives_other_features():
    setting = Setting("qwen2_5_vl")
    large = [record(3)]
    setting.score(records=large)
    calls = len(setting.calls)
    setting.policy.owner.image_processor.size = {"shortest_edge": 64, "longest_edge": 16 * 64}
    smaller = setting.policy.encode(large[0])
    key = smaller.cases[0].prompt.items[0].content
    assert len(smaller.cases[0].ids) < 200 and len(key) == 32
    changed = setting.score(records=large)
    assert len(setting.calls) == calls + 1
    always = Setting("qwen2_5_vl", FeatureCache(capacity=0))
    always.policy.owner.image_processor.size = {"shortest_edge": 64, "longest_edge": 16 * 64}
    assert torch.allclose(changed, always.score(records=large), atol=1e-6)


def test_a_projector_that_trains_is_run_every_time_and_said_once(tmp_path, caplog):
    setting = Setting("llava", FeatureCache(directory=tmp_path))
    projector = backbone_of(setting.model).multi_modal_projector.requires_grad_(True)
    for _ in range(2):
        setting.score().sum().backward()
    assert projector.linear_1.weight.grad.abs().sum() > 0
    assert len(setting.calls) > 1 and not list(tmp_path.rglob("*.sqlite"))
    assert caplog.text.count("multi_modal_projector") == 1 and "--cache-vision-features" in caplog.text


def test_lora_on_the_projector_keeps_features_of_the_reference_alone():
    setting = Setting("llava")
    target = r".*multi_modal_projector\.linear_1|.*language_model.*\.q_proj"
    lora = LoraConfig(r=2, target_modules=target, init_lora_weights=False)
    model = get_peft_model(setting.model, lora)
    plain = Setting("llava", FeatureCache(capacity=0)).score()
    reference = AdapterOff()
    for _ in range(2):
        with torch.no_grad(), reference(model) as off:
            assert torch.allclose(setting.score(off), plain, atol=1e-6)
        on = setting.score(model)
        assert not torch.allclose(on, plain, atol=1e-4)
    on.sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("multi_modal_projector" in name for name in trained)
    assert len(setting.calls) == 3  # the reference once, the policy twice


def test_lora_on_the_language_model_shares_features_with_the_plain_model(tmp_path):
    Setting("llava", FeatureCache(directory=tmp_path)).score()
    setting = Setting("llava", FeatureCache(directory=tmp_path))
    lora = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
    model = get_peft_model(setting.model, lora)
    setting.score(model)
    assert len(setting.calls) == 1 and len(list(tmp_path.rglob("*.sqlite"))) == 1


def test_autocast_has_features_of_its_own(tmp_path):
    setting = Setting("llava", FeatureCache(directory=tmp_path))
    exact = setting.score()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = setting.score()
    assert not torch.equal(exact, rounded) and len(list(tmp_path.rglob("*.sqlite"))) == 2
    assert torch.equal(setting.score(), exact)


def test_an_encoder_that_draws_is_run_every_time():
    setting = Setting("llava")
    noise = setting.encoder.register_forward_hook(lambda *given: torch.rand(1) and None)
    setting.score()
    calls = len(setting.calls)
    setting.score()
    assert len(setting.calls) > calls
    noise.remove()


def test_a_medium_that_is_encoded_inside_the_model_is_said(tmp_path, caplog):
    model, owner = qwen_factories.qwen2_audio()
    policy = build_policy(model, owner)
    policy = replace(policy, layout=replace(policy.layout, features=FeatureCache(directory=tmp_path)))
    sound = np.sin(np.arange(4000, dtype=np.float32))
    context = (Message("user", (Part("audio", {"array": sound, "sampling_rate": 16000}), Part("text", "what? "))),)
    cases = {
        role: Case(context, (Message.of("assistant", text),)) for role, text in (("chosen", "a"), ("rejected", "b"))
    }
    batch = policy.collate([policy.encode(Preference(cases, (Comparison(*cases),)))])
    for _ in range(2):
        policy.score(model, batch)
    assert caplog.text.count("takes no audio that is encoded ahead") == 1


def test_memory_is_bounded_and_copies_are_empty():
    setting = Setting("llava")
    setting.score()
    features = setting.policy.layout.features
    each = next(iter(features._held.values())).tensors[0]
    assert each.untyped_storage().nbytes() == each.nbytes  # an item does not hold its batch
    small = Setting("llava", FeatureCache(capacity=3 * each.nbytes))
    for number in range(6):
        small.score(records=[record(number)])
        assert sum(t.nbytes for f in small.policy.layout.features._held.values() for t in f.tensors) <= 3 * each.nbytes
    assert small.policy.layout.features._bytes == 3 * each.nbytes
    for twin in (pickle.loads(pickle.dumps(features)), copy.deepcopy(features)):
        assert twin.capacity == features.capacity and not twin._held


def test_named_tensors_are_the_way_there_and_back():
    item = ItemFeatures(tuple(torch.randn(12, 2, 3)), (tuple(torch.randn(11, 2, 3)), tuple(torch.randn(11, 2, 3))))
    back = ItemFeatures.unnamed(item.named())
    assert all(map(torch.equal, item.tensors, back.tensors)) and not back.batched
    assert [len(layer) for layer in back.layers] == [11, 11]


def test_a_folder_that_cannot_be_written_changes_no_score(tmp_path, caplog):
    (tmp_path / "vision_features").write_text("a file where a folder should be")
    setting = Setting("llava", FeatureCache(directory=tmp_path))
    assert torch.equal(setting.score(), Setting("llava").score())
    assert caplog.text.count("cannot be written") == 1


def test_disk_holds_one_value_per_distinct_picture(tmp_path):
    Setting("llava", FeatureCache(directory=tmp_path)).score()
    (path,) = tmp_path.rglob("*.sqlite")
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (3,)
