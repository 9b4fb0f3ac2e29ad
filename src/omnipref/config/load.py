"""Reads configurations from YAML and overrides, strictly: a wrong key or type is named with its place and the cure."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, fields
from math import isnan
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from omnipref.config.base import Config
from omnipref.config.coerce import coerce
from omnipref.errors import ConfigError, nearest

C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> C:
    """A configuration from a YAML file, with overrides on top.

    Args:
        cls: the command's configuration.
        path: YAML file with the names of the fields; None takes the overrides alone.
        overrides: values by field, as in YAML or as Python values.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of bounds, a missing field, or fields in conflict.

    Example:
        >>> from omnipref.config import TrainConfig
        >>> load_config(TrainConfig, overrides={"model_name_or_path": "m", "dataset": ["a.jsonl"], "seed": "3"}).seed
        3
    """
    values = read_values(cls, path) if path is not None else {}
    values |= check_values(cls, overrides or {}, source="override")
    return build_config(cls, values)


def build_config(cls: type[C], values: Mapping[str, Any]) -> C:
    """The configuration of checked values.

    Raises:
        ConfigError: a required field is missing, a value is out of bounds, or fields are in conflict.
    """
    missing = [name for name in required(cls) if name not in values]
    if missing:
        names = "`, no `".join(missing)
        raise ConfigError(f"found no `{names}`; expected a value, in the YAML file or as --{dashed(missing[0])}")
    return validate(cls(**values))


def required(cls: type[Config]) -> list[str]:
    """The fields that have no default."""
    return [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]


def dashed(name: str) -> str:
    """A field's name as a flag."""
    return name.replace("_", "-")


def read_values(cls: type[Config], path: str | Path) -> dict[str, Any]:
    """The values of a YAML file, checked against the fields of a configuration.

    Raises:
        ConfigError: the file is missing, is not YAML or not a mapping, or has an unknown key or wrong type; says where.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"found no readable file {path} ({error.strerror}); expected a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: found something that is not YAML: {error}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode) or not isinstance(raw, dict):
        raise ConfigError(f"{path}: found a {type(raw).__name__} at the top; expected `name: value` lines")
    lines = _lines(node, path)
    return check_values(cls, {str(key): value for key, value in raw.items()}, source=str(path), lines=lines)


def _lines(node: yaml.MappingNode, path: str | Path) -> dict[str, int]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            first = lines[key.value]
            raise ConfigError(f"{path}, line {line}: found `{key.value}` again, after line {first}; keep one")
        lines[key.value] = line
    return lines


def check_values(
    cls: type[Config], values: Mapping[str, Any], *, source: str, lines: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Values with the types of the fields.

    Args:
        source: where the values come from, for messages.
        lines: line of each key in the source.

    Raises:
        ConfigError: an unknown key (with the nearest known one) or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        place = f"{source}, line {lines[key]}" if lines and key in lines else source
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError(f"{place}: found the unknown key `{key}`; {nearest(name, known)}")
        try:
            checked[name] = coerce(value, hints[name], name)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
    return checked


def validate(config: C) -> C:
    """The same configuration, if it is complete, its numbers are within bounds and its fields agree.

    Raises:
        ConfigError: otherwise; lists every conflict.
    """
    empty = [name for name in required(type(config)) if not getattr(config, name)]
    problems = [f"found an empty `{name}`; expected a value" for name in empty]
    problems += [*_out_of_bounds(config), *config.conflicts()]
    if problems:
        raise ConfigError("; ".join(problems))
    return config


def _out_of_bounds(config: Config) -> Iterator[str]:
    for name, (low, high) in config.bounds.items():
        value = getattr(config, name)
        if value is not None and (isnan(value) or not low <= value <= high):
            yield f"found `{name}` = {value}; expected {describe_bounds(low, high)}"


def describe_bounds(low: float, high: float) -> str:
    """Bounds in words.

    Example:
        >>> describe_bounds(0, float("inf"))
        'at least 0'
    """
    return f"at least {low}" if high == float("inf") else f"{low} to {high}"


def changed_since(path: Path, config: Config, may_change: Collection[str] = ()) -> str:
    """What a configuration says otherwise than the one in a file, as `field old -> new; ...`; empty for nothing.

    Args:
        path: written by `save_config`; where there is no such file, nothing has changed.
        config: of the same command.
        may_change: fields that are passed over.

    Raises:
        ConfigError: the file holds no configuration of this command.
    """
    if not path.exists():
        return ""
    before = load_config(type(config), path)
    names = [each.name for each in fields(type(config)) if each.name not in may_change]
    pairs = {name: (getattr(before, name), getattr(config, name)) for name in names}
    return "; ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in pairs.items() if old != new)


def save_config(config: Config, path: str | Path) -> Path:
    """Write a configuration as YAML, every field, atomically; `load_config` reads it back to an equal value."""
    return write_text(path, yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True, width=120))


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 file at once or not at all: a killed process leaves the old file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
    return path
