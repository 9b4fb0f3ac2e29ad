"""One root for every error of the library; each class is also a standard exception, so `except ValueError` works.

A message says what was found, what was expected and what to do, in that order.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OmniprefError(Exception):
    """Root of all errors raised on purpose by omnipref."""


class DataError(OmniprefError, ValueError):
    """A record, a field or a file is not what it should be.

    Args:
        found: what is there, in words.
        expected: what should be there.
        cure: the command or step that mends it.
        record: number of the record in its file, counted from 0.
        field: column or path inside the record, such as `chosen` or `images[1]`.
        source: file or data set.

    Example:
        >>> str(DataError("an empty response", "text", cure="drop it", record=3, field="chosen", source="a.jsonl"))
        'a.jsonl, record 3, field `chosen`: found an empty response; expected text. To mend: drop it'
    """

    def __init__(
        self,
        found: str,
        expected: str = "",
        *,
        cure: str = "",
        record: int | None = None,
        field: str | None = None,
        source: str | None = None,
    ):
        self.found, self.expected, self.cure = found, expected, cure
        self.record, self.field, self.source = record, field, source
        super().__init__(found)

    @property
    def reason(self) -> str:
        """The message without the place, as written to the quarantine file."""
        text = f"found {self.found}"
        if self.expected:
            text += f"; expected {self.expected}"
        return text + (f". To mend: {self.cure}" if self.cure else "")

    def at(self, *, record: int | None = None, field: str | None = None, source: str | None = None) -> DataError:
        """The same error with its place filled in where it was unknown."""
        self.record = self.record if self.record is not None else record
        self.field = self.field if self.field is not None else field
        self.source = self.source if self.source is not None else source
        return self

    def __str__(self) -> str:
        place = [self.source] if self.source else []
        place += [f"record {self.record}"] if self.record is not None else []
        place += [f"field `{self.field}`"] if self.field else []
        return f"{', '.join(place)}: {self.reason}" if place else self.reason


class ConfigError(OmniprefError, ValueError):
    """A configuration value or key that cannot be used."""


class NeedsError(OmniprefError, ValueError):
    """An objective or method needs something that the data or the model does not have."""


class CapabilityError(OmniprefError, NotImplementedError):
    """A model, tokenizer or processor cannot do what was asked."""


class NonFiniteError(OmniprefError, FloatingPointError):
    """A score or a loss is NaN or infinite; the message carries the record numbers."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that proposes the nearest known name, or lists all of them.

    Example:
        >>> nearest("lerning_rate", ["learning_rate", "seed"])
        'did you mean `learning_rate`?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
