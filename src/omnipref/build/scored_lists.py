"""Pairs from scored lists, with an eye on who wrote what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from omnipref.build.builder import Builder, each, made_by
from omnipref.errors import DataError
from omnipref.preferences import Comparison, Preference

SOURCES = "sources"
"""Name in `meta` of who wrote each response: role to author."""


def best_worst_of_n(source: str | None = None, gap: float = 0.0) -> Builder:
    """Chosen is the response of the highest score, rejected that of the lowest; of equal scores the first.

    Records hold a list with the columns `score/<role>`, as `from_samples` makes them, and say in `meta["sources"]` who
    wrote which response, where that is known. Both authors are kept there, the scores as columns, and their difference
    as the comparison's margin. Records with fewer than two responses, or with equal scores, are dropped by name.

    Args:
        source: pair the responses of this author only, so that nothing but what the scores judge tells chosen from
            rejected; None pairs across authors.
        gap: least difference of the two scores.

    Example:
        >>> from omnipref.preferences import ranked
        >>> scores = {f"score/response_{k}": score for k, score in enumerate([0.2, 1.5, -0.7, 0.9, 1.5])}
        >>> built = best_worst_of_n()([ranked("q", "abcde", columns=scores)])
        >>> [case.text for case in built.preferences[0].cases.values()]
        ['b', 'c']

    Source: arXiv 2504.02193 (best and worst of five samples of the model itself).
    """

    def change(record: Preference) -> list[Preference]:
        authors: Mapping[str, str] = record.meta.get(SOURCES, {})
        scores = {
            role: record.columns[f"score/{role}"]
            for role in record.roles
            if f"score/{role}" in record.columns and source in (None, authors.get(role))
        }
        whose = f" by `{source}`" if source else ""
        if len(scores) < 2:
            raise DataError(
                f"{len(scores)} scored response(s){whose}", "two or more", cure="sample more, and judge them"
            )
        best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
        margin = scores[best] - scores[worst]
        if not margin or margin < gap:
            raise DataError(
                f"scores{whose} that differ by {margin:g}", f"{gap:g} or more" if gap else "two that differ"
            )
        return [_paired(record, {"chosen": best, "rejected": worst}, authors, scores)]

    return each("best_worst_of_n", change)


def _paired(
    record: Preference, roles: Mapping[str, str], authors: Mapping[str, str], scores: Mapping[str, float]
) -> Preference:
    columns = {name: value for name, value in record.columns.items() if not name.startswith("score/")}
    columns |= {f"score/{new}": scores[old] for new, old in roles.items()}
    annotators = {comparison.annotator for comparison in record.comparisons}
    comparison = Comparison(
        "chosen",
        "rejected",
        margin=columns["score/chosen"] - columns["score/rejected"],
        annotator=annotators.pop() if len(annotators) == 1 else None,
    )
    meta = {**record.meta, "roles": list(roles.values())}
    if authors:
        meta[SOURCES] = {new: authors[old] for new, old in roles.items() if old in authors}
    cases = {new: record.cases[old] for new, old in roles.items()}
    made = replace(record, cases=cases, comparisons=(comparison,), labels={}, columns=columns, meta=meta)
    return made_by(made, "best_worst_of_n", n=len(scores))
