"""Question, picture, chosen and rejected answer: RLHF-V, RLAIF-V and MMPR."""

from __future__ import annotations

import json
from collections.abc import Iterable

from omnipref.errors import DataError
from omnipref.preferences.content import Media, prompt_context, response
from omnipref.preferences.fields import Row
from omnipref.preferences.formats.assemble import leftover, pair_of
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import Case, Preference

_USED = ("image", "images", "video", "videos", "audio", "audios", "question", "chosen", "rejected", "text")
_ORIGIN = ("origin_dataset", "origin_split", "ds_name")


def _answers(texts: Row, row: Row, annotator: str | None) -> Preference:
    context = prompt_context(texts, "question", Media.of(row, strict=True), chat=True)
    cases = [Case(context, response(texts.text(key), texts.name(key), context)) for key in ("chosen", "rejected")]
    return pair_of(*cases, annotator=annotator, meta=leftover(row, *_USED))


def _rlhf_v(row: Row) -> Iterable[Preference]:
    try:
        texts = Row.of(json.loads(row.text("text")), "text")
    except json.JSONDecodeError as error:
        raise DataError(
            f"broken JSON ({error})", "a JSON object", cure="mend or drop the record", field="text"
        ) from None
    yield _answers(texts, row, "human")


def _rlaif_v(row: Row) -> Iterable[Preference]:
    yield _answers(row, row, "open_model")


def _mmpr(row: Row) -> Iterable[Preference]:
    yield _answers(row, row, None)


FORMATS = (
    Format(
        "rlhf_v",
        columns_match("text", "image", any_of=_ORIGIN, none_of=("question", "chosen"), text=str),
        _rlhf_v,
        "Question and answers come from the JSON in `text`; the picture goes before the question.",
    ),
    Format(
        "rlaif_v",
        columns_match("question", "chosen", "rejected", any_of=_ORIGIN),
        _rlaif_v,
        "The picture goes before the question.",
    ),
    Format(
        "mmpr",
        columns_match("question", "chosen", "rejected", none_of=(*_ORIGIN, "prompt", "instruction")),
        _mmpr,
        "`image` is a path, a list or absent; <image> marks in the question become the pictures, in place. The meta "
        "JSON gives each set's root and how often it is repeated.",
    ),
)
