"""A reference that follows the policy: the arithmetic, what cannot follow, and the same numbers after a kill."""

from __future__ import annotations

from pathlib import Path

import factories
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from training.test_run import losses, rows_of_text, write

from omnipref.cli.main import main
from omnipref.errors import CapabilityError
from omnipref.policies.reference import AdapterOff, copy_adapter, frozen_copy
from omnipref.training.reference_updates import FILE, ReferenceUpdates


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
    updates.update()
    torch.testing.assert_close(reference.model.lm_head.weight, before + 0.25)
    updates.mixup = 1.0
    updates.update()
    assert torch.equal(reference.model.lm_head.weight, model.lm_head.weight)


def test_the_copy_of_an_adapter_follows_its_adapter_alone():
    model = adapter()
    reference = copy_adapter(model)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    base = layer.base_layer.weight.clone()
    moved(model)
    ReferenceUpdates(reference, model, mixup=0.5).update()
    trained, frozen = (layer.lora_A[name].weight for name in ("default", "ref"))
    torch.testing.assert_close(trained - frozen, torch.full_like(trained, 0.5))
    assert torch.equal(layer.base_layer.weight, base)
    assert not frozen.requires_grad


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


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_an_interrupted_run_goes_on_with_the_reference_as_it_was(llama, tmp_path, kind):
    more = ["--sync-ref-model", "--ref-model-mixup-alpha", "0.5", "--ref-model-sync-steps", "2"]
    more += ["--lr-scheduler-type", "constant"]
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
