"""Reads benchmark and answer files with errors that name the place, and writes files whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnipref.errors import DataError


def read_text(path: Path | str) -> str:
    """A UTF-8 file.

    Raises:
        DataError: it is missing or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError("no such file", "a file", cure="check the path", source=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.object[error.start]:#04x} at {error.start}",
            "UTF-8 text",
            cure="save it as UTF-8",
            source=str(path),
        ) from None


def read_json(path: Path | str) -> Any:
    """One JSON value.

    Raises:
        DataError: not JSON; names the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{error.msg} at line {error.lineno}", "JSON", cure="write the file again", source=str(path)
        ) from None


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file or of one JSON list, in order.

    Raises:
        DataError: a line is not a JSON object; names it.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = read_json(path)
    else:
        rows = [_line(line, record, path) for record, line in enumerate(text.splitlines()) if line.strip()]
    for record, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{type(row).__name__}", "a JSON object", record=record, source=str(path))
    if not rows:
        raise DataError("an empty file", "at least one record", source=str(path))
    return rows


def _line(line: str, record: int, path: Path | str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        cure = "the line may be cut short: write the file again"
        raise DataError(error.msg, "a JSON object", cure=cure, record=record, source=str(path)) from None


def string(row: Mapping[str, Any], field: str, record: int, path: Path | str) -> str:
    """A text field, checked."""
    return _typed(row, field, str, record, path)


def number(row: Mapping[str, Any], field: str, record: int, path: Path | str) -> int:
    """A whole-number field, checked."""
    return _typed(row, field, int, record, path)


def strings(row: Mapping[str, Any], field: str, record: int, path: Path | str) -> list[str]:
    """A field that is a list of texts, checked."""
    items = _typed(row, field, list, record, path)
    wrong = [item for item in items if not isinstance(item, str)]
    if wrong:
        raise DataError(f"{wrong[0]!r} in a list", "texts", record=record, field=field, source=str(path))
    return items


def _typed(row: Mapping[str, Any], field: str, kind: type, record: int, path: Path | str) -> Any:
    if field not in row:
        found = f"only {', '.join(row)}"
        raise DataError(found, f"a field `{field}`", record=record, field=field, source=str(path))
    value = row[field]
    if not isinstance(value, kind) or isinstance(value, bool):
        found = f"{type(value).__name__} {value!r}"
        raise DataError(found, kind.__name__, record=record, field=field, source=str(path))
    return value


def identified(rows: Iterable[Mapping[str, Any]], key: str, fields: Sequence[str], path: Path | str) -> dict[int, str]:
    """Number to text: `row[key]` to the first of `fields` that a row has.

    Raises:
        DataError: a number comes twice or a field is missing.
    """
    found: dict[int, str] = {}
    for record, row in enumerate(rows):
        name = next((field for field in fields if field in row), fields[0])
        identifier = number(row, key, record, path)
        if identifier in found:
            raise DataError(
                f"{identifier} a second time", "one answer each", record=record, field=key, source=str(path)
            )
        found[identifier] = string(row, name, record, path)
    return found


def write_atomic(path: Path, text: str) -> Path:
    """Writes a whole UTF-8 file or nothing; gives its path."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
