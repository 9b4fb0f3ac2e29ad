"""Contexts from files: rows that are only a prompt, or the contexts of any preference file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences import Case, Message, Part, Preference, read
from omnipref.preferences.content import MODALITIES, Media, prompt_context
from omnipref.preferences.fields import Row
from omnipref.preferences.media import is_path
from omnipref.preferences.sources import Raw, raw_rows

PROMPT = "prompt"
"""Role of the case of a record that is only a prompt: its response is empty."""

_COLUMNS = {PROMPT, "id", "record", "source", "meta", *MODALITIES, *(f"{kind}s" for kind in MODALITIES)}


def prompt_only(context: Sequence[Message], record: int = 0, **fields: Any) -> Preference:
    """A record that holds a context and no response yet."""
    return Preference({PROMPT: Case(tuple(context), ())}, record=record, **fields)


def context_of(record: Preference) -> tuple[Message, ...]:
    """The context of a record's first case."""
    return next(iter(record.cases.values())).context


def read_prompts(
    source: str | Path, *, format: str | None = None, split: str = "train", limit: int | None = None
) -> tuple[list[Preference], list[DataError]]:
    """Records whose contexts are to be answered, and why others cannot be.

    Rows that have a column `prompt` (text or messages), media columns, and no response become records with the one
    case `prompt`; anything else is read as preferences, whose bad rows go to their own side file.

    Raises:
        DataError: the source or its format cannot be read.
    """
    rows = raw_rows(source, split=split)
    first = list(itertools.islice(rows, 1))
    if format is not None or not first or first[0].row is None or not _is_prompt(first[0].row):
        return list(read(source, format=format, split=split, limit=limit)), []
    found: list[Preference] = []
    refused: list[DataError] = []
    for raw in itertools.islice(itertools.chain(first, rows), limit):
        try:
            found.append(_record(raw))
        except DataError as error:
            refused.append(error.at(record=raw.number, source=raw.source))
    return found, refused


def _is_prompt(row: Any) -> bool:
    return PROMPT in row and set(row) <= _COLUMNS


def _record(raw: Raw) -> Preference:
    if raw.error is not None or raw.row is None:
        raise raw.error or DataError("no row", "a row with a prompt")
    row = Row(raw.row)
    context = prompt_context(row, PROMPT, Media.of(row))
    if not any(message.text.strip() or message.media for message in context):
        raise DataError("an empty prompt", "text", cure="drop the record", field=PROMPT)
    found = prompt_only(_resolved(context, raw.folder), raw.number, source=raw.source)
    return replace(found, meta={"id": row.get("id")} if row.has("id") else {})


def _resolved(context: tuple[Message, ...], folder: Path | None) -> tuple[Message, ...]:
    """Relative paths of media start at the file's folder."""
    return tuple(
        Message(message.role, tuple(Part(part.type, _path(part, folder)) for part in message.parts))
        for message in context
    )


def _path(part: Part, folder: Path | None) -> Any:
    if part.type == "text" or folder is None or not is_path(part.value):
        return part.value
    return os.path.join(folder, os.fspath(part.value).removeprefix("file://"))


def read_all_prompts(
    sources: Sequence[str], *, format: str | None = None, split: str = "train", limit: int | None = None
) -> tuple[list[Preference], list[DataError]]:
    """`read_prompts` of several sources; `limit` counts over all of them, records are numbered through."""
    found: list[Preference] = []
    refused: list[DataError] = []
    for source in sources:
        left = None if limit is None else limit - len(found)
        records, errors = read_prompts(source, format=format, split=split, limit=left)
        found += records
        refused += errors
    return list(_numbered(found)) if len(sources) > 1 else found, refused


def _numbered(records: Sequence[Preference]) -> Iterator[Preference]:
    return (replace(record, record=number) for number, record in enumerate(records))


def refusal(error: DataError) -> dict[str, Any]:
    """A row of the side file."""
    return {"record": error.record, "source": error.source, "field": error.field, "reason": error.reason}
