"""The few ways in which converters put preferences together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.fields import Row, finite
from omnipref.preferences.records import Case, Comparison, Message, Preference

Messages = tuple[Message, ...]


def leftover(row: Row, *used: str) -> dict[str, Any]:
    """Plain values of the columns that a converter did not use, to be kept as meta."""
    plain = (str, int, float, bool)
    return {key: value for key, value in row.value.items() if key not in used and isinstance(value, plain)}


def pair_of(
    chosen: Case, rejected: Case, *, tie: bool = False, columns: Mapping[str, float] | None = None, **fields: Any
) -> Preference:
    """Two cases, the better first; `aspect`, `annotator` and `margin` go to the comparison, others to the record."""
    about = {name: fields.pop(name) for name in ("aspect", "annotator", "margin") if name in fields}
    comparison = Comparison("chosen", "rejected", tie=tie, **about)
    return Preference({"chosen": chosen, "rejected": rejected}, (comparison,), columns=columns or {}, **fields)


def judged(cases: Sequence[Case], better: int, **fields: Any) -> Preference:
    """Two cases and which is better: 0 the first, 1 the second, -1 neither; swapped with their label they give the
    same pair."""
    first, second = cases
    ordered = (second, first) if better == 1 else (first, second)
    return pair_of(*ordered, tie=better < 0, **fields)


def scored(context: Messages, responses: Sequence[Messages], scores: Sequence[float], **fields: Any) -> Preference:
    """A list of responses with scores, higher is better and equal scores tie, as roles `response_0` ... in given order.

    Every response is compared with those of the next lower score (the closure of these is every untied pair), and
    tied neighbours with each other. Scores become the columns `score/<role>` and differences of scores the margins.
    """
    annotator = fields.pop("annotator", None)
    roles = [f"response_{k}" for k in range(len(responses))]
    score = dict(zip(roles, scores, strict=True))
    levels = [[role for role in roles if score[role] == value] for value in sorted(set(scores), reverse=True)]
    ties = [Comparison(one, other, tie=True, annotator=annotator) for level in levels for one, other in pairwise(level)]
    wins = [
        Comparison(better, worse, margin=score[better] - score[worse], annotator=annotator)
        for above, below in pairwise(levels)
        for better in above
        for worse in below
    ]
    columns = {f"score/{role}": float(value) for role, value in score.items()}
    cases = {role: Case(context, answer) for role, answer in zip(roles, responses, strict=True)}
    return Preference(cases, (*wins, *ties), columns={**columns, **fields.pop("columns", {})}, **fields)


def ranked_by(context: Messages, responses: Sequence[Messages], ranks: Sequence[float], **fields: Any) -> Preference:
    """A list of responses with ranks, lower is better and equal ranks tie; ranks are no scores, so none are kept."""
    preference = scored(context, responses, [-rank for rank in ranks], **fields)
    comparisons = tuple(Comparison(c.better, c.worse, tie=c.tie, annotator=c.annotator) for c in preference.comparisons)
    columns = {name: value for name, value in preference.columns.items() if not name.startswith("score/")}
    return Preference(preference.cases, comparisons, columns=columns, meta=preference.meta)


def mean_rating(annotations: Row) -> float:
    """Mean over the aspects that were rated; "N/A" and absent ratings are left out.

    Raises:
        DataError: no aspect was rated.
    """
    ratings = [
        finite(rating, f"{annotations.name(aspect)}.Rating")
        for aspect, value in annotations.value.items()
        if isinstance(value, Mapping) and (rating := value.get("Rating")) not in (None, "", "N/A")
    ]
    if not ratings:
        raise DataError("no rating at all", "a rating of some aspect", cure="drop the record", field=annotations.path)
    return sum(ratings) / len(ratings)


def same_length(row: Row, first: str, second: str) -> tuple[list[Any], list[Any]]:
    """Two lists of one length, one entry per response.

    Raises:
        DataError: their lengths differ.
    """
    one, other = row.items(first), row.items(second)
    if len(one) != len(other):
        raise DataError(
            f"{len(one)} {first} and {len(other)} {second}",
            "one for each",
            cure="mend or drop the record",
            field=row.name(second),
        )
    return one, other
