"""A part of the records."""

from __future__ import annotations

from collections.abc import Sequence

from omnipref.build.builder import Builder, Built
from omnipref.errors import ConfigError
from omnipref.preferences import Preference


def every_nth(n: int, start: int = 0) -> Builder:
    """Keep the records whose number leaves the rest `start` when divided by `n`; the others are not refused.

    Args:
        n: shares into which the records fall.
        start: which of them, from 0.

    Raises:
        ConfigError: there is no such share.

    Example:
        >>> from omnipref.preferences import pair
        >>> records = [pair("?", "a", "b", record=i) for i in range(5)]
        >>> [record.record for record in every_nth(2, start=1)(records).preferences]
        [1, 3]
    """
    if not 0 <= start < n:
        raise ConfigError(f"found start={start!r} of n={n!r} shares; expected a number from 0 to n - 1")

    def step(records: Sequence[Preference]) -> Built:
        return Built([record for record in records if record.record % n == start])

    return Builder("every_nth", lambda pool: step)
