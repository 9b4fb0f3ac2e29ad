"""Kept reference scores are those of a live reference, through whole runs, and never those of other weights or data."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from diffusion_factories import picture_pairs, save_pipeline
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import TrainingArguments, set_seed

from omnipref.cli import main
from omnipref.config import TrainConfig
from omnipref.errors import ConfigError
from omnipref.objectives import dpo, parse_objective
from omnipref.policies.autoregressive.backbone import backbone_of
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.caching.store import Store
from omnipref.policies.policy import Reference
from omnipref.policies.reference import AdapterOff, copy_adapter, frozen_copy
from omnipref.preferences import Case, Comparison, Message, Part, Preference, pair, write_jsonl
from omnipref.training import PreferenceTrainer, StreamedPreferences, prepare
from omnipref.training.caches import keep_reference_scores
from omnipref.training.reference_scores import ReferenceScores, ScoreCache

TEXTS = [pair(f"What is {i}? " * (1 + i % 3), "two " * (1 + i % 4), "three cups", record=i) for i in range(8)]


def pictures() -> list[Preference]:
    found = []
    for i in range(8):
        parts = (Part("image", factories.picture(i // 2)), Part("text", "what? " * (1 + i % 2)))
        cases = {
            role: Case((Message("user", parts),), (Message.of("assistant", answer * (1 + i % 3)),))
            for role, answer in (("chosen", "a red cube "), ("rejected", "blue "))
        }
        found.append(Preference(cases, (Comparison("chosen", "rejected"),), record=i))
    return found


def with_lora(model: nn.Module) -> nn.Module:
    set_seed(1)
    lora = LoraConfig(r=2, target_modules=r".*layers.*\.(q_proj|up_proj)", init_lora_weights=False)
    return get_peft_model(model, lora)  # type: ignore[arg-type]


def whole(model: nn.Module) -> tuple[nn.Module, Reference]:
    return model, frozen_copy(model)


def lora(model: nn.Module) -> tuple[nn.Module, Reference]:
    return with_lora(model), AdapterOff()


def continued(model: nn.Module) -> tuple[nn.Module, Reference]:
    peft = with_lora(model)
    return peft, copy_adapter(peft)


@dataclass(frozen=True)
class Setting:
    """What is trained on what, against what."""

    factory: Callable[[], tuple[Any, Any]]
    records: Callable[[], list[Preference]]
    adapt: Callable[[nn.Module], tuple[nn.Module, Reference]]
    layout: str = "forest"


SETTINGS = {
    "whole": Setting(factories.llama, lambda: TEXTS, whole),
    "whole rows": Setting(factories.llama, lambda: TEXTS, whole, "rows"),
    "lora": Setting(factories.llama, lambda: TEXTS, lora),
    "continued": Setting(factories.llama, lambda: TEXTS, continued),
    "pictures whole": Setting(factories.llava, pictures, whole),
    "pictures lora": Setting(factories.llava, pictures, lora),
    "pictures lora rows": Setting(factories.llava, pictures, lora, "rows"),
    "pictures of any size": Setting(factories.qwen2_5_vl, pictures, continued),
}
EVERY_SETTING = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


def make(setting: Setting, folder: Path, *, records=None, objective=None, streaming=False, **more) -> PreferenceTrainer:
    set_seed(0)
    model, owner = setting.factory()
    policy = build_policy(model, owner, setting.layout)
    model, reference = setting.adapt(model)
    objective, records = objective or dpo(), records or setting.records()
    aside = folder / "aside.jsonl"
    arguments = TrainingArguments(
        str(folder),
        max_steps=6,  # three epochs of two steps
        logging_steps=1,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        accelerator_config={"dispatch_batches": False},
        **{"per_device_train_batch_size": 4, **more},
    )
    return PreferenceTrainer(
        model=model,
        args=arguments,
        policy=policy,
        objective=objective,
        reference=reference,
        train_dataset=StreamedPreferences(policy, lambda: records, objective.needs, aside)
        if streaming
        else prepare(policy, records, objective.needs, aside, progress=False),
        processing_class=owner,
    )


def keep(trainer: PreferenceTrainer, folder: Path, **how: bool) -> PreferenceTrainer:
    config = TrainConfig(model_name_or_path="m", dataset=["d"], cache_dir=str(folder), **how)  # type: ignore[arg-type]
    keep_reference_scores(trainer, config)
    return trainer


def losses(trainer: PreferenceTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def passes(trainer: PreferenceTrainer) -> list[int]:
    """Passes without gradient, which are the reference's, as they happen: the epoch of each."""
    found: list[int] = []

    def note(*_: Any) -> None:
        if not torch.is_grad_enabled():
            found.append(int(trainer.state.epoch or 0))

    separate = getattr(trainer.reference, "model", None)
    for model in (trainer.model, *([separate] if separate is not None else [])):
        backbone_of(model).register_forward_hook(note)
    return found


