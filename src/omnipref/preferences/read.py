"""Preferences from any source: detection, conversion, checks, quarantine, and a report of what was done."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omnipref.errors import DataError
from omnipref.preferences.checks import AllTiesError, EqualPairError, check, parts_of, preference_key
from omnipref.preferences.fields import Row
from omnipref.preferences.formats.format import Format, Unlabelled, detect, format_named
from omnipref.preferences.media import check_exists, is_path, load_image
from omnipref.preferences.records import Case, Message, Part, Preference
from omnipref.preferences.report import Quarantine, Report
from omnipref.preferences.sources import Raw, raw_rows

_SAMPLE = 16
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """Preferences of a source, read anew each time it is iterated; `report` belongs to the latest iteration.

    Build it with `read`, which documents the arguments.
    """

    source: str | Path
    format: str | None
    split: str
    subset: str | None
    streaming: bool
    limit: int | None
    columns: Mapping[str, str]
    ties: Literal["drop", "keep"]
    duplicates: Literal["drop", "keep"]
    media: Literal["trust", "exists", "decode"]
    on_error: Literal["quarantine", "raise"]
    quarantine: Path | None
    report: Report

    def __iter__(self) -> Iterator[Preference]:
        vars(self.report).update(vars(Report(str(self.source))))
        rows = raw_rows(self.source, split=self.split, subset=self.subset, streaming=self.streaming)
        rows = (self._renamed(raw) for raw in rows)
        first = list(itertools.islice(rows, _SAMPLE))
        chosen = self._format([raw.row for raw in first if raw.row is not None], first)
        self.report.format, self.report.note = chosen.name, chosen.note
        with Quarantine(self.quarantine) as quarantine:
            found = self._preferences(itertools.chain(first, rows), chosen, quarantine)
            yield from itertools.islice(found, self.limit)
        _LOG.log(logging.WARNING if self.report.bad else logging.INFO, self.report.summary())

    def _renamed(self, raw: Raw) -> Raw:
        if raw.row is None or not self.columns:
            return raw
        return replace(raw, row={self.columns.get(key, key): value for key, value in raw.row.items()})

    def _format(self, rows: list[Mapping[str, Any]], first: list[Raw]) -> Format:
        if self.format is not None:
            return format_named(self.format)
        if not rows:
            why = next((f": row {raw.number} is {raw.error.found}" for raw in first if raw.error is not None), "")
            cure = "check the file, or force a format to have its rows quarantined"
            raise DataError(f"no row that can be read{why}", "rows", cure=cure, source=str(self.source))
        try:
            return detect(rows)
        except DataError as error:
            raise error.at(record=0, source=str(self.source)) from None

    def _preferences(self, rows: Iterable[Raw], chosen: Format, quarantine: Quarantine) -> Iterator[Preference]:
        seen: set[str] = set()
        for raw in rows:
            self.report.rows += 1
            try:
                found = self._converted(raw, chosen)
            except Unlabelled as reason:
                self.report.unlabelled[str(reason)] += 1
                continue
            except DataError as error:
                self._refuse(raw, error.at(record=raw.number, source=raw.source), quarantine)
                continue
            for preference in found:
                yield from self._kept(preference, seen)

    def _refuse(self, raw: Raw, error: DataError, quarantine: Quarantine) -> None:
        if self.on_error == "raise":
            raise error
        quarantine.add(raw, error)
        report = self.report
        report.quarantine = quarantine.path
        report.equal_pairs += isinstance(error, EqualPairError)
        report.quarantined[f"{error.field or 'row'}: {error.found}"] += 1
        if len(report.first_bad) < 5:
            report.first_bad.append(str(error))

    def _converted(self, raw: Raw, chosen: Format) -> list[Preference]:
        if raw.error is not None or raw.row is None:
            raise raw.error or DataError("no row", "a row")
        try:
            found = [replace(one, record=raw.number, source=raw.source) for one in chosen.convert(Row(raw.row))]
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise DataError(
                f"a shape that cannot be converted ({error!r})", f"a row of format {chosen.name}"
            ) from error
        return [self._checked(_resolved(one, raw.folder)) for one in found]

    def _checked(self, preference: Preference) -> Preference:
        try:
            check(preference)
        except AllTiesError:
            if self.ties != "keep":
                raise
        for name, part in parts_of(preference) if self.media != "trust" else ():
            if part.type != "text":
                check_exists(part.value, field=name)
            if part.type == "image" and self.media == "decode":
                load_image(part.value, field=name)
        return preference

    def _kept(self, preference: Preference, seen: set[str]) -> Iterator[Preference]:
        report = self.report
        tied = sum(comparison.tie for comparison in preference.comparisons)
        report.ties += tied
        if tied and self.ties == "drop":
            report.ties_dropped += tied
            clear = tuple(comparison for comparison in preference.comparisons if not comparison.tie)
            if not clear:
                return
            preference = replace(preference, comparisons=clear)
        key = preference_key(preference)
        if key in seen:
            report.duplicates += 1
            if self.duplicates == "drop":
                report.duplicates_dropped += 1
                return
        seen.add(key)
        report.preferences += 1
        yield preference


def _resolved(preference: Preference, folder: Path | None) -> Preference:
    """The same preference with relative media paths starting at the folder."""
    if folder is None:
        return preference

    def messages(given: tuple[Message, ...]) -> tuple[Message, ...]:
        if not any(message.media for message in given):
            return given
        return tuple(
            Message(message.role, tuple(_resolved_part(part, folder) for part in message.parts)) for message in given
        )

    cases = {role: Case(messages(case.context), messages(case.response)) for role, case in preference.cases.items()}
    return replace(preference, cases=cases)


def _resolved_part(part: Part, folder: Path) -> Part:
    return part if part.type == "text" else Part(part.type, _resolved_value(part.value, folder))


def _resolved_value(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        inner = {key: value[key] for key in ("path", "array") if value.get(key) is not None}
        return {**value, **{key: _resolved_value(item, folder) for key, item in inner.items()}}
    if isinstance(value, list):
        return [_resolved_value(item, folder) for item in value]
    if isinstance(value, (str, os.PathLike)) and is_path(value):
        return os.path.join(folder, os.fspath(value).removeprefix("file://"))
    return value


def read(
    source: str | Path,
    *,
    format: str | None = None,
    split: str = "train",
    subset: str | None = None,
    streaming: bool = False,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    ties: Literal["drop", "keep"] = "drop",
    duplicates: Literal["drop", "keep"] = "drop",
    media: Literal["trust", "exists", "decode"] = "exists",
    on_error: Literal["quarantine", "raise"] = "quarantine",
    quarantine: str | Path | None = "beside",
) -> Reading:
    """Preferences from a file, a folder or the hub; iterate it, then look at its `report`.

    Args:
        source: `.jsonl`, `.json` (both also `.gz`) or `.parquet`; a folder of these; a folder saved by
            `datasets.save_to_disk`; or a hub name. A local file or folder wins over a hub name.
        format: name of the format, where it cannot or should not be found from the columns.
        split: which split of a folder or of a hub set.
        subset: configuration of a hub set.
        streaming: do not download a hub set first.
        limit: most preferences to give.
        columns: source's column name to the name that the format expects.
        ties: `drop` leaves tied comparisons out, `keep` gives them, marked `tie`.
        duplicates: `drop` leaves out preferences seen before (same texts and media); equal texts with different media
            are no duplicates.
        media: `exists` refuses records whose media files are missing, `decode` opens every picture, `trust` does
            neither.
        on_error: `raise` ends at the first bad record instead of putting it aside.
        quarantine: file for bad records; `beside` is `<name>.quarantine.jsonl` beside the source, None writes none.

    Raises:
        DataError: on iteration, when the source or its format cannot be read.

    Example:
        >>> read("pairs.jsonl").quarantine.name
        'pairs.quarantine.jsonl'
    """
    aside = _beside(str(source)) if quarantine == "beside" else quarantine
    return Reading(
        source=source,
        format=format,
        split=split,
        subset=subset,
        streaming=streaming,
        limit=limit,
        columns=dict(columns or {}),
        ties=ties,
        duplicates=duplicates,
        media=media,
        on_error=on_error,
        quarantine=None if aside is None else Path(aside),
        report=Report(str(source)),
    )


def _beside(source: str) -> Path:
    path = Path(source)
    if not path.exists() and not path.suffix:
        return Path(f"{source.replace('/', '--')}.quarantine.jsonl")
    name = path.name.removesuffix(".gz")
    return path.parent / f"{Path(name).stem}.quarantine.jsonl"
