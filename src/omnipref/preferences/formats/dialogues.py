"""Transcripts with `Human:` and `Assistant:` markers: HH-RLHF and Nectar."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.content import response
from omnipref.preferences.fields import Row
from omnipref.preferences.formats.assemble import Messages, leftover, pair_of, ranked_by
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import Case, Message, Preference

_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def transcript(text: str, field: str) -> Messages:
    """The turns of a transcript; a missing blank line before the first marker is forgiven.

    Raises:
        DataError: it does not start with a human turn.

    Example:
        >>> [message.role for message in transcript("\\n\\nHuman: hi\\n\\nAssistant: hello", "chosen")]
        ['user', 'assistant']
    """
    pieces = _MARKER.split("\n\n" + text.lstrip())
    if len(pieces) < 3 or pieces[0].strip() or pieces[1] != "Human":
        cure = "mend or drop the record"
        raise DataError(f"the text {text[:40]!r}", "a transcript that starts with 'Human:'", cure=cure, field=field)
    return tuple(Message.of(_ROLES[who], said.strip()) for who, said in zip(pieces[1::2], pieces[2::2], strict=True))


def _hh(row: Row) -> Iterable[Preference]:
    chosen, rejected = (transcript(row.text(key), key) for key in ("chosen", "rejected"))
    shared = zip(chosen, rejected, strict=False)
    at = next((i for i, (one, other) in enumerate(shared) if one != other), min(len(chosen), len(rejected)) - 1)
    if {chosen[at].role, rejected[at].role} != {"assistant"}:
        cure = "drop the record: the two dialogues answer different questions"
        raise DataError(
            f"a first difference in turn {at}, a human one", "in an assistant turn", cure=cure, field="rejected"
        )
    context = chosen[:at]
    cases = [
        Case(context, response(turns[at].text, key, context))
        for key, turns in (("chosen", chosen), ("rejected", rejected))
    ]
    unused = {key: len(turns) - at - 1 for key, turns in (("chosen", chosen), ("rejected", rejected))}
    meta = {**leftover(row, "chosen", "rejected"), **({"turns_after": unused} if any(unused.values()) else {})}
    yield pair_of(*cases, annotator="human", meta=meta)


def _nectar(row: Row) -> Iterable[Preference]:
    context = transcript(row.text("prompt"), "prompt")
    if context[-1].role == "assistant" and not context[-1].text:
        context = context[:-1]
    answers = row.rows("answers")
    responses = [response(answer.text("answer"), answer.name("answer"), context) for answer in answers]
    ranks = [answer.number("rank") for answer in answers]
    meta = {**leftover(row, "prompt", "answers"), "models": [answer.get("model") for answer in answers]}
    yield ranked_by(context, responses, ranks, annotator="closed_model", meta=meta)


def _is_hh(columns: frozenset[str], row: Mapping[str, Any]) -> bool:
    fits = columns_match("chosen", "rejected", none_of=("prompt", "question"))(columns, row)
    return fits and str(row.get("chosen", "")).startswith("\n\nHuman:")


FORMATS = (
    Format(
        "hh_rlhf",
        _is_hh,
        _hh,
        "The turns that both transcripts share are the context, the first assistant turn that differs is the pair; "
        "later turns are left out and counted in meta. A difference in a human turn is refused.",
    ),
    Format("nectar", columns_match("prompt", "answers"), _nectar, "Rank 1 is best; equal ranks tie."),
)
