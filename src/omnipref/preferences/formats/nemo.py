"""NeMo-RL: a context and completions with ranks."""

from __future__ import annotations

from collections.abc import Iterable

from omnipref.preferences.content import conversation, response
from omnipref.preferences.fields import Row
from omnipref.preferences.formats.assemble import Messages, leftover, pair_of, ranked_by
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import Case, Preference


def _convert(row: Row) -> Iterable[Preference]:
    context = conversation(row.require("context", "a list of messages"), "context")
    items = row.rows("completions")
    answers = [response(item.require("completion", "messages"), item.name("completion"), context) for item in items]
    ranks = [item.number("rank") for item in items]
    meta = leftover(row, "context", "completions")
    yield _pair(context, answers, ranks, meta) if len(items) == 2 else ranked_by(context, answers, ranks, meta=meta)


def _pair(context: Messages, answers: list[Messages], ranks: list[float], meta: dict[str, object]) -> Preference:
    order = sorted((0, 1), key=lambda k: ranks[k])
    return pair_of(*(Case(context, answers[k]) for k in order), tie=ranks[0] == ranks[1], meta=meta)


FORMATS = (
    Format("nemo_rl", columns_match("context", "completions"), _convert, "The lowest rank is best, equal ranks tie."),
)
