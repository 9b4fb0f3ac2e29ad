"""Preferences to files: the native JSONL, with media in memory saved beside it, and TRL's columns."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from omnipref.errors import DataError
from omnipref.preferences.checks import messages_key
from omnipref.preferences.formats.native import to_json
from omnipref.preferences.formats.trl import NUMBERS
from omnipref.preferences.media import is_path, media_key, payload, suffix_of
from omnipref.preferences.records import RAW, Case, Message, Part, Preference


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name when it is complete, and not at all when writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_jsonl(preferences: Iterable[Preference], path: str | Path) -> int:
    """Write the native format, all or nothing; returns the number of preferences.

    Media in memory (pictures, bytes, arrays) are saved to `<name>_media/` beside the file, named by the hash of their
    content: pictures as PNG, encoded media as they are, arrays as `.npy`. Paths inside the file's folder become
    relative.
    """
    path = Path(path)
    return _write_rows((to_json(saved_media(preference, path)) for preference in preferences), path)


def write_trl(preferences: Iterable[Preference], path: str | Path) -> int:
    """Write TRL's columns as JSONL, all or nothing; media as in `write_jsonl`. Raises as `to_trl` does."""
    path = Path(path)
    return _write_rows((to_trl(saved_media(preference, path)) for preference in preferences), path)


def _write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    count = 0
    with atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n")
            count += 1
    return count


def saved_media(preference: Preference, path: Path) -> Preference:
    """The same preference with every medium a path: relative to the file's folder where it lies inside it."""

    def saved(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(
            Message(message.role, tuple(_saved_part(part, path) for part in message.parts)) for message in messages
        )

    cases = {role: Case(saved(case.context), saved(case.response)) for role, case in preference.cases.items()}
    return replace(preference, cases=cases)


def _saved_part(part: Part, path: Path) -> Part:
    return part if part.type == "text" else Part(part.type, _saved(part.value, path))


def _saved(value: Any, path: Path) -> Any:
    if isinstance(value, (list, tuple)):
        return [_saved(item, path) for item in value]
    if isinstance(value, Mapping) and value.get("array") is not None:
        return {**value, "array": _saved(_array(value["array"]), path)}
    if isinstance(value, Mapping) and value.get("bytes") is None:
        return _saved(value.get("path"), path)
    if is_path(value):
        return _relative(value, path.parent)
    if isinstance(value, str):
        return value
    data, suffix = _encoded(value)
    target = path.parent / f"{path.name.partition('.')[0]}_media" / f"{media_key(value)}{suffix}"
    if not target.exists():
        with atomic(target) as file:
            file.write(data)
    return _relative(target, path.parent)


def _array(value: Any) -> Any:
    import numpy as np

    return value if isinstance(value, str) else np.asarray(value)


def _encoded(value: Any) -> tuple[bytes, str]:
    if isinstance(value, (bytes, bytearray, Mapping)):
        data = payload(value)
        return data, suffix_of(data)
    buffer = io.BytesIO()
    if hasattr(value, "save"):
        value.save(buffer, format="PNG")
        return buffer.getvalue(), ".png"
    if not hasattr(value, "__array_interface__"):
        raise DataError(f"a medium of type {type(value).__name__}", "a path, bytes, a picture or an array")
    import numpy as np

    np.save(buffer, value)
    return buffer.getvalue(), ".npy"


def _relative(value: str | os.PathLike[str], folder: Path) -> str:
    return os.path.abspath(value).removeprefix(os.path.abspath(folder) + os.sep)


def to_trl(preference: Preference) -> dict[str, Any]:
    """TRL's columns: `prompt`, `chosen`, `rejected`; or `prompt`, `completion`, `label`; or steps with labels.

    Raw cases become strings, dialogues lists of turns; media go to `images` (`videos`, `audios`), with placeholders in
    the turns.

    Raises:
        DataError: a list (make pairs of it first), or two cases with different contexts, for which TRL has no columns.

    Example:
        >>> from omnipref.preferences import pair
        >>> to_trl(pair("1+1=", "2", "3"))
        {'prompt': '1+1=', 'chosen': '2', 'rejected': '3'}
    """
    roles = set(preference.roles)
    if roles == {"completion"}:
        case = preference.cases["completion"]
        row = {"prompt": _column(case.context), "completion": _answer(case)}
        return {**row, "label": preference.labels["completion"], **_media(case.context)}
    if preference.labels and all(role.startswith("step_") for role in roles):
        steps = list(preference.cases.values())
        texts = {"prompt": steps[0].context[0].text, "completions": [step.text for step in steps]}
        return {**texts, "labels": [preference.labels[role] for role in preference.cases]}
    chosen, rejected = _two(preference)
    columns = {theirs: preference.columns[ours] for theirs, ours in NUMBERS.items() if ours in preference.columns}
    row = {"prompt": _column(chosen.context), "chosen": _answer(chosen), "rejected": _answer(rejected)}
    return {**row, **_media(chosen.context), **columns}


def _two(preference: Preference) -> tuple[Case, Case]:
    place: dict[str, Any] = {"record": preference.record, "source": preference.source or None}
    if set(preference.roles) != {"chosen", "rejected"}:
        cure = "make pairs of it with to_pairs(preference)"
        raise DataError(f"the cases {', '.join(preference.roles)}", "chosen and rejected", cure=cure, **place)
    if any(comparison.tie for comparison in preference.comparisons):
        raise DataError("a tie", "a preferred case", cure="leave ties out", field="rejected", **place)
    chosen, rejected = preference.cases["chosen"], preference.cases["rejected"]
    if messages_key(chosen.context) != messages_key(rejected.context):
        cure = "keep the native format: TRL has no column for a second context"
        raise DataError("two different contexts", "one", cure=cure, field="rejected", **place)
    return chosen, rejected


def _answer(case: Case) -> str | list[dict[str, Any]]:
    media = next((part.type for message in case.response for part in message.media), None)
    if media is not None:
        raise DataError(f"a response with {media}", "text", cure="keep the native format: TRL's responses are text")
    return _column(case.response)


def _column(messages: tuple[Message, ...]) -> str | list[dict[str, Any]]:
    if all(message.role == RAW and not message.media for message in messages):
        return "".join(message.text for message in messages)
    return [{"role": message.role, "content": _content(message)} for message in messages]


def _content(message: Message) -> str | list[dict[str, str]]:
    if not message.media:
        return message.text
    return [
        {"type": "text", "text": part.value} if part.type == "text" else {"type": part.type} for part in message.parts
    ]


def _media(messages: tuple[Message, ...]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for message in messages:
        for part in message.media:
            found.setdefault(f"{part.type}s", []).append(part.value)
    return found
