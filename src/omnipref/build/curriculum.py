"""Pairs of a scored list with their difficulty: the smaller the gap between two scores, the harder the pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from omnipref.build.builder import Builder, Built, made_by, paired, placed
from omnipref.errors import ConfigError, DataError, nearest
from omnipref.preferences import Preference

Place = tuple[int, int]

MODES: Mapping[str, Callable[[int, int], bool]] = {
    "top_vs_rest": lambda better, worse: better == 0,
    "all": lambda better, worse: True,
}
"""Which pairs of places in the ranking, 0 for the best, are made."""


def ranked_to_pairs(
    mode: Literal["top_vs_rest", "all"] = "top_vs_rest", stages: int = 3, only: int | None = None
) -> Builder:
    """Pairs of a scored list, easiest first, each with its stage in the column `stage`, from 0.

    A record's pairs are put in order of their gap, which is the column `margin` and the margin of the comparison, and
    cut into `stages` parts of equal number; so a stage is relative to its record. Responses of equal score make no
    pair, nor do responses that read the same: each is put aside with both names.

    Args:
        mode: `top_vs_rest`, where the best response is always the chosen one; `all`, every two.
        stages: how many, at least 1; a record with fewer pairs lacks the hardest.
        only: make the pairs of this stage alone, for a file that one round of `omnipref rounds` trains on.

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.preferences import ranked
        >>> scores = {f"score/response_{k}": score for k, score in enumerate([5, 4, 3, 1])}
        >>> built = ranked_to_pairs()([replace(ranked("q", "abcd"), columns=scores)])
        >>> [(one.cases["rejected"].text, one.columns["margin"], one.columns["stage"]) for one in built.preferences]
        [('d', 4.0, 0.0), ('c', 2.0, 1.0), ('b', 1.0, 2.0)]

    Source: arXiv 2403.07230.
    """
    if mode not in MODES:
        raise ConfigError(f"found mode {mode!r}; {nearest(str(mode), MODES)}")
    if stages < 1:
        raise ConfigError(f"found stages={stages!r}; expected 1 or more")
    if only is not None and only not in range(stages):
        raise ConfigError(f"found only={only!r}; expected a stage from 0 to {stages - 1}")

    def step(records: Sequence[Preference]) -> Built:
        built = Built([])
        for record in records:
            try:
                _add(built, record, mode, stages, only)
            except DataError as error:
                built.dropped.append(placed(error, record))
        return built

    return Builder("ranked_to_pairs", lambda pool: step)


def pairs_by_gap(scores: Sequence[float], mode: str = "top_vs_rest") -> list[tuple[int, int, float]]:
    """Pairs `(better, worse, gap)` of a scored list by their places in it, largest gap first; equal scores make none.

    Pairs of equal gaps are in the order of the list.

    Args:
        scores: higher is better, in any order; of equal ones the first counts as the better.
        mode: one of `MODES`.

    Example:
        >>> pairs_by_gap([5, 4, 3, 1], "all")
        [(0, 3, 4), (1, 3, 3), (0, 2, 2), (2, 3, 2), (0, 1, 1), (1, 2, 1)]
    """
    found = [(i, j, scores[i] - scores[j]) for i, j in _places(scores, mode) if scores[i] > scores[j]]
    return sorted(found, key=lambda pair: -pair[2])


def stage_of(number: int, count: int, stages: int) -> int:
    """The stage of the pair with this number, from 0, of a record's pairs in order of their gap.

    Example:
        >>> [stage_of(number, 6, 3) for number in range(6)], [stage_of(number, 2, 3) for number in range(2)]
        ([0, 0, 1, 1, 2, 2], [0, 1])
    """
    return number * stages // max(count, stages)


def _places(scores: Sequence[float], mode: str) -> list[Place]:
    """The pairs that a mode makes, equal scores included, in the order of the list."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    wanted = [(i, j) for a, i in enumerate(order) for b, j in enumerate(order) if a < b and MODES[mode](a, b)]
    return sorted(wanted)


def _add(built: Built, record: Preference, mode: str, stages: int, only: int | None) -> None:
    roles, scores = list(record.cases), _scores(record)
    pairs = pairs_by_gap(scores, mode)
    staged = [(stage_of(number, len(pairs), stages), pair) for number, pair in enumerate(pairs)]
    staged = [(stage, pair) for stage, pair in staged if only in (None, stage)]
    for stage, (better, worse, gap) in staged:
        columns = {"margin": gap, "stage": float(stage)}
        try:
            built.preferences.append(_made(record, roles[better], roles[worse], columns, mode))
        except DataError as error:
            built.dropped.append(placed(error, record))
    if not staged and only is not None:
        found = f"{len(pairs)} pair(s), none of stage {only}"
        built.dropped.append(placed(DataError(found, "more responses whose scores differ"), record))
    for i, j in _places(scores, mode):
        if scores[i] == scores[j]:
            found = f"equal scores of {scores[i]:g} for `{roles[i]}` and `{roles[j]}`"
            built.dropped.append(placed(DataError(found, "scores that differ"), record))


def _scores(record: Preference) -> list[float]:
    if lacking := [role for role in record.cases if f"score/{role}" not in record.columns]:
        cure = "omnipref build FILE --builders 'judge(reward=...)' --output OUT"
        raise DataError("no score", "a score of every response", cure=cure, field=f"score/{lacking[0]}")
    if len(record.cases) < 2:
        raise DataError(f"{len(record.cases)} response(s)", "two or more", cure="drop the record, or sample more")
    return [float(record.columns[f"score/{role}"]) for role in record.cases]


def _made(record: Preference, better: str, worse: str, columns: Mapping[str, float], mode: str) -> Preference:
    annotators = {comparison.annotator for comparison in record.comparisons}
    annotator = annotators.pop() if len(annotators) == 1 else None
    kept = {name: value for name, value in record.columns.items() if not name.startswith("score/")}
    named = {"score/chosen": record.columns[f"score/{better}"], "score/rejected": record.columns[f"score/{worse}"]}
    kept |= {**named, **columns}
    pair = paired(record, record.cases[better], record.cases[worse], annotator or "scores", **kept)
    return made_by(pair, "ranked_to_pairs", mode=mode, roles=[better, worse])
