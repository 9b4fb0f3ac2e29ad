"""A reference that follows the policy: the arithmetic, what cannot follow, and the same numbers after a kill."""

from __future__ import annotations

from pathlib import Path

import factories
import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import fully_shard
from training.test_run import losses, rows_of_text, write
from transformers import TrainerState

from omnipref.cli.main import main
from omnipref.errors import CapabilityError, ConfigError
from omnipref.policies.reference import AdapterOff, copy_adapter, frozen_copy
from omnipref.training.reference_updates import FILE, Bema, ReferenceUpdates


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return factories.save(*factories.llama(), tmp_path_factory.mktemp("moving") / "llama")


def moved(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    return model


def adapter() -> torch.nn.Module:
    model, _ = factories.llama()
    return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))


def test_a_copy_goes_its_share_of_the_way():
    model, _ = factories.llama()
    reference = frozen_copy(model)
    before = reference.model.lm_head.weight.clone()
    updates = ReferenceUpdates(reference, moved(model), mixup=0.25)
    updates.update(1)
    torch.testing.assert_close(reference.model.lm_head.weight, before + 0.25)
    updates.mixup = 1.0
    updates.update(1)
    assert torch.equal(reference.model.lm_head.weight, model.lm_head.weight)


def test_the_copy_of_an_adapter_follows_its_adapter_alone():
    model = adapter()
    reference = copy_adapter(model)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    base = layer.base_layer.weight.clone()
    moved(model)
    ReferenceUpdates(reference, model, mixup=0.5).update(1)
    trained, frozen = (layer.lora_A[name].weight for name in ("default", "ref"))
    torch.testing.assert_close(trained - frozen, torch.full_like(trained, 0.5))
    assert torch.equal(layer.base_layer.weight, base)
    assert not frozen.requires_grad


def test_a_corrected_average_by_hand():
    model, _ = factories.llama()
    reference = frozen_copy(model)
    start = model.lm_head.weight.detach().clone()
    updates = ReferenceUpdates(reference, model)
    updates.correct(Bema(ema_power=0.5, bias_power=1.0, lag=2))
    updates_at = [(2, 1.0), (7, 3.0)]  # step, and how far the policy has gone
    # Average 0.5 * 1 and then 0.5 + (3 - 0.5) / 3; corrected by 1/4 of 1 and 1/9 of 3.
    for (step, far), expected in zip(updates_at, [0.5 + 0.25, 0.5 + 2.5 / 3 + 3 / 9], strict=True):
        with torch.no_grad():
            model.lm_head.weight.copy_(start + far)
        updates.update(step)
        torch.testing.assert_close(reference.model.lm_head.weight, start + expected)


def test_without_average_or_correction_it_is_the_policy_or_stays():
    for bema, expected in ((Bema(ema_power=0, bias_power=50), 1.0), (Bema(ema_power=50, bias_power=50), 0.0)):
        model, _ = factories.llama()
        reference, start = frozen_copy(model), model.lm_head.weight.detach().clone()
        updates = ReferenceUpdates(reference, model)
        updates.correct(bema)
        moved(model)
        updates.update(5)
        torch.testing.assert_close(reference.model.lm_head.weight, start + expected)


def test_the_corrected_average_is_trls():
    trl = pytest.importorskip("trl", reason="the peer to compare with is in the extra `bench`")
    model, _ = factories.llama()
    reference = frozen_copy(model)
    updates = ReferenceUpdates(reference, model, steps=2)
    updates.correct(Bema(ema_power=0.4, bias_power=0.3, lag=5))
    theirs = trl.BEMACallback(update_freq=2, ema_power=0.4, bias_power=0.3, lag=5)
    state = TrainerState()
    theirs.on_train_begin(None, state, None, model=model)
    draw = torch.Generator().manual_seed(0)
    for state.global_step in range(1, 7):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        for callback in (theirs, updates):
            callback.on_step_end(None, state, None, model=model)
        if state.global_step % 2 == 0:
            for name, weight in theirs.running_model.named_parameters():
                torch.testing.assert_close(reference.model.get_parameter(name), weight)