@EVERY_SETTING
def test_scores_made_ahead_train_as_a_live_reference_and_a_second_run_makes_none(setting, tmp_path):
    live = make(setting, tmp_path / "live")
    made = passes(live)
    live.train()
    assert len(made) == 6
    for run, expected in (("first", 2), ("second", 0)):
        trainer = make(setting, tmp_path / run, per_device_eval_batch_size=8)
        made = passes(trainer)
        keep(trainer, tmp_path / "cache", precompute_ref_log_probs=True)
        assert (len(made) > 0) == (expected > 0)
        before = len(made)
        trainer.train()
        assert len(made) == before
        assert losses(trainer) == pytest.approx(losses(live), abs=1e-6)


@EVERY_SETTING
def test_scores_kept_as_they_come_are_made_in_the_first_epoch_of_the_first_run_only(setting, tmp_path):
    live = make(setting, tmp_path / "live")
    live.train()
    for run, expected in (("first", [0, 0]), ("second", [])):
        trainer = make(setting, tmp_path / run)
        made = passes(trainer)
        keep(trainer, tmp_path / "cache", cache_ref_log_probs=True).train()
        assert made == expected
        assert losses(trainer) == pytest.approx(losses(live), abs=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["lora", "pictures lora"])
def test_streams_keep_scores_too(name, workers, tmp_path):
    def run(folder: str, **how: bool) -> tuple[list[float], list[int]]:
        more = {"streaming": True, "dataloader_num_workers": workers}
        trainer = make(SETTINGS[name], tmp_path / folder, **more)
        made = passes(trainer)
        keep(trainer, tmp_path / "cache", **how).train()
        return losses(trainer), made

    live, every = run("live")
    first, made = run("first", cache_ref_log_probs=True)
    second, none = run("second", cache_ref_log_probs=True)
    assert len(every) == 6 and set(made) == {0} and not none
    assert first == pytest.approx(live, abs=1e-6) and second == pytest.approx(live, abs=1e-6)


def test_kept_scores_are_bit_for_bit_those_that_were_made(tmp_path):
    trainer = make(SETTINGS["whole"], tmp_path)
    cache = ScoreCache(tmp_path / "cache")
    scores = ReferenceScores(trainer.reference, cache)
    scores.score_ahead(trainer.policy, trainer.model, trainer.train_dataset, 8, progress=False)
    encoded = [trainer.train_dataset[i] for i in range(8)]
    batch = trainer.policy.collate(encoded)
    with torch.no_grad():
        made = trainer.policy.score(trainer.reference.model, batch)
    found = cache.find(cache.weights(trainer.reference.model), batch.inputs["case_keys"])
    for n, key in enumerate(batch.inputs["case_keys"]):
        assert found[key]["logp"].dtype == torch.float32
        assert torch.equal(found[key]["logp"], made.logp[n][made.mask[n]])
        assert torch.equal(scores.held[key], made.logp[n][made.mask[n]])


def test_a_copy_is_let_go_once_its_scores_are_there(tmp_path):
    trainer = make(SETTINGS["whole"], tmp_path)
    gone = weakref.ref(trainer.reference.model)
    keep(trainer, tmp_path / "cache", precompute_ref_log_probs=True)
    assert gone() is None and trainer.reference is None
    trainer.train()
    shared = keep(make(SETTINGS["lora"], tmp_path), tmp_path / "cache", precompute_ref_log_probs=True)
    assert shared.reference is not None  # it has no weights of its own


