"""ms-swift: `messages`, whose last turn is the chosen answer, beside what is rejected: answer, media or dialogue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.content import MODALITIES, Media, as_list, conversation, response
from omnipref.preferences.fields import Row, described
from omnipref.preferences.formats.assemble import Messages, leftover, pair_of
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import Case, Comparison, Message, Preference

_MEDIA = tuple(f"{prefix}{kind}s" for prefix in ("", "rejected_") for kind in MODALITIES)
_USED = ("messages", "rejected_response", "rejected_messages", "label", "margin", *_MEDIA)


def _convert(row: Row) -> Iterable[Preference]:
    chosen = _dialogue(row, "messages", Media.of(row, strict=True))
    columns = {"margin": row.number("margin")} if row.has("margin") else {}
    fields: dict[str, Any] = {"columns": columns, "meta": _meta(row)}
    if row.has("rejected_messages"):
        yield pair_of(chosen, _dialogue(row, "rejected_messages", _rejected_media(row)), **fields)
    elif row.has("rejected_response"):
        context = _dialogue(row, "messages", _rejected_media(row)).context
        yield pair_of(chosen, Case(context, _rejected_response(row, context)), **fields)
    else:
        kind = next(kind for kind in MODALITIES if row.has(f"rejected_{kind}s"))
        role = f"chosen@negative_{kind}"
        negative = _dialogue(row, "messages", _rejected_media(row))
        yield Preference({"chosen": chosen, role: negative}, (Comparison("chosen", role),), **fields)


def _unpaired(row: Row) -> Iterable[Preference]:
    case = _dialogue(row, "messages", Media.of(row, strict=True))
    yield Preference({"completion": case}, labels={"completion": row.flag("label")}, meta=_meta(row))


def _meta(row: Row) -> dict[str, Any]:
    return {**leftover(row, *_USED), **{key: row.get(key) for key in ("objects", "tools") if row.has(key)}}


def _dialogue(row: Row, key: str, media: Media) -> Case:
    turns = row.items(key, "a list of messages")
    messages = media.finish(conversation(turns, key, media))
    *context, last = messages
    if not context or last.role != "assistant":
        raise DataError(f"a last turn of {last.role}", "the assistant's answer", field=f"{key}[{len(turns) - 1}]")
    response([turns[-1]], f"{key}[{len(turns) - 1}]", context)
    return Case(tuple(context), (last,))


def _rejected_media(row: Row) -> Media:
    """The rejected side's media, those of the chosen side where it has none of its own."""
    values: dict[str, list[Any]] = {}
    for kind in MODALITIES:
        own = row.get(f"rejected_{kind}s")
        values[kind] = as_list(own) if own is not None else [*as_list(row.get(kind)), *as_list(row.get(f"{kind}s"))]
        count = len([*as_list(row.get(kind)), *as_list(row.get(f"{kind}s"))])
        if own is not None and not row.has("rejected_messages") and len(values[kind]) != count:
            raise DataError(
                f"{len(values[kind])} rejected {kind}(s) and {count} {kind}(s)",
                "as many of both",
                cure="give one rejected medium per medium, or a whole dialogue in `rejected_messages`",
                field=f"rejected_{kind}s",
            )
    return Media(values, "rejected_images")


def _rejected_response(row: Row, context: Messages) -> tuple[Message, ...]:
    value = row.get("rejected_response")
    if not isinstance(value, (str, list)):
        raise DataError(described(value), "text or a list of messages", field="rejected_response")
    return response(value, "rejected_response", context)


_REJECTED = ("rejected_response", "rejected_messages", *(f"rejected_{kind}s" for kind in MODALITIES))

FORMATS = (
    Format(
        "swift",
        columns_match("messages", any_of=_REJECTED),
        _convert,
        "`rejected_images` alone gives the same answer under another picture, as role chosen@negative_image (video and "
        "audio alike); beside a rejected answer or dialogue they are that one's pictures.",
    ),
    Format(
        "swift_unpaired",
        columns_match("messages", "label", none_of=(*_REJECTED, "chosen", "rejected")),
        _unpaired,
        "The last turn is one case `completion`, liked or not.",
    ),
)
