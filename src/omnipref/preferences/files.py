"""Whole files: look at one, or write it in another format; what `omnipref data` calls."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from omnipref.errors import ConfigError
from omnipref.preferences.inspect import Inspection, inspect
from omnipref.preferences.read import Reading, read
from omnipref.preferences.records import Preference
from omnipref.preferences.report import Report
from omnipref.preferences.write import write_jsonl, write_trl


def _shown(preferences: Reading, what: str) -> Iterable[Preference]:
    from rich.progress import track

    return track(preferences, description=what, transient=True)


def inspect_file(
    path: str | Path,
    *,
    format: str | None = None,
    split: str = "train",
    limit: int | None = None,
    tokenizer: Any = None,
    processor: Any = None,
    quarantine: str | Path | None = "beside",
) -> Inspection:
    """Read a source and look at all of it, ties and duplicates included; arguments as in `read` and `inspect`."""
    reading = read(
        path,
        format=format,
        split=split,
        limit=limit,
        ties="keep",
        duplicates="keep",
        quarantine=quarantine,
        media="trust",
    )
    return inspect(_shown(reading, "Inspecting"), tokenizer, processor, report=reading.report)


def convert_file(
    source: str | Path,
    target: str | Path,
    *,
    to: Literal["native", "trl"] = "native",
    format: str | None = None,
    split: str = "train",
    limit: int | None = None,
    ties: Literal["drop", "keep"] = "drop",
    duplicates: Literal["drop", "keep"] = "drop",
    quarantine: str | Path | None = "beside",
) -> Report:
    """Write a source in the native format or with TRL's columns, all or nothing; returns the reading's report.

    Raises:
        DataError: the source cannot be read, or a record cannot be written so.
        ConfigError: an unknown target format.
    """
    writers = {"native": write_jsonl, "trl": write_trl}
    if to not in writers:
        raise ConfigError(f"found to={to!r}; expected one of {', '.join(writers)}")
    if Path(target).exists():
        raise ConfigError(f"found a file {target}; expected none. To mend: remove it, or give another --output")
    reading = read(
        source, format=format, split=split, limit=limit, ties=ties, duplicates=duplicates, quarantine=quarantine
    )
    writers[to](_shown(reading, "Converting"), target)
    return reading.report
