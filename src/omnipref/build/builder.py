"""What a builder is: a value that makes preferences from records, says what it left out, and chains with `>>`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from omnipref.errors import DataError
from omnipref.preferences import RAW, Case, Comparison, Message, Preference


@dataclass(frozen=True)
class Built:
    """What a builder made, and the records it could not use, each as an error with its reason."""

    preferences: list[Preference]
    dropped: list[DataError] = field(default_factory=list)


Step = Callable[[Sequence[Preference]], Built]
"""Builds from some of the records."""


@dataclass(frozen=True)
class Builder:
    """Makes preferences from records.

    Args:
        name: as in `omnipref build`.
        prepare: from the pool, which is all records that other pictures and other answers are taken from, to the step
            that builds from any part of them; so a long job can run in parts and give the same records.

    Example:
        >>> from omnipref.preferences import pair
        >>> from omnipref.build import mismatched
        >>> built = mismatched(seed=0)([pair("1+1=", "2", "3"), pair("2+2=", "4", "5")])
        >>> built.preferences[0].cases["mismatched"].text
        '4'
    """

    name: str
    prepare: Callable[[Sequence[Preference]], Step]

    def __call__(self, records: Sequence[Preference], pool: Sequence[Preference] | None = None) -> Built:
        """Build from records; the pool is these same records unless given."""
        return self.prepare(records if pool is None else pool)(records)

    def __rshift__(self, then: Builder) -> Builder:
        def prepare(pool: Sequence[Preference]) -> Step:
            first, second = self.prepare(pool), then.prepare(pool)

            def step(records: Sequence[Preference]) -> Built:
                made = first(records)
                more = second(made.preferences)
                return Built(more.preferences, made.dropped + more.dropped)

            return step

        return Builder(f"{self.name} >> {then.name}", prepare)


def each(name: str, change: Callable[[Preference], Sequence[Preference]]) -> Builder:
    """A builder that looks at one record at a time; a `DataError` drops the record with its reason."""
    return Builder(name, lambda pool: each_step(change))


def each_step(change: Callable[[Preference], Sequence[Preference]]) -> Step:
    """The step of `each`, for builders that prepare something from the pool."""

    def step(records: Sequence[Preference]) -> Built:
        built = Built([])
        for record in records:
            try:
                built.preferences.extend(change(record))
            except DataError as error:
                built.dropped.append(placed(error, record))
        return built

    return step


def placed(error: DataError, record: Preference) -> DataError:
    """The error with the record's number and source."""
    return error.at(record=record.record, source=record.source or None)


def generator(seed: int, name: str, record: int) -> np.random.Generator:
    """Random numbers that depend on the seed, what they are for, and the record's number only."""
    digest = hashlib.sha256(f"{seed}/{name}/{record}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def made_by(preference: Preference, name: str, **facts: Any) -> Preference:
    """Add a line to the record's provenance, `meta["built_by"]`; facts must be plain JSON values."""
    history = [*preference.meta.get("built_by", ()), {"builder": name, **facts}]
    return replace(preference, meta={**preference.meta, "built_by": history})


def case_of(record: Preference, role: str) -> Case:
    """The case of a role.

    Raises:
        DataError: there is none.
    """
    if role not in record.cases:
        raise DataError(
            f"roles {', '.join(record.roles)}", f"a case `{role}`", cure="name one of these roles", field=role
        )
    return record.cases[role]


def answered(context: Sequence[Message], text: str) -> Case:
    """A context with a text as its response, raw or by the assistant as the context asks for."""
    role = RAW if context[-1].role == RAW else "assistant"
    return Case(tuple(context), (Message.of(role, text),))


def paired(record: Preference, chosen: Case, rejected: Case, annotator: str, **columns: float) -> Preference:
    """The record with these two cases alone.

    Raises:
        DataError: both responses read the same, or one is empty.
    """
    for role, case in (("chosen", chosen), ("rejected", rejected)):
        if not case.text.strip():
            raise DataError("an empty response", "text", cure="drop the record", field=role)
    if chosen.text == rejected.text:
        raise DataError("a rejected response equal to the chosen one", "two that differ", cure="drop the record")
    comparison = Comparison("chosen", "rejected", annotator=annotator, margin=columns.get("margin"))
    cases = {"chosen": chosen, "rejected": rejected}
    return replace(record, cases=cases, comparisons=(comparison,), labels={}, columns=columns)
