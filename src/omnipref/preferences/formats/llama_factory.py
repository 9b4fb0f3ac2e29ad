"""LLaMA-Factory: ShareGPT and Alpaca rows with a ranking or a `kto_tag`."""

from __future__ import annotations

from collections.abc import Iterable

from omnipref.errors import DataError
from omnipref.preferences.content import MODALITIES, Media, conversation, response
from omnipref.preferences.fields import Row
from omnipref.preferences.formats.assemble import Messages, leftover, pair_of
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import Case, Message, Preference

_USED = (*(f"{kind}s" for kind in MODALITIES), "conversations", "messages", "chosen", "rejected", "kto_tag")
_ALPACA = ("instruction", "input", "output", "system", "history")


def _strict(messages: Messages, media: Media) -> Messages:
    """The same messages, once every medium has had its mark."""
    for kind, values in media.values.items():
        if media.used[kind] != len(values):
            raise DataError(
                f"{len(values)} {kind}(s) and {media.used[kind]} <{kind}> mark(s)",
                "as many marks as media",
                cure=f"write one <{kind}> per {kind} into the human turns",
                field=f"{kind}s",
            )
    return messages


def _turns(row: Row) -> Messages:
    media = Media.of(row, strict=True)
    key = "conversations" if row.has("conversations") else "messages"
    system = (Message.of("system", row.text("system")),) if row.get("system") else ()
    return (*system, *_strict(conversation(row.get(key), key, media), media))


def _ranking(row: Row) -> Iterable[Preference]:
    context = _turns(row)
    cases = [Case(context, response(row.require(key, "a turn"), key, context)) for key in ("chosen", "rejected")]
    yield pair_of(*cases, meta=leftover(row, *_USED, "system"))


def _kto(row: Row) -> Iterable[Preference]:
    messages = _turns(row)
    key = "conversations" if row.has("conversations") else "messages"
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise DataError(f"{len(messages)} turn(s) without an answer", "the assistant's turn at the end", field=key)
    answer = response(messages[-1].text, f"{key}[{len(messages) - 1}]", messages[:-1])
    meta = leftover(row, *_USED, "system")
    yield Preference({"completion": Case(messages[:-1], answer)}, labels={"completion": row.flag("kto_tag")}, meta=meta)


def _instruction(row: Row) -> Messages:
    media = Media.of(row, strict=True)
    query = row.text("instruction") + (f"\n{row.text('input')}" if row.get("input") else "")
    system = (Message.of("system", row.text("system")),) if row.get("system") else ()
    history = row.get("history") or []
    if not all(isinstance(turn, (list, tuple)) and len(turn) == 2 for turn in history):
        raise DataError("a turn that is no pair", "[question, answer] pairs", field="history")
    past = [Message.of(role, text) for turn in history for role, text in zip(("user", "assistant"), turn, strict=True)]
    return _strict((*system, *past, Message("user", media.parts(query))), media)


def _alpaca_ranking(row: Row) -> Iterable[Preference]:
    context = _instruction(row)
    cases = [Case(context, response(row.text(key), key, context)) for key in ("chosen", "rejected")]
    yield pair_of(*cases, meta=leftover(row, *_USED, *_ALPACA))


def _alpaca_kto(row: Row) -> Iterable[Preference]:
    context = _instruction(row)
    case = Case(context, response(row.text("output"), "output", context))
    meta = leftover(row, *_USED, *_ALPACA)
    yield Preference({"completion": case}, labels={"completion": row.flag("kto_tag")}, meta=meta)


_SHAREGPT = ("conversations", "messages")

FORMATS = (
    Format(
        "llama_factory",
        columns_match("chosen", "rejected", any_of=_SHAREGPT, none_of=("prompt", "prompt_id", "rejected_response")),
        _ranking,
        "ShareGPT turns; there must be as many <image>, <video> and <audio> marks as media.",
    ),
    Format(
        "llama_factory_kto",
        columns_match("kto_tag", any_of=_SHAREGPT),
        _kto,
        "kto_tag says whether the last turn is liked.",
    ),
    Format(
        "alpaca_ranking",
        columns_match("instruction", "chosen", "rejected", none_of=_SHAREGPT),
        _alpaca_ranking,
        "The input is put on a line below the instruction.",
    ),
    Format(
        "alpaca_kto",
        columns_match("instruction", "output", "kto_tag"),
        _alpaca_kto,
        "kto_tag says whether the output is liked.",
    ),
)
