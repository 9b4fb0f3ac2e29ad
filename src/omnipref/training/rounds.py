"""Rounds: make preferences with the model as it is, train, merge, perhaps go a step further, and begin again.

Every arrow leaves files that are complete or absent, so the same command goes on where a killed one stopped.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from omnipref.build import run as build
from omnipref.config import BuildConfig, RoundsConfig, TrainConfig, load_config, save_config, validate
from omnipref.errors import ConfigError, nearest
from omnipref.objectives import Objective
from omnipref.policies.autoregressive.load import load_model, load_owner
from omnipref.training.extrapolation import extrapolated, merged_weights
from omnipref.training.run import train


def run(config: RoundsConfig, objective: Objective | None = None) -> Path:
    """Run all rounds; gives the folder of the last model.

    Args:
        config: what a round does, and how many there are.
        objective: overrides the one in `train`; a method passes its own.

    Raises:
        ConfigError: `train` holds an unknown field, the folder holds rounds of another configuration, or a launcher
            started several processes.
        DataError: a round made no preference.
    """
    output, count = Path(config.output_dir), config.rounds if config.builders else len(config.dataset)
    _begin(config, output)
    start = previous = config.model_name_or_path
    for number in range(1, count + 1):
        folder = output / f"round-{number}"
        data = _preferences(config, number, count, start, folder)
        trained = _trained(config, objective, number, start, data, folder)
        fitted = _merged(start, trained, folder / "fitted")
        start = str(_further(fitted, previous, config.momentum, folder / "next")) if config.momentum else str(fitted)
        previous = str(fitted)
        print(f"round {number} of {count}: {start}")
    _replace(Path(start), output / "model")
    return output / "model"


def _begin(config: RoundsConfig, output: Path) -> None:
    """Refuse to mix what other settings made with what these make; more rounds of the same are welcome."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("`omnipref rounds` runs in one process; start it without a launcher")
    saved = output / "config.yaml"
    if saved.exists():
        before = load_config(RoundsConfig, saved)
        may_change = {"output_dir"} | ({"rounds"} if config.prompts == "all" else set())
        changed = [
            f"{field.name} {getattr(before, field.name)!r} -> {getattr(config, field.name)!r}"
            for field in fields(RoundsConfig)
            if field.name not in may_change and getattr(before, field.name) != getattr(config, field.name)
        ]
        if changed:
            raise ConfigError(
                f"{output} holds rounds with another configuration ({'; '.join(changed)}). To continue them, give the "
                "same values; to train anew, give another --output-dir"
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
        known = {field.name for field in fields(TrainConfig)}
        given = {name.replace("-", "_"): value for name, value in config.train.items()}
        for name in given:
            if name not in known:
                raise ConfigError(f"found `{name}` in `train`; {nearest(name, known)}")
        reference = {"ref_model": config.model_name_or_path} if config.reference == "first" and number > 1 else {}
        own = {"model_name_or_path": start, "dataset": [data], "output_dir": str(trained), "seed": config.seed + number}
        train(validate(TrainConfig(**{**given, **own, **reference})), objective)
        _forget()
    return trained


def _merged(start: str, trained: Path, folder: Path) -> Path:
    """A folder with whole weights: the trained one, or its adapter merged into what it started from."""
    if not (trained / "adapter_config.json").exists():
        return trained
    if not folder.exists():
        model = PeftModel.from_pretrained(_loaded(start), str(trained))  # type: ignore[arg-type]
        _save(_loaded(start), merged_weights(model), start, folder)
    return folder


def _further(fitted: Path, previous: str, momentum: float, folder: Path) -> Path:
    """A folder with the weights past the fitted ones, see `extrapolated`."""
    if not folder.exists():
        now, before = (merged_weights(_loaded(name)) for name in (str(fitted), previous))
        _save(_loaded(str(fitted)), extrapolated(now, before, momentum), str(fitted), folder)
    return folder


def _loaded(name: str) -> nn.Module:
    """In float32, whatever the checkpoint has, so that small changes are kept."""
    return load_model(name, dtype=torch.float32)


def _save(model: nn.Module, weights: Mapping[str, Tensor], owner: str, folder: Path) -> None:
    """Write a model with these weights and its tokenizer or processor; the folder appears when it is complete."""
    half: Any = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    model.load_state_dict(dict(weights))
    model.save_pretrained(half)  # type: ignore[operator]
    load_owner(owner).save_pretrained(half)  # type: ignore[union-attr]
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
