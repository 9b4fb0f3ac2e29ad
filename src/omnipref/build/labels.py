"""Labels that are wrong at a known rate, for studies of what noise does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from omnipref.build.builder import Builder, each, generator, made_by
from omnipref.errors import ConfigError, DataError
from omnipref.preferences import Preference

_OTHER: Mapping[str, str] = {"chosen": "rejected", "rejected": "chosen"}
_COLUMNS: Mapping[str, str] = {
    name.format(role): name.format(other) for role, other in _OTHER.items() for name in ("score/{}", "ref_{}_logps")
}
"""Columns that belong to a response: name to that of the other response."""


def flip_labels(share: float = 0.1, seed: int = 0) -> Builder:
    """Exchange the chosen and the rejected response of a share of the pairs, each by a draw of its own.

    Whether it was is in `meta["built_by"]`, as `flipped`, where no objective sees it. Scores and reference
    log-likelihoods go with their responses; a stated margin stays, so that a wrong label is as sure of itself as the
    right one was.

    Args:
        share: of the pairs, from 0 to 1; `robust_dpo(flip_rate=...)` undoes one below one half.
        seed: draws which, with the record's number.

    Raises:
        ConfigError: the share is out of range.

    Example:
        >>> from omnipref.preferences import pair
        >>> built = flip_labels(share=1.0)([pair("1+1=", "2", "3")])
        >>> built.preferences[0].cases["chosen"].text
        '3'

    Source: the experiments of arXiv 2403.00409.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"found share={share!r}; expected a number from 0 to 1")

    def change(record: Preference) -> Sequence[Preference]:
        if set(record.cases) != set(_OTHER):
            found = f"roles {', '.join(record.roles)}"
            raise DataError(found, "a chosen and a rejected case alone", cure="flip before other cases are built")
        flipped = bool(generator(seed, "flip_labels", record.record).random() < share)
        made = _exchanged(record) if flipped else record
        return [made_by(made, "flip_labels", share=share, flipped=flipped)]

    return each("flip_labels", change)


def _exchanged(record: Preference) -> Preference:
    cases = {role: record.cases[_OTHER[role]] for role in record.cases}
    columns = {_COLUMNS.get(name, name): value for name, value in record.columns.items()}
    return replace(record, cases=cases, columns=columns)
