"""From a command line to a configuration: defaults, then a method's, then the YAML file, then the flags."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_origin

import tyro
import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from omnipref.config import Config, read_values, validate
from omnipref.config.load import required
from omnipref.errors import ConfigError

C = TypeVar("C", bound=Config)
MORE = """
Every command also takes:
  --config FILE.yaml   values by field name; flags win over the file
  --debug              show the traceback of an error
"""


def _pair(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"found {word!r}; expected KEY=VALUE")
    return key, _scalar(value)


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def mapping(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        """Mappings are typed as KEY=VALUE words, the values in YAML."""
        if get_origin(info.type) is not dict:
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="KEY=VALUE ...",
            instance_from_str=lambda words: dict(map(_pair, words)),
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [f"{key}={item}" for key, item in value.items()],
        )

    return registry


def take_option(words: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """Command-line words without an option, and the option's value; the last one wins.

    Raises:
        ConfigError: the option has no value.

    Example:
        >>> take_option(["a", "--config", "c.yaml", "--seed=1"], "--config")
        (['a', '--seed=1'], 'c.yaml')
    """
    rest: list[str] = []
    value: str | None = None
    queue = iter(words)
    for word in queue:
        if word == name:
            value = next(queue, None)
            if value is None:
                raise ConfigError(f"found `{name}` without a value; expected `{name} FILE.yaml`")
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, value


def parse(
    cls: type[C], words: Sequence[str], *, prog: str, values: Mapping[str, Any] | None = None, path: str | None = None
) -> C:
    """The configuration that a command line asks for.

    Args:
        cls: the command's configuration.
        words: flags and positional values, without `--config`.
        prog: the command, for the help.
        values: values that lie under the file.
        path: YAML file, under the flags.

    Raises:
        ConfigError: a bad file, a value out of bounds, or fields in conflict.
        SystemExit: `--help` (0), or unknown or ill-typed flags (2), as tyro reports them.
    """
    base = dict(values or {}) | (read_values(cls, path) if path is not None else {})
    asked = {name: tyro.MISSING for name in required(cls)} | base
    with _registry():
        config = tyro.cli(
            cls,
            args=list(words),
            default=cls(**asked),
            prog=prog,
            description=inspect.cleandoc(cls.__doc__ or "") + "\n" + MORE,
        )
    return validate(config)
