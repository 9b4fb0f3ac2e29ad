"""The native format: a preference as one JSON object, without loss."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.fields import Row, boolean, described, finite
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import Case, Comparison, Message, Part, Preference

VERSION = 1
"""Version of the native format, written as `omnipref` into each record."""

_DEFAULT = Comparison("", "")


def to_json(preference: Preference) -> dict[str, Any]:
    """A preference as a JSON object; a case whose context is the first case's does not repeat it.

    Paths become strings and tuples lists; everything else returns from `from_json` as it was.

    Raises:
        DataError: a value that JSON cannot hold, such as a picture in memory (`write_jsonl` saves these).

    Example:
        >>> from omnipref.preferences import pair
        >>> list(to_json(pair("1+1?", "2", "3")))
        ['omnipref', 'context', 'cases', 'comparisons', 'record', 'source']
    """
    contexts = [case.context for case in preference.cases.values()]
    shared = contexts[0] if contexts else ()
    row: dict[str, Any] = {
        "omnipref": VERSION,
        "context": _messages_json(shared),
        "cases": {role: _case_json(case, shared) for role, case in preference.cases.items()},
        "comparisons": [_comparison_json(comparison) for comparison in preference.comparisons],
        "labels": dict(preference.labels),
        "columns": dict(preference.columns),
        "record": preference.record,
        "source": preference.source,
        "meta": _plain(dict(preference.meta), "meta"),
    }
    return {
        key: value for key, value in row.items() if value or key not in ("comparisons", "labels", "columns", "meta")
    }


def from_json(row: Mapping[str, Any]) -> Preference:
    """The preference that `to_json` wrote.

    Raises:
        DataError: a missing field, a wrong type, or another version.
    """
    return next(iter(_convert(Row.of(row))))


def _case_json(case: Case, shared: tuple[Message, ...]) -> dict[str, Any]:
    response = {"response": _messages_json(case.response)}
    same = case.context is shared or _messages_json(case.context) == _messages_json(shared)
    return response if same else {"context": _messages_json(case.context), **response}


def _messages_json(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": [{"type": part.type, part.type: _value(part)} for part in message.parts]}
        for message in messages
    ]


def _value(part: Part) -> Any:
    return _plain(part.value, part.type)


def _plain(value: Any, field: str) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, bytes):
        return {"__bytes__": base64.b64encode(value).decode()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{field}[{i}]") for i, item in enumerate(value)]
    cure = "write with omnipref.preferences.write_jsonl, which saves media in memory to files"
    raise DataError(f"a {type(value).__name__}", "a value that JSON holds", cure=cure, field=field)


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"__bytes__"}:
            return base64.b64decode(value["__bytes__"])
        return {key: _restored(item) for key, item in value.items()}
    return [_restored(item) for item in value] if isinstance(value, list) else value


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    values = vars(comparison)
    return {
        name: value for name, value in values.items() if name in ("better", "worse") or value != vars(_DEFAULT)[name]
    }


def _convert(row: Row) -> Iterable[Preference]:
    if row.number("omnipref") != VERSION:
        cure = "install the version of omnipref that wrote the file, or convert the source again"
        raise DataError(f"version {row.get('omnipref')}", f"version {VERSION}", cure=cure, field="omnipref")
    shared = _messages(row.get("context") or [], "context")
    cases = {str(role): _case(row.child("cases").child(str(role)), shared) for role in row.child("cases").value}
    yield Preference(
        cases,
        tuple(_comparison(Row.of(item, f"comparisons[{i}]")) for i, item in enumerate(row.get("comparisons") or [])),
        {role: boolean(label, f"labels.{role}") for role, label in (row.get("labels") or {}).items()},
        {name: finite(value, f"columns.{name}") for name, value in (row.get("columns") or {}).items()},
        int(finite(row.get("record") or 0, "record")),
        row.text("source") if row.has("source") else "",
        _restored(row.get("meta") or {}),
    )


def _case(row: Row, shared: tuple[Message, ...]) -> Case:
    context = shared if row.get("context") is None else _messages(row.get("context"), row.name("context"))
    return Case(context, _messages(row.items("response", "a list of messages"), row.name("response")))


def _messages(value: Any, field: str) -> tuple[Message, ...]:
    if not isinstance(value, (list, tuple)):
        raise DataError(described(value), "a list of messages", field=field)
    rows = [Row.of(item, f"{field}[{i}]") for i, item in enumerate(value)]
    return tuple(Message(row.text("role"), tuple(_part(part) for part in _contents(row))) for row in rows)


def _contents(row: Row) -> list[Row]:
    return row.rows("content") if row.get("content") != [] else []


def _part(row: Row) -> Part:
    kind = row.text("type")
    return Part(kind, row.text("text") if kind == "text" else _restored(row.require(kind, f"the {kind}")))


def _comparison(row: Row) -> Comparison:
    return Comparison(
        row.text("better"),
        row.text("worse"),
        weight=row.number("weight") if row.has("weight") else 1.0,
        margin=row.number("margin") if row.has("margin") else None,
        aspect=row.text("aspect") if row.has("aspect") else None,
        annotator=row.text("annotator") if row.has("annotator") else None,
        tie=row.flag("tie") if row.has("tie") else False,
    )


FORMATS = (
    Format(
        "native", columns_match("omnipref", "cases"), _convert, "Read without loss; record and source are this file's."
    ),
)
