"""What every preference must satisfy, whatever its format, and the keys by which cases are told apart."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.media import is_path, media_key
from omnipref.preferences.records import Case, Message, Part, Preference


class EqualPairError(DataError):
    """The chosen and the rejected case are the same."""


class AllTiesError(DataError):
    """A list in which every response ties."""


def reference_key(value: Any) -> str:
    """A medium's identity without reading files: its path, or the hash of its content where it is in memory."""
    if isinstance(value, Mapping) and value.get("bytes") is None and value.get("path") is not None:
        value = value["path"]
    return f"path:{os.fspath(value)}" if is_path(value) else media_key(value)


def digest(pieces: Iterable[str]) -> str:
    """A hash of several strings, 32 hexadecimal digits; where one ends matters."""
    state = hashlib.sha256()
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:32]


def messages_key(messages: Iterable[Message], media: Callable[[Any], str] = reference_key) -> str:
    """A hash of roles, texts and media of messages; neighbouring texts count as one."""
    pieces: list[str] = []
    for message in messages:
        pieces += ["role", message.role]
        for part in message.parts:
            if part.type != "text":
                pieces += [part.type, media(part.value)]
            elif len(pieces) > 1 and pieces[-2] == "text":
                pieces[-1] += part.value
            else:
                pieces += ["text", part.value]
    return digest(pieces)


def case_key(case: Case, media: Callable[[Any], str] = reference_key) -> str:
    """A hash of a case: context and response, texts and media.

    Example:
        >>> case_key(Case.raw("a", "b")) == case_key(Case.raw("a", "b"))
        True
    """
    return digest([messages_key(case.context, media), messages_key(case.response, media)])


def preference_key(preference: Preference) -> str:
    """A hash of cases, comparisons and labels; record numbers, scores and meta do not count."""
    keys = {role: case_key(case) for role, case in preference.cases.items()}
    pieces = sorted(
        f"{keys[c.better]} {'=' if c.tie else '>'} {keys[c.worse]} {c.aspect}" for c in preference.comparisons
    )
    pieces += sorted(f"{keys[role]} {label}" for role, label in preference.labels.items())
    return digest([*pieces, *sorted(keys.values())])


def parts_of(preference: Preference) -> Iterable[tuple[str, Part]]:
    """Every part of every case, with the field path that errors name."""
    for role, case in preference.cases.items():
        for where, messages in (("context", case.context), ("response", case.response)):
            for i, message in enumerate(messages):
                for j, part in enumerate(message.parts):
                    yield f"{role}.{where}[{i}].parts[{j}]", part


def check(preference: Preference) -> Preference:
    """The preference itself, when nothing is wrong with it.

    Raises:
        DataError: an empty response, a comparison of unknown or equal cases, a contradiction, a list of ties, or a
            number that is not finite; names the field.
    """
    if not preference.cases:
        raise DataError("no cases", "at least one", field="cases")
    for role, case in preference.cases.items():
        if not any(message.text.strip() or message.media for message in case.response):
            raise DataError("an empty response", "text", cure="drop the record or sample a response", field=role)
    _check_numbers(preference)
    _check_comparisons(preference)
    return preference


def _check_numbers(preference: Preference) -> None:
    numbers = dict(preference.columns)
    for i, comparison in enumerate(preference.comparisons):
        numbers[f"comparisons[{i}].weight"] = comparison.weight
        numbers[f"comparisons[{i}].margin"] = 0.0 if comparison.margin is None else comparison.margin
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise DataError(str(value), "a finite number", cure="score it again or drop the record", field=name)


def _check_comparisons(preference: Preference) -> None:
    for i, comparison in enumerate(preference.comparisons):
        for role in (comparison.better, comparison.worse):
            if role not in preference.cases:
                raise DataError(
                    f"a comparison with {role!r}", f"one of {', '.join(preference.roles)}", field=f"comparisons[{i}]"
                )
    unknown = set(preference.labels) - set(preference.cases)
    if unknown:
        raise DataError(f"a label of {sorted(unknown)}", f"one of {', '.join(preference.roles)}", field="labels")
    if len(preference.comparisons) == 1:
        _check_pair(preference)
    elif preference.comparisons and all(comparison.tie for comparison in preference.comparisons):
        cure = "score the responses again, or leave the record out"
        raise AllTiesError(
            f"{len(preference.ranks())} responses that all tie", "an order", cure=cure, field="comparisons"
        )
    try:
        preference.ranks()
    except ValueError as error:
        raise DataError(str(error), cure="mend the scores or drop the record", field="comparisons") from None


def _check_pair(preference: Preference) -> None:
    comparison = preference.comparisons[0]
    better, worse = preference.cases[comparison.better], preference.cases[comparison.worse]
    if case_key(better) == case_key(worse):
        raise EqualPairError(
            f"{comparison.better} equal to {comparison.worse}",
            "two cases that differ in text or media",
            cure="drop the record",
            field=comparison.worse,
        )