def change_weight(trainer: PreferenceTrainer) -> None:
    with torch.no_grad():
        trainer.reference.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3


def change_template(trainer: PreferenceTrainer) -> None:
    trainer.policy.owner.chat_template = "Now. " + trainer.policy.owner.chat_template


def change_picture_size(trainer: PreferenceTrainer) -> None:
    trainer.policy.owner.image_processor.resample = 0
    trainer.policy.owner.image_processor.image_mean = [0.4, 0.4, 0.4]


CHANGES: dict[str, tuple[str, Callable[[PreferenceTrainer], None]]] = {
    "nothing": ("pictures whole", lambda trainer: None),
    "a weight": ("whole", change_weight),
    "the template": ("pictures whole", change_template),
    "a processor's setting": ("pictures whole", change_picture_size),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_changed_is_scored_anew(what, tmp_path):
    name, change = CHANGES[what]
    cache = ScoreCache(tmp_path / "cache")

    def scored(directory: ScoreCache | None, change: Callable[[PreferenceTrainer], None]) -> tuple[dict, list[int]]:
        trainer = make(SETTINGS[name], tmp_path)
        change(trainer)
        made = passes(trainer)
        scores = ReferenceScores(trainer.reference, directory)
        data = prepare(trainer.policy, SETTINGS[name].records(), dpo().needs, tmp_path / "aside.jsonl", progress=False)
        scores.score_ahead(trainer.policy, trainer.model, data, progress=False)
        return scores.held, made

    first, _ = scored(cache, lambda trainer: None)
    kept, made = scored(cache, change)
    fresh, _ = scored(None, change)
    assert kept.keys() == fresh.keys() and all(torch.equal(kept[key], fresh[key]) for key in kept)
    same = first.keys() == kept.keys() and all(torch.equal(first[key], kept[key]) for key in kept)
    assert same == (not made) == (what == "nothing")


def test_one_changed_record_is_the_only_one_scored_anew(tmp_path):
    cache = tmp_path / "cache"
    keep(make(SETTINGS["whole"], tmp_path), cache, precompute_ref_log_probs=True)
    trainer = make(SETTINGS["whole"], tmp_path, records=[*TEXTS[:7], pair("What is 7? ", "two", "a", record=7)])
    rows: list[int] = []

    def note(module: nn.Module, given: Any, named: Any, output: Any) -> None:
        rows.append(len(named["input_ids"]))

    trainer.reference.model.model.register_forward_hook(note, with_kwargs=True)
    keep(trainer, cache, precompute_ref_log_probs=True)
    assert rows == [1]
    elsewhere = [replace(record, record=record.record + 50, columns={"weight": 2.0}) for record in TEXTS]
    trainer = make(SETTINGS["whole"], tmp_path, records=elsewhere)
    made = passes(trainer)
    keep(trainer, cache, precompute_ref_log_probs=True)
    assert not made  # neither the number nor the columns of a record change what a model gives


def test_the_layout_and_the_order_of_records_change_no_key(tmp_path):
    keep(make(SETTINGS["pictures lora"], tmp_path), tmp_path / "cache", precompute_ref_log_probs=True)
    rows = make(SETTINGS["pictures lora rows"], tmp_path, records=pictures()[::-1])
    made = passes(rows)
    keep(rows, tmp_path / "cache", precompute_ref_log_probs=True)
    assert not made


def test_a_cache_that_cannot_be_used_costs_a_line_and_no_number(tmp_path, caplog):
    live = make(SETTINGS["whole"], tmp_path / "live")
    live.train()
    place = tmp_path / "cache"
    place.write_text("a file where a folder should be")
    for how in ("precompute_ref_log_probs", "cache_ref_log_probs"):
        caplog.clear()
        trainer = keep(make(SETTINGS["whole"], tmp_path / how), place, **{how: True})
        trainer.train()
        assert losses(trainer) == pytest.approx(losses(live), abs=1e-6)
        assert caplog.text.count("cannot be written") == 1


def test_scores_that_are_not_finite_are_not_kept(tmp_path):
    cache = ScoreCache(tmp_path)
    values = {
        "good": torch.tensor([-1.0]),
        "bad": torch.tensor([-1.0, float("nan")]),
        "worse": torch.tensor([-torch.inf]),
    }
    cache.add("weights", {key: {"logp": v, "mask": torch.ones_like(v).bool()} for key, v in values.items()})
    assert list(cache.find("weights", list(values))) == ["good"]


def test_objectives_that_read_more_of_the_reference_are_refused(tmp_path):
    trainer = make(SETTINGS["lora"], tmp_path, objective=parse_objective("tdpo1()"))
    with pytest.raises(ConfigError, match=r"reads more of the reference than scores: kl_ref_policy.*drop cache_ref"):
        keep(trainer, tmp_path, cache_ref_log_probs=True)


def test_what_is_drawn_cannot_be_kept_and_streams_not_made_ahead(tmp_path, capsys):
    save_pipeline(tmp_path / "pipeline", "epsilon")
    write_jsonl(picture_pairs(2), tmp_path / "pairs.jsonl")
    words = ["train", "--model-name-or-path", str(tmp_path / "pipeline"), "--dataset", str(tmp_path / "pairs.jsonl")]
    words += ["--output-dir", str(tmp_path / "run"), "--max-steps", "1"]
    assert main([*words, "--precompute-ref-log-probs"]) == 2
    assert "drawn anew at every step" in capsys.readouterr().err
    assert main([*words, "--cache-vision-features"]) == 2
    assert "scored otherwise" in capsys.readouterr().err
    assert main([*words, "--precompute-ref-log-probs", "--streaming"]) == 2
    assert "use `cache_ref_log_probs`" in capsys.readouterr().err


SHARDED = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, sys.argv[1])
import factories
from omnipref.objectives import dpo
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.reference import FrozenCopy
from omnipref.preferences import pair
from omnipref.training import prepare
from omnipref.training.reference_scores import ReferenceScores, ScoreCache, stacked

