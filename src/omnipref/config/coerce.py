"""Turns a value from YAML or a shell into the type of a field, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omnipref.errors import ConfigError, nearest

_LISTS: Mapping[Any, Callable[..., Any]] = {list: list, tuple: tuple, Sequence: tuple}


def is_plain(kind: Any) -> bool:
    """Whether a file or a command line can hold a value of this type: numbers, texts, choices and lists of them.

    Example:
        >>> is_plain(int | None), is_plain(dict[str, int])
        (True, False)
    """
    if get_origin(kind) is Literal:
        return True
    if get_origin(kind) in (Union, UnionType, *_LISTS):
        return all(is_plain(arg) for arg in get_args(kind) if arg is not Ellipsis)
    return kind in (str, int, float, bool, NoneType)


def arguments_for(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the types of a function's parameters, those of other than plain types as they are.

    Args:
        function: has annotations.
        values: by parameter; parameters that it lacks are for the caller to refuse.

    Raises:
        ConfigError: names the parameter, what was found and what was expected.
    """
    kinds = get_type_hints(function)
    return {
        name: coerce(value, kinds[name], name) if is_plain(kinds.get(name)) else value for name, value in values.items()
    }


def describe(kind: Any) -> str:
    """A type in words.

    Example:
        >>> describe(list[str]), describe(int | None)
        ('a list of texts', 'a whole number or nothing')
    """
    names = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        NoneType: "nothing",
        dict: "a mapping",
    }
    origin, args = get_origin(kind), get_args(kind)
    if origin in _LISTS:
        return f"a list of {describe(args[0]).removeprefix('a ')}s"
    if origin in (Union, UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    return names.get(origin or kind, str(kind))


def coerce(value: Any, kind: Any, name: str) -> Any:
    """The value as the field's type.

    A single value stands for a list of one, a whole number for a number, and text that reads as a number for that
    number (YAML takes `1e-6` for text). Nothing is rounded or guessed.

    Raises:
        ConfigError: names the field, what was found and what was expected.

    Example:
        >>> coerce("1e-6", float, "learning_rate"), coerce("a.jsonl", list[str], "dataset")
        (1e-06, ['a.jsonl'])
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _union(value, args, kind, name)
    if origin is Literal:
        return _literal(value, args, name)
    if origin in _LISTS:
        items = value if isinstance(value, (list, tuple)) else [value]
        return _LISTS[origin](coerce(item, args[0], f"{name}[{i}]") for i, item in enumerate(items))
    if origin is dict and isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    return _plain(value, kind, name)


def _union(value: Any, kinds: tuple[Any, ...], kind: Any, name: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    for option in kinds:
        if option is NoneType:
            continue
        try:
            return coerce(value, option, name)
        except ConfigError:
            continue
    raise _wrong(value, kind, name)


def _literal(value: Any, options: tuple[Any, ...], name: str) -> Any:
    if value in options:
        return value
    raise ConfigError(f"found `{name}` = {value!r}; {nearest(str(value), map(str, options))}")


def _plain(value: Any, kind: Any, name: str) -> Any:
    try:
        if isinstance(value, bool) or kind is bool:
            if kind is bool and isinstance(value, bool):
                return value
        elif kind is str and isinstance(value, (str, int, float)):
            return str(value)
        elif kind is float and isinstance(value, (str, int, float)):
            return float(value)
        elif kind is int and (isinstance(value, (str, int)) or (isinstance(value, float) and value.is_integer())):
            return int(value)
    except ValueError:
        pass
    raise _wrong(value, kind, name)


def _wrong(value: Any, kind: Any, name: str) -> ConfigError:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return ConfigError(f"found `{name}` = {shown}; expected {describe(kind)}")
