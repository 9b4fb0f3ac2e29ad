"""Typed access to the fields of a raw row; every error names the field, what was found and what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnipref.errors import DataError


def described(value: Any) -> str:
    """A value in words, short enough for a message.

    Example:
        >>> described([1, 2])
        'a list of 2'
    """
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, list(value)[:6])) or 'no keys'}"
    return f"{type(value).__name__} {str(value)[:40]}"


@dataclass(frozen=True)
class Row:
    """A raw row, or an object inside one.

    Args:
        value: column to value; null counts as absent.
        path: where the object lies in its row, such as `completions[1]`.

    Example:
        >>> Row({"prompt": "hi"}).text("prompt")
        'hi'
    """

    value: Mapping[str, Any]
    path: str = ""

    def name(self, key: str) -> str:
        """The full path of a field."""
        return f"{self.path}.{key}" if self.path else key

    def has(self, *keys: str) -> bool:
        """Whether all of these fields are present and not null."""
        return all(self.value.get(key) is not None for key in keys)

    def get(self, key: str) -> Any:
        """The field as it is, or None."""
        return self.value.get(key)

    def require(self, key: str, expected: str) -> Any:
        """The field as it is.

        Raises:
            DataError: absent or null.
        """
        if self.value.get(key) is None:
            found = "null" if key in self.value else f"no such field (there are: {', '.join(map(str, self.value))})"
            raise DataError(found, expected, cure="fill the field in or drop the record", field=self.name(key))
        return self.value[key]

    def text(self, key: str) -> str:
        """A string, possibly empty."""
        value = self.require(key, "text")
        if not isinstance(value, str):
            raise DataError(described(value), "text", cure="turn the column into text", field=self.name(key))
        return value

    def number(self, key: str) -> float:
        """A finite number; numerals in a string count, since several public sets store ratings so."""
        return finite(self.require(key, "a number"), self.name(key))

    def flag(self, key: str) -> bool:
        """A boolean, also written as 0 or 1."""
        return boolean(self.require(key, "true or false"), self.name(key))

    def items(self, key: str, expected: str = "a list") -> list[Any]:
        """A list that is not empty."""
        value = self.require(key, expected)
        if not isinstance(value, (list, tuple)) or not value:
            found = "an empty list" if isinstance(value, (list, tuple)) else described(value)
            raise DataError(found, expected, cure="mend or drop the record", field=self.name(key))
        return list(value)

    def child(self, key: str) -> Row:
        """An object inside the row."""
        return Row.of(self.require(key, "an object"), self.name(key))

    def rows(self, key: str) -> list[Row]:
        """A list of objects; the columnar form of `datasets` (an object of lists) is turned round."""
        value = self.require(key, "a list of objects")
        if isinstance(value, Mapping):
            value = _transposed(value, self.name(key))
        items = Row({key: value}, self.path).items(key, "a list of objects")
        return [Row.of(item, f"{self.name(key)}[{i}]") for i, item in enumerate(items)]

    @staticmethod
    def of(value: Any, path: str = "") -> Row:
        """A row from any value.

        Raises:
            DataError: the value is not an object.
        """
        if not isinstance(value, Mapping):
            raise DataError(described(value), "an object with named fields", field=path or None)
        return Row(value, path)


def finite(value: Any, field: str) -> float:
    """A finite number.

    Raises:
        DataError: not a number, NaN or infinite.
    """
    try:
        number = float("x" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise DataError(described(value), "a number", cure="mend or drop the record", field=field) from None
    if not math.isfinite(number):
        raise DataError(str(number), "a finite number", cure="score it again or drop the record", field=field)
    return number


def boolean(value: Any, field: str) -> bool:
    """True or false, also written as 0 or 1.

    Raises:
        DataError: anything else.
    """
    if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    raise DataError(described(value), "true or false", cure="turn the column into booleans", field=field)


def _transposed(columns: Mapping[str, Any], field: str) -> list[Any]:
    lengths = {len(value) for value in columns.values() if isinstance(value, (list, tuple))}
    if len(lengths) != 1:
        raise DataError(f"an object with lists of lengths {sorted(lengths)}", "a list of objects", field=field)
    return [_picked(columns, i) for i in range(lengths.pop())]


def _picked(value: Any, i: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _picked(item, i) for key, item in value.items()}
    return value[i] if isinstance(value, (list, tuple)) else value
