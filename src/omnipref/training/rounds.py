"""Rounds: make preferences with the model as it is, train, merge, perhaps go a step further, and begin again.

Every arrow leaves files that are complete or absent, so the same command goes on where a killed one stopped.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from omnipref.build import run as build
from omnipref.config import BuildConfig, RoundsConfig, TrainConfig, save_config, validate
from omnipref.config.load import changed_since, check_values
from omnipref.errors import ConfigError
from omnipref.objectives import Objective
from omnipref.policies.autoregressive.load import load_model, load_owner
from omnipref.preferences.sources import check_source
from omnipref.training.extrapolation import extrapolated
from omnipref.training.run import train


def run(config: RoundsConfig, objective: Objective | None = None) -> Path:
    """Run all rounds; gives the folder of the last model.

    Args:
        config: what a round does, and how many there are.
        objective: overrides the one in `train`; a method passes its own.

    Raises:
        ConfigError: `train` holds an unknown field or a value of another type, the folder holds rounds of another
            configuration, or a launcher started several processes.
        DataError: a round made no preference, or a file is missing.
    """
    output, count = Path(config.output_dir), config.rounds if config.builders else len(config.dataset)
    _begin(config, output)
    start = previous = config.model_name_or_path
    for number in range(1, count + 1):
        folder = output / f"round-{number}"
        data = _preferences(config, number, count, start, folder)
        trained = _trained(config, objective, number, start, data, folder)
        trust = {"trust_remote_code": bool(_given(config).get("trust_remote_code", False))}
        fitted = _merged(start, trained, folder / "fitted", trust)
        start = str(_further(fitted, previous, config.momentum, folder / "next", trust) if config.momentum else fitted)
        previous = str(fitted)
        print(f"round {number} of {count}: {start}")
    _replace(Path(start), output / "model")
    return output / "model"


def _begin(config: RoundsConfig, output: Path) -> None:
    """Refuse to mix what other settings made with what these make; more rounds of the same are welcome."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("`omnipref rounds` runs in one process; start it without a launcher")
    given, pipeline = _given(config), Path(config.model_name_or_path) / "model_index.json"
    if pipeline.exists() and (config.builders or config.momentum or given.get("lora_r")):
        raise ConfigError(
            f"{pipeline.parent} is a diffusion pipeline, and rounds sample, merge and extrapolate models of text only; "
            "leave `builders`, `momentum` and `lora_r` away, or train each stage with `omnipref train`"
        )
    for source in config.dataset:
        check_source(source, split=config.dataset_split)
    saved = output / "config.yaml"
    may_change = {"output_dir"} | ({"rounds"} if config.prompts == "all" else set())
    if changed := changed_since(saved, config, may_change):
        raise ConfigError(
            f"{output} holds rounds with another configuration ({changed}). To continue them, give the same values; to "
            "train anew, give another --output-dir"
        )
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, saved)


def _preferences(config: RoundsConfig, number: int, count: int, start: str, folder: Path) -> str:
    """The file with the preferences of a round."""
    if not config.builders:
        return config.dataset[number - 1]
    made = folder / "pairs.jsonl"
    if not made.exists():
        own = [f"every_nth({count}, start={number - 1})"] if config.prompts == "share" else []
        settings = BuildConfig(
            dataset=config.dataset,
            dataset_format=config.dataset_format,
            dataset_split=config.dataset_split,
            output=str(made),
            builders=[*own, *config.builders],
            model_name_or_path=start,
            trust_remote_code=bool(_given(config).get("trust_remote_code", False)),
            seed=config.seed + number,
        )
        build(validate(settings))  # type: ignore[arg-type]: positional fields are wrapped
        _forget()
    return str(made)


def _trained(
    config: RoundsConfig, objective: Objective | None, number: int, start: str, data: str, folder: Path
) -> Path:
    """The folder of a round's run of the trainer."""
    trained = folder / "run"
    if not (trained / "eval_results.json").exists():
        given = _given(config)
        reference = {"ref_model": config.model_name_or_path} if config.reference == "first" and number > 1 else {}
        own = {"model_name_or_path": start, "dataset": [data], "output_dir": str(trained), "seed": config.seed + number}
        train(validate(TrainConfig(**{**given, **own, **reference})), objective)
        _forget()
    return trained


def _given(config: RoundsConfig) -> dict[str, Any]:
    """What is set of `omnipref train`, by field name and with the field's type."""
    return check_values(TrainConfig, config.train, source="`train`")


def _merged(start: str, trained: Path, folder: Path, trust: Mapping[str, bool]) -> Path:
    """A folder with whole weights: the trained one, or its adapter merged into what it started from."""
    if not (trained / "adapter_config.json").exists():
        return trained
    if not folder.exists():
        model = PeftModel.from_pretrained(_loaded(start, trust), str(trained))  # type: ignore[arg-type]
        _save(model.merge_and_unload(), start, folder, trust)
    return folder


def _further(fitted: Path, previous: str, momentum: float, folder: Path, trust: Mapping[str, bool]) -> Path:
    """A folder with the weights past the fitted ones, see `extrapolated`."""
    if not folder.exists():
        model = _loaded(str(fitted), trust)
        before = _loaded(previous, trust).state_dict()
        model.load_state_dict(extrapolated(model.state_dict(), before, momentum))
        _save(model, str(fitted), folder, trust)
    return folder


def _loaded(name: str, trust: Mapping[str, bool]) -> nn.Module:
    """In float32, whatever the checkpoint has, so that small changes are kept."""
    return load_model(name, dtype=torch.float32, **trust)


def _save(model: nn.Module, owner: str, folder: Path, trust: Mapping[str, bool]) -> None:
    """Write a model and its tokenizer or processor; the folder appears when it is complete."""
    half: Any = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    model.save_pretrained(half)  # type: ignore[operator]
    load_owner(owner, **trust).save_pretrained(half)  # type: ignore[union-attr]
    half.rename(folder)
    _forget()


def _replace(source: Path, folder: Path) -> None:
    half = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(source, half, ignore=shutil.ignore_patterns("checkpoint-*", "previous-*"))
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)


def _forget() -> None:
    """Let models of the last step go."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