@pytest.mark.parametrize("bad", [{"lag": 0}, {"ema_power": -0.1}, {"bias_power": "0.2"}, {"bias": 0.2}])
def test_a_bad_setting_of_the_average_is_named(bad):
    with pytest.raises(ConfigError, match=f"found `?{next(iter(bad))}"):
        Bema.of(bad)


def test_a_checkpoint_without_averages_is_named(tmp_path):
    model, _ = factories.llama()
    ReferenceUpdates(frozen_copy(model), model).save(tmp_path)
    updates = ReferenceUpdates(frozen_copy(model), model)
    updates.correct(Bema())
    with pytest.raises(ConfigError, match=r"holds no moving average.*leave `ref_model_bema` away"):
        updates.load(tmp_path)


def test_what_has_no_weights_of_its_own_cannot_follow():
    with pytest.raises(CapabilityError, match="without its adapter"):
        ReferenceUpdates(AdapterOff(), adapter())
    model, other = factories.llama()[0], factories.llama(hidden_size=32)[0]
    reference = frozen_copy(other)
    reference.model.lm_head = torch.nn.Identity()
    with pytest.raises(CapabilityError, match="other weights"):
        ReferenceUpdates(reference, model)


def words(model: Path, folder: Path, steps: int, *more: str) -> list[str]:
    data = write(folder / "pairs.jsonl", rows_of_text())
    given = ["train", "--model-name-or-path", str(model), "--dataset", str(data), "--output-dir", str(folder / "run")]
    given += ["--per-device-train-batch-size", "4", "--learning-rate", "1e-3", "--logging-steps", "1"]
    return [*given, "--training-arguments", "use_cpu=true", "--max-steps", str(steps), "--save-steps", "3", *more]


@pytest.mark.parametrize("kind", ["whole", "adapter", "corrected"])
def test_an_interrupted_run_goes_on_with_the_reference_as_it_was(llama, tmp_path, kind):
    more = ["--sync-ref-model", "--ref-model-mixup-alpha", "0.5", "--ref-model-sync-steps", "2"]
    more += ["--lr-scheduler-type", "constant"]
    if kind == "corrected":
        more += ["--ref-model-bema", "ema_power=0.4", "lag=2"]
    if kind == "adapter":
        adapter().save_pretrained(tmp_path / "adapter")
        more += ["--adapter", str(tmp_path / "adapter")]
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    assert main(words(llama, tmp_path / "once", 6, *more)) == 0
    assert main(words(llama, tmp_path / "twice", 3, *more)) == 0
    assert main(words(llama, tmp_path / "twice", 6, *more)) == 0
    assert losses(tmp_path / "twice" / "run") == losses(tmp_path / "once" / "run")
    kept = [load_file(tmp_path / name / "run" / "checkpoint-6" / FILE) for name in ("once", "twice")]
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())


def test_a_reset_every_step_keeps_the_loss_at_its_start(llama, tmp_path):
    assert (
        main(
            words(llama, tmp_path, 4, "--sync-ref-model", "--ref-model-mixup-alpha", "1", "--ref-model-sync-steps", "1")
        )
        == 0
    )
    assert losses(tmp_path / "run") == pytest.approx([0.693147] * 4, abs=1e-5)


def test_kept_scores_and_a_moving_reference_exclude_each_other(llama, tmp_path, capsys):
    assert main(words(llama, tmp_path, 2, "--sync-ref-model", "--precompute-ref-log-probs")) == 2
    assert "sync_ref_model" in capsys.readouterr().err
    assert main(words(llama, tmp_path, 2, "--ref-model-bema", "lag=2")) == 2
    assert "`ref_model_bema` is given without `sync_ref_model`" in capsys.readouterr().err


def test_an_adapter_that_goes_into_shards_with_the_policy_is_refused_when_training_begins():
    model = adapter()
    updates = ReferenceUpdates(copy_adapter(model), model)
    updates.on_train_begin(None, None, None)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(CapabilityError, match="in shards cannot follow"):
            updates.on_train_begin(None, None, None)
    finally:
        dist.destroy_process_group()
