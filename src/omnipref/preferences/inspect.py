"""What a set of preferences is like: counts, lengths, ties, duplicates, length gap, and the first bad records."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.checks import messages_key, parts_of, preference_key
from omnipref.preferences.media import image_size
from omnipref.preferences.read import Reading
from omnipref.preferences.records import Preference
from omnipref.preferences.report import Report


@dataclass(frozen=True)
class Quantiles:
    """A distribution in a few numbers; quantiles are values that occur (nearest rank)."""

    count: int
    mean: float
    least: float
    q05: float
    median: float
    q95: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> Quantiles:
        """The quantiles of at least one value.

        Example:
            >>> Quantiles.of([3, 1, 2]).median
            2
        """
        order = sorted(values)
        picks = (order[round(share * (len(order) - 1))] for share in (0.0, 0.05, 0.5, 0.95, 1.0))
        return Quantiles(len(order), statistics.fmean(order), *picks)


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Args:
        count: preferences.
        kinds: how many are pairs, lists, unpaired, conditional or otherwise shaped.
        roles: how often each role occurs.
        media: parts per modality, distinct cases counted.
        lengths: quantiles by name: context, chosen, rejected, response (in `unit`), picture width and height, and
            `image tokens` where a processor was given.
        unit: `tokens` or `words`.
        gap: chosen minus rejected length of the pairs' responses.
        chosen_longer: share of pairs whose chosen response is longer; ties in length count half.
        ties: tied comparisons.
        duplicates: preferences equal to an earlier one.
        bad: number of bad records, those that the reading put aside included.
        first_bad: the first bad records' messages.
        report: the reading's report, where there was one.
    """

    count: int
    kinds: Counter[str]
    roles: Counter[str]
    media: Counter[str]
    lengths: dict[str, Quantiles]
    unit: str
    gap: Quantiles | None
    chosen_longer: float | None
    ties: int
    duplicates: int
    bad: int
    first_bad: tuple[str, ...]
    report: Report | None = None


@dataclass
class _Tally:
    kinds: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[float]] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    duplicates: int = 0
    ties: int = 0
    bad: list[str] = field(default_factory=list)

    def length(self, name: str, value: float) -> None:
        self.lengths.setdefault(name, []).append(value)


def inspect(
    preferences: Iterable[Preference],
    tokenizer: Any = None,
    processor: Any = None,
    *,
    report: Report | None = None,
    shown: int = 5,
) -> Inspection:
    """Look at every preference once.

    Args:
        preferences: any, best a `read(..., ties="keep", duplicates="keep")`, whose report is then shown as well.
        tokenizer: counts text in tokens; the processor's is used where only that is given; words without either.
        processor: counts image tokens, where its class can (`_get_num_multimodal_tokens` of `transformers`).
        report: of the reading, where the preferences come from one but are not the `Reading` itself.
        shown: most bad records to keep messages of.
    """
    tokenizer = tokenizer or getattr(processor, "tokenizer", None)
    tally = _Tally()
    for preference in preferences:
        _count(preference, tally, _text_length(tokenizer))
        _measure_pictures(preference, tally, processor)
    if report is None and isinstance(preferences, Reading):
        report = preferences.report
    bad = [*(report.first_bad if report else ()), *tally.bad]
    gaps = tally.gaps
    return Inspection(
        count=tally.kinds.total(),
        kinds=tally.kinds,
        roles=tally.roles,
        media=tally.media,
        lengths={name: Quantiles.of(values) for name, values in tally.lengths.items()},
        unit="words" if tokenizer is None else "tokens",
        gap=Quantiles.of(gaps) if gaps else None,
        chosen_longer=statistics.fmean((gap > 0) + 0.5 * (gap == 0) for gap in gaps) if gaps else None,
        ties=tally.ties,
        duplicates=tally.duplicates,
        bad=(report.bad if report else 0) + len(tally.bad),
        first_bad=tuple(bad[:shown]),
        report=report,
    )


def _text_length(tokenizer: Any) -> Callable[[str], int]:
    if tokenizer is None:
        return lambda text: len(text.split())
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _count(preference: Preference, tally: _Tally, length: Callable[[str], int]) -> None:
    tally.kinds[kind_of(preference)] += 1
    tally.roles.update(preference.roles)
    tally.ties += sum(comparison.tie for comparison in preference.comparisons)
    key = preference_key(preference)
    tally.duplicates += key in tally.seen
    tally.seen.add(key)
    contexts = {messages_key(case.context): case.context for case in preference.cases.values()}
    for context in contexts.values():
        tally.length("context", sum(length(message.text) for message in context))
    texts = {role: case.text for role, case in preference.cases.items() if case.text}
    counts = {role: length(text) for role, text in texts.items()}
    for role, count in counts.items():
        tally.length("response" if role.startswith("response_") else role, count)
    for comparison in preference.comparisons:
        pair = (comparison.better, comparison.worse)
        if not comparison.tie and all(role in counts for role in pair) and texts[pair[0]] != texts[pair[1]]:
            tally.gaps.append(counts[pair[0]] - counts[pair[1]])


def kind_of(preference: Preference) -> str:
    """The shape of a preference in a word: pair, list, unpaired, conditional or mixed.

    Example:
        >>> from omnipref.preferences import ranked
        >>> kind_of(ranked("q", ["a", "b", "c"]))
        'list'
    """
    if preference.labels:
        return "unpaired"
    if any("@" in role for role in preference.roles):
        return "conditional"
    return "pair" if len(preference.cases) == 2 else "list" if len(preference.cases) > 2 else "single"


def _same(value: Any) -> Any:
    """Equal for two values that hold the same medium, without decoding it."""
    if isinstance(value, dict):
        return tuple((name, _same(inner)) for name, inner in sorted(value.items()))
    return value if isinstance(value, (str, bytes, os.PathLike, type(None))) else id(value)


def _measure_pictures(preference: Preference, tally: _Tally, processor: Any) -> None:
    measured: dict[Any, tuple[int, int]] = {}
    for name, part in parts_of(preference):
        if part.type == "text" or _same(part.value) in measured:
            continue
        tally.media[part.type] += 1
        measured[_same(part.value)] = (0, 0)
        if part.type == "image":
            try:
                measured[_same(part.value)] = image_size(part.value, field=name)
            except DataError as error:
                tally.bad.append(str(error.at(record=preference.record, source=preference.source or None)))
    sizes = [size for size in measured.values() if size != (0, 0)]
    for width, height in sizes:
        tally.length("picture width", width)
        tally.length("picture height", height)
    if sizes and hasattr(processor, "_get_num_multimodal_tokens"):
        counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width) for width, height in sizes])
        tally.length("image tokens", float(sum(counted["num_image_tokens"])))
