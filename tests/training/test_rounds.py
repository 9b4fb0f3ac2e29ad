"""Rounds on a real tiny model: files of every arrow, going on after an interruption, momentum, and curricula."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factories
import pytest
import torch
from safetensors.torch import load_file
from training.test_run import losses, rows_of_text, write
from transformers import AutoModelForCausalLM

from omnipref.cli.main import main
from omnipref.config import RoundsConfig
from omnipref.errors import ConfigError
from omnipref.training import rounds

SMALL = ["learning_rate=1e-3", "max_steps=2", "per_device_train_batch_size=4", "logging_steps=1"]
SMALL += ["training_arguments={use_cpu: true}"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return factories.save(*factories.llama(), tmp_path_factory.mktemp("rounds") / "llama")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def curriculum(llama: Path, folder: Path, *more: str) -> list[str]:
    files = [str(write(folder / f"{name}.jsonl", rows_of_text(4 + i))) for i, name in enumerate(("easy", "hard"))]
    out = ["--model-name-or-path", str(llama), "--output-dir", str(folder / "out"), "--train", *SMALL]
    return ["rounds", *files, *out, *more]


def test_a_curriculum_starts_and_measures_from_the_last_stage(llama, tmp_path):
    assert main(curriculum(llama, tmp_path)) == 0
    first = [losses(tmp_path / "out" / f"round-{k}" / "run")[0] for k in (1, 2)]
    assert first == pytest.approx([0.693147] * 2, abs=1e-5)
    last = weights(tmp_path / "out" / "round-2" / "run")
    assert all(torch.equal(value, last[name]) for name, value in weights(tmp_path / "out" / "model").items())
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")


def test_the_first_model_can_stay_the_reference(llama, tmp_path):
    assert main(curriculum(llama, tmp_path, "--reference", "first")) == 0
    assert losses(tmp_path / "out" / "round-1" / "run")[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses(tmp_path / "out" / "round-2" / "run")[0] < 0.69


def test_momentum_goes_further_along_the_last_change(llama, tmp_path):
    assert main(curriculum(llama, tmp_path, "--momentum", "0.5")) == 0
    out = tmp_path / "out"
    name = "model.layers.0.mlp.up_proj.weight"
    start, first, second = (weights(f)[name] for f in (llama, out / "round-1" / "run", out / "round-2" / "run"))
    torch.testing.assert_close(weights(out / "round-1" / "next")[name], first + 0.5 * (first - start))
    torch.testing.assert_close(weights(out / "model")[name], second + 0.5 * (second - first))


def test_a_round_samples_judges_pairs_trains_and_merges(llama, tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"What is {i}? "} for i in range(6)])
    words = ["rounds", str(prompts), "--model-name-or-path", str(llama), "--output-dir", str(tmp_path / "out")]
    words += ["--rounds", "2", "--prompts", "share", "--builders", "best_vs_worst(reward=-count('a'), n=6)"]
    words += ["--train", *SMALL, "lora_r=2", "lora_target_modules=[q_proj]"]
    assert main(words) == 0
    for k in (1, 2):
        assert (tmp_path / "out" / f"round-{k}" / "pairs.jsonl").stat().st_size
        merged = weights(tmp_path / "out" / f"round-{k}" / "fitted")
        assert not any("lora" in name for name in merged)
    assert not torch.equal(
        merged["model.layers.0.self_attn.q_proj.weight"], weights(llama)["model.layers.0.self_attn.q_proj.weight"]
    )


@pytest.mark.parametrize("place", ["train", "_save"])
def test_an_interruption_goes_on_to_the_same_weights(llama, tmp_path, monkeypatch, place):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    momentum = ["--momentum", "0.5"]
    assert main(curriculum(llama, tmp_path / "whole", *momentum)) == 0
    own, calls = getattr(rounds, place), []

    def killed(*given, **named):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, place, killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            raise SystemExit(main(curriculum(llama, tmp_path / "killed", *momentum)))
    assert not (tmp_path / "killed" / "out" / "model").exists()
    assert main(curriculum(llama, tmp_path / "killed", *momentum)) == 0
    found, expected = (weights(tmp_path / name / "out" / "model") for name in ("killed", "whole"))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_unknown_fields_of_train_are_named(llama, tmp_path, capsys):
    assert main([*curriculum(llama, tmp_path), "learning_rat=1"]) == 2
    assert "`learning_rat`" in capsys.readouterr().err


def test_fields_that_a_round_sets_are_refused(llama, tmp_path, capsys):
    assert main([*curriculum(llama, tmp_path), "ref_model=other"]) == 2
    assert "`ref_model` stands in `train`" in capsys.readouterr().err


def test_another_configuration_does_not_take_what_is_there(llama, tmp_path, capsys):
    assert main(curriculum(llama, tmp_path)) == 0
    assert main(curriculum(llama, tmp_path, "--momentum", "0.5")) == 2
    assert "another configuration (momentum 0.0 -> 0.5)" in capsys.readouterr().err
    assert main(curriculum(llama, tmp_path)) == 0


def test_a_method_brings_its_objective_and_defaults(llama, tmp_path):
    assert main([*curriculum(llama, tmp_path), "method=insights-alignment", "method_args={loss: ipo}"]) == 0
    # The square link's target is 1 / (2 * 0.1) = 5 nats per unit, and the loss begins at its square.
    assert losses(tmp_path / "out" / "round-1" / "run")[0] == pytest.approx(25, abs=1e-4)


def test_several_processes_are_refused(llama, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="runs in one process"):
        rounds.run(RoundsConfig(dataset=["easy.jsonl"], model_name_or_path=str(llama), output_dir=str(tmp_path)))


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_model_with_code_of_its_own_goes_through_rounds(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = shutil.copytree(llama, tmp_path / "own")
    (own / "own.py").write_text(OWN_CODE)
    settings = json.loads((own / "config.json").read_text()) | {"model_type": "own-llama"}
    settings["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (own / "config.json").write_text(json.dumps(settings))
    words = [*curriculum(own, tmp_path, "--momentum", "0.5"), "lora_r=2", "lora_target_modules=[q_proj]"]
    words[words.index("--momentum") :] = ["trust_remote_code=true", *words[words.index("--momentum") + 2 :]]
    assert main([*words, "--momentum", "0.5"]) == 0
    assert weights(tmp_path / "out" / "model").keys() == weights(llama).keys()


def test_what_cannot_work_is_refused_before_the_first_round(llama, tmp_path, capsys):
    words = curriculum(llama, tmp_path)
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text("{}")
    diffusion = [str(pipeline) if word == str(llama) else word for word in words]
    for line, message in (
        ([*words, "lora_r=two"], "`train`: found `lora_r` = 'two'; expected a whole number"),
        ([words[0], "gone.jsonl", *words[2:]], "gone.jsonl: found no such file"),
        ([*diffusion, "lora_r=2"], "is a diffusion pipeline"),
    ):
        assert main(line) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
