"""Dataclasses from plain JSON values, with errors that name the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omnipref.errors import DataError, nearest

T = TypeVar("T")


def from_plain(kind: type[T], value: Any, source: str, field: str = "") -> T:
    """A value of type `kind` from what `json.load` gives.

    Understands dataclasses, `tuple[X, ...]`, `dict[str, X]`, `str`, `bool`, `int` and `float`.

    Args:
        kind: the type wanted.
        value: the plain value.
        source: file, for messages.
        field: path inside the file, for messages.

    Raises:
        DataError: a field is missing, unknown or of another type.

    Example:
        >>> from_plain(tuple[float, ...], [1, 2.5], "a.json")
        (1.0, 2.5)
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, source, field)
    outer = get_origin(kind)
    if outer is tuple:
        items = _checked(value, list, source, field)
        return tuple(from_plain(get_args(kind)[0], item, source, f"{field}[{i}]") for i, item in enumerate(items))  # pyright: ignore[reportReturnType]
    if outer is dict:
        items = _checked(value, dict, source, field)
        return {key: from_plain(get_args(kind)[1], item, source, f"{field}.{key}") for key, item in items.items()}  # pyright: ignore[reportReturnType]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # pyright: ignore[reportReturnType]
    return _checked(value, kind, source, field)


def _dataclass(kind: type[T], value: Any, source: str, field: str) -> T:
    items = _checked(value, dict, source, field)
    hints = get_type_hints(kind)
    prefix = f"{field}." if field else ""
    unknown = [key for key in items if key not in hints]
    if unknown:
        raise DataError(f"`{unknown[0]}`", nearest(unknown[0], hints), field=prefix + unknown[0], source=source)
    values = {key: from_plain(hints[key], item, source, prefix + key) for key, item in items.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise DataError(str(error), f"all fields of {kind.__name__}", field=field or None, source=source) from None


def _checked(value: Any, kind: type, source: str, field: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = "an object" if issubclass(kind, Mapping) else kind.__name__
        raise DataError(f"{type(value).__name__}", wanted, field=field or None, source=source)
    return value