dist.init_process_group("gloo")
rank, folder = dist.get_rank(), Path(sys.argv[2])
records = [pair(f"What is {i}? ", "two " * (1 + i % 3), "three cups", record=i) for i in range(7)]
model, owner = factories.llama()
policy = build_policy(model, owner)
data = prepare(policy, records, dpo().needs, folder / "aside.jsonl", progress=False)
batches = [policy.collate([data[i]]) for i in range(7)]
with torch.no_grad():
    alone = [policy.score(model, batch).logp for batch in batches]

frozen, _ = factories.llama()
mesh = init_device_mesh("cpu", (2,))
for layer in frozen.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(frozen, mesh=mesh)
frozen.requires_grad_(False)
reference = FrozenCopy(frozen)

live = ReferenceScores(reference, ScoreCache(folder / "live"))
first = batches[rank]
assert live.find(model, first) is None
scores = policy.score(model, first, reference=reference)
live.add(first, scores)
dist.barrier()
found = live.find(model, batches[1 - rank])
assert torch.allclose(stacked(found), alone[1 - rank], atol=1e-6)
assert live.find(model, batches[2 * rank]) is None  # process 0 has it, process 1 has not: both must run

ahead = ReferenceScores(reference, ScoreCache(folder / "live"))
ahead.score_ahead(policy, model, data, 2, progress=False)
assert len(ahead.held) == 14
for batch, expected in zip(batches, alone):
    assert torch.allclose(stacked(ahead.find(model, batch)), expected, atol=1e-6)
print("same")
dist.destroy_process_group()
"""


def test_processes_that_share_a_sharded_reference_run_it_together_or_not_at_all(tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(script), str(Path(__file__).parents[1]), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.count("same") == 2, done.stderr[-3000:]
    (path,) = (tmp_path / "live").rglob("*.sqlite")
    assert Store(path).count() == 14
