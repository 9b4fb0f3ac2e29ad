"""Configurations: strict keys and types, bounds, conflicts, and a round trip through YAML."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from omnipref import config as configs
from omnipref.config import Config, TrainConfig, load_config, save_config
from omnipref.config.coerce import arguments_for, coerce
from omnipref.config.load import changed_since, write_text
from omnipref.errors import ConfigError

CLASSES = [value for value in vars(configs).values() if isinstance(value, type) and issubclass(value, Config)]
REQUIRED = {"model_name_or_path": "m", "dataset": ["a.jsonl"]}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_file_and_overrides(tmp_path: Path):
    path = write(tmp_path / "run.yaml", "model_name_or_path: m\ndataset: a.jsonl\nlearning_rate: 1e-6\nseed: 3\n")
    config = load_config(TrainConfig, path, {"seed": 4, "per-device-train-batch-size": "2"})
    assert config.dataset == ["a.jsonl"]
    assert config.learning_rate == 1e-6, "YAML 1.1 reads 1e-6 as text"
    assert (config.seed, config.per_device_train_batch_size) == (4, 2)


def test_round_trip(tmp_path: Path):
    config = load_config(
        TrainConfig,
        overrides={
            **REQUIRED,
            "objective": "0.8 * dpo(beta=0.1) + sft()",
            "learning_rate": 1e-6,
            "training_arguments": {"optim": "adafactor", "adam_beta2": 0.98},
            "lora_r": 8,
            "report_to": ["wandb", "tensorboard"],
            "max_length": 128,
        },
    )
    path = save_config(config, tmp_path / "deep" / "config.yaml")
    assert load_config(TrainConfig, path) == config
    assert list(yaml.safe_load(path.read_text())) == [f.name for f in fields(TrainConfig)]
    assert [p.name for p in path.parent.iterdir()] == ["config.yaml"], "a draft was left behind"


def test_failed_write_keeps_the_old_file(tmp_path: Path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model_name_or_path: m\nlerning_rate: 1\n",
            "line 2: found the unknown key `lerning_rate`; did you mean `learning_rate`",
        ),
        ("seed: 1\nseed: 2\n", "line 2: found `seed` again, after line 1"),
        ("\nlearning_rate: fast\n", "line 2: found `learning_rate` = 'fast'; expected a number"),
        ("bf16: 1\n", "found `bf16` = 1; expected true or false"),
        ("seed: 1.5\n", "found `seed` = 1.5; expected a whole number"),
        ("seed: true\n", "expected a whole number"),
        ("layout: forrest\n", "did you mean `forest`"),
        ("dataset: [a, [b]]\n", "found `dataset[1]` = ['b']; expected text"),
        ("max_length: long\n", "expected a whole number or nothing"),
        ("training_arguments: 3\n", "expected a mapping"),
        ("- a\n", "found a list at the top"),
        ("a: [\n", "not YAML"),
    ],
)
def test_bad_files_name_the_place(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, write(tmp_path / "run.yaml", text))
    assert message in str(caught.value)
    assert "run.yaml" in str(caught.value)


def test_missing_file_and_missing_fields(tmp_path: Path):
    with pytest.raises(ConfigError, match="no readable file"):
        load_config(TrainConfig, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"no `model_name_or_path`, no `dataset`.*--model-name-or-path"):
        load_config(TrainConfig)
    with pytest.raises(ConfigError, match="empty `dataset`"):
        load_config(TrainConfig, overrides={**REQUIRED, "dataset": []})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": -1}, "`learning_rate` = -1.0; expected at least 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` = nan"),
        ({"eval_fraction": 0.95}, "expected 0 to 0.9"),
        ({"per_device_train_batch_size": 0}, "expected at least 1"),
        ({"adapter": "a", "lora_r": 8}, "keep one"),
        ({"ref_model": "a", "ref_adapter": "b"}, "keep one"),
        ({"bf16": True, "fp16": True}, "exclude each other"),
        ({"streaming": True}, "set `max_steps`"),
        ({"eval_dataset": ["b"], "eval_fraction": 0.1}, "keep one"),
        ({"online": ["own_samples"], "eval_fraction": 0.1}, "name an `eval_dataset`"),
        ({"method_args": {"beta": 1}}, "name the method"),
    ],
)
def test_bounds_and_conflicts(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, overrides={**REQUIRED, **values})
    assert message in str(caught.value)


def test_arguments_take_the_types_of_a_function():
    def function(count: int, share: float = 0.0, names: Sequence[str] = (), other: dict[str, int] | None = None): ...

    found = arguments_for(function, {"count": "3", "share": 1, "names": ["a", 2], "other": 5})
    assert found == {"count": 3, "share": 1.0, "names": ("a", "2"), "other": 5}
    assert [type(value) for value in found.values()] == [int, float, tuple, int]
    for name, value, expected in (("count", 2.5, "a whole number"), ("names", [{}], "text"), ("share", True, "number")):
        with pytest.raises(ConfigError, match=expected):
            arguments_for(function, {name: value})


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_documented_and_every_bound_is_a_field(cls: type[Config]):
    source = "".join(
        Path(str(sys.modules[c.__module__].__file__)).read_text() for c in cls.__mro__ if issubclass(c, Config)
    )
    for f in fields(cls):
        place = source.index(f"\n    {f.name}: ")
        assert source[place + 1 :].split("\n", 2)[1].startswith('    """'), f"{cls.__name__}.{f.name} has no sentence"
    assert set(cls.bounds) <= {f.name for f in fields(cls)}


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_have_the_declared_types(cls: type[Config]):
    filled = {name: [name] if "list" in str(kind) else name for name, kind in get_type_hints(cls).items()}
    needed = {name: filled[name] for name in configs.load.required(cls)}
    for name, value in asdict(cls(**needed)).items():
        assert coerce(value, get_type_hints(cls)[name], name) == value


def test_importing_configurations_does_not_import_torch():
    code = "import sys, omnipref.config, omnipref.registry, omnipref.method; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_changed_since_a_file_was_written_is_told_field_by_field(tmp_path: Path):
    before = TrainConfig(model_name_or_path="m", dataset=["a.jsonl"], output_dir="one")
    path = tmp_path / "config.yaml"
    assert changed_since(path, before) == ""
    save_config(before, path)
    after = replace(before, output_dir="two", seed=before.seed + 1)
    assert changed_since(path, before) == ""
    assert changed_since(path, after, {"output_dir"}) == f"seed {before.seed} -> {before.seed + 1}"
    assert changed_since(path, after).startswith("output_dir 'one' -> 'two'; seed ")
