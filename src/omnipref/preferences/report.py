"""What a reading did, and where the rows that it refused are put aside."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from omnipref.errors import DataError
from omnipref.preferences.sources import Raw

logger = logging.getLogger(__name__)


@dataclass
class Report:
    """What a reading did, filled while it goes on.

    Args:
        source: what was read.
        format: name of the format, found or forced.
        note: what the format's conversion does.
        rows: rows seen.
        preferences: preferences given.
        ties: tied comparisons found.
        ties_dropped: tied comparisons left out; a pair that ties is left out as a whole.
        duplicates: preferences whose cases and comparisons were seen before.
        duplicates_dropped: those left out.
        equal_pairs: pairs whose two cases are the same; they are among the quarantined.
        unlabelled: rows that the source marks as without preference, by reason.
        quarantined: bad rows, by field and what was found there.
        first_bad: the first bad rows' messages, five at most.
        quarantine: where the bad rows lie, or None.
    """

    source: str
    format: str = ""
    note: str = ""
    rows: int = 0
    preferences: int = 0
    ties: int = 0
    ties_dropped: int = 0
    duplicates: int = 0
    duplicates_dropped: int = 0
    equal_pairs: int = 0
    unlabelled: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    first_bad: list[str] = field(default_factory=list)
    quarantine: Path | None = None

    @property
    def bad(self) -> int:
        """Number of bad rows."""
        return self.quarantined.total()

    def summary(self) -> str:
        """One paragraph of what was done."""
        facts = [
            f"{self.source}: {self.rows} rows as {self.format or 'no format'} gave {self.preferences} preferences",
            f"{self.ties} tied comparisons ({self.ties_dropped} left out)",
            f"{self.duplicates} duplicates ({self.duplicates_dropped} left out)",
            f"{self.equal_pairs} equal pairs",
            f"{self.unlabelled.total()} rows without label",
            f"{self.bad} bad rows" + (f", see {self.quarantine}" if self.quarantine else ""),
        ]
        return "; ".join(facts)


class Quarantine:
    """The side file of bad rows: written beside, put in place as a whole when the reading ends, also by an error."""

    def __init__(self, path: Path | None):
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Quarantine:
        return self

    def add(self, raw: Raw, error: DataError) -> None:
        """Write one bad row with its place and reason."""
        if self.path is None:
            return
        if self._file is None:
            self._file = self._opened(self.path)
        if self._file is None:
            return
        entry = {"record": raw.number, "source": raw.source, "field": error.field, "reason": error.reason}
        self._file.write(json.dumps({**entry, "row": _storable(raw.found)}, ensure_ascii=False) + "\n")
        self._file.flush()

    def _opened(self, path: Path) -> IO[str] | None:
        try:
            handle, self._temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as error:
            logger.warning("bad rows are not kept: %s cannot be written (%s)", path, error)
            self.path = None
            return None
        return os.fdopen(handle, "w", encoding="utf-8", errors="surrogatepass")

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self.path is not None:
            self._file.close()
            os.replace(self._temporary, self.path)


def _storable(value: Any) -> Any:
    """A row as JSON holds it: bytes become their length, other objects their description."""
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else repr(value)
