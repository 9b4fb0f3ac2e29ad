"""What a format is, and how a file's format is found: by looking at its columns, refusing ambiguity."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnipref.errors import ConfigError, DataError, nearest
from omnipref.preferences.fields import Row
from omnipref.preferences.records import Preference


class Unlabelled(Exception):
    """A row that its source marks as having no preference; it is counted, and no error."""


@dataclass(frozen=True)
class Format:
    """A public shape of rows and its way to preferences.

    A module of this package joins by having a tuple `FORMATS`.

    Args:
        name: what `format="..."` takes.
        matches: whether columns (of several rows, nulls left out) and one row are of this format.
        convert: a row to its preferences, most often one; raises `DataError` for a bad row and `Unlabelled` for one
            without label.
        note: what the conversion does: ties, order of ranks, choice of fields.
    """

    name: str
    matches: Callable[[frozenset[str], Mapping[str, Any]], bool]
    convert: Callable[[Row], Iterable[Preference]]
    note: str


@functools.cache
def formats() -> dict[str, Format]:
    """Every known format by name, found among the modules beside this one."""
    package = __name__.rpartition(".")[0]
    path = importlib.import_module(package).__path__
    found: dict[str, Format] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        for one in getattr(importlib.import_module(f"{package}.{module}"), "FORMATS", ()):
            if one.name in found:
                raise ConfigError(f"two formats are called {one.name!r}; expected unique names")
            found[one.name] = one
    return found


def format_named(name: str) -> Format:
    """The format of this name.

    Raises:
        ConfigError: no such format.
    """
    if name not in formats():
        raise ConfigError(f"found format {name!r}; {nearest(name, formats())}")
    return formats()[name]


def detect(rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Format:
    """The one format that more than half of these rows have.

    Raises:
        DataError: no format fits, or several do; names the candidates and how to force one.

    Example:
        >>> detect({"prompt": "1+1?", "chosen": "2", "rejected": "3"}).name
        'trl'
    """
    rows = [rows] if isinstance(rows, Mapping) else list(rows)
    columns = frozenset(str(key) for row in rows for key, value in row.items() if value is not None)
    fits = {one.name: sum(one.matches(columns, row) for row in rows) for one in formats().values()}
    candidates = [name for name, count in fits.items() if 2 * count > len(rows)]
    if len(candidates) == 1:
        return formats()[candidates[0]]
    shown = ", ".join(sorted(columns)) or "none"
    if candidates:
        raise DataError(
            f"columns {shown}, which fit {', '.join(candidates)}",
            "one format",
            cure=f"force one, for example --dataset-format {candidates[0]}",
        )
    raise DataError(
        f"columns {shown}, which fit no known format",
        f"one of {', '.join(formats())}",
        cure="rename the columns, for example to `prompt`, `chosen` and `rejected` (docs/data-formats.md shows all "
        "formats), or force a format with --dataset-format",
    )


def columns_match(
    *needed: str, any_of: Sequence[str] = (), none_of: Sequence[str] = (), **types: type | tuple[type, ...]
) -> Callable[[frozenset[str], Mapping[str, Any]], bool]:
    """A `matches` from column names and the types of some of them (a null has any type).

    Example:
        >>> columns_match("prompt", prompt=str)(frozenset({"prompt"}), {"prompt": 3})
        False
    """

    def matches(columns: frozenset[str], row: Mapping[str, Any]) -> bool:
        return (
            columns.issuperset(needed)
            and (not any_of or not columns.isdisjoint(any_of))
            and columns.isdisjoint(none_of)
            and all(row.get(name) is None or isinstance(row[name], kind) for name, kind in types.items())
        )

    return matches
