"""TRL's columns: standard, conversational, vision, implicit prompt, unpaired and stepwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.content import Media, conversation, prompt_context, response
from omnipref.preferences.fields import Row, boolean, described
from omnipref.preferences.formats.assemble import Messages, leftover, pair_of, same_length
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import RAW, Case, Message, Preference

NUMBERS = {
    "margin": "margin",
    "ref_chosen_logps": "ref_chosen_logps",
    "ref_rejected_logps": "ref_rejected_logps",
    "score_chosen": "score/chosen",
    "score_rejected": "score/rejected",
}
"""Columns of numbers that are kept: TRL's name to ours (`score/<role>` is a case's score)."""

_TEXTS = ("prompt", "chosen", "rejected", "image", "images", "video", "videos", "audio", "audios")


def _paired(row: Row) -> Iterable[Preference]:
    media = Media.of(row)
    if row.has("prompt"):
        context = prompt_context(row, "prompt", media, chat=isinstance(row.get("chosen"), list))
        chosen, rejected = _after(row, "chosen", context), _after(row, "rejected", context)
    else:
        context, chosen, rejected = _implicit(row, media)
    columns = {ours: row.number(theirs) for theirs, ours in NUMBERS.items() if row.has(theirs)}
    cases = [
        Case(context, response(value, key, context)) for key, value in (("chosen", chosen), ("rejected", rejected))
    ]
    yield pair_of(*cases, columns=columns, meta=_meta(row))


def _meta(row: Row) -> dict[str, Any]:
    kept = {key: row.get(key) for key in ("tools", "chat_template_kwargs") if row.has(key)}
    return {**leftover(row, *_TEXTS, *NUMBERS), **kept}


def _after(row: Row, key: str, context: Messages) -> Any:
    """The response of a completion that may repeat the prompt's turns before it."""
    value = row.require(key, "text or a list of messages")
    if not isinstance(value, (str, list, tuple)):
        raise DataError(described(value), "text or a list of messages", field=key)
    if isinstance(value, str):
        return value
    texts = [message.text for message in conversation(value, key)]
    repeated = len(context) < len(texts) and [message.text for message in context] == texts[: len(context)]
    return value[len(context) :] if repeated else value


def _implicit(row: Row, media: Media) -> tuple[Messages, Any, Any]:
    """Context and responses of completions that hold their prompt: the longest common prefix is the prompt.

    Texts are cut at a white space before the difference, turns between turns.
    """
    chosen, rejected = row.require("chosen", "text or messages"), row.require("rejected", "text or messages")
    if type(chosen) is not type(rejected) or not isinstance(chosen, (str, list)):
        raise DataError(
            f"{described(chosen)} and {described(rejected)}", "two texts or two lists of turns", field="rejected"
        )
    at = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected))
    )
    if isinstance(chosen, list):
        at = min(at, len(chosen) - 1, len(rejected) - 1)
        return media.finish(conversation(chosen[:at], "chosen", media)), chosen[at:], rejected[at:]
    at = max(chosen.rfind(" ", 0, at), chosen.rfind("\n", 0, at), 0)
    context = (Message("user" if media.present else RAW, media.parts(chosen[:at])),)
    return media.finish(context), chosen[at:], rejected[at:]


def _unpaired(row: Row) -> Iterable[Preference]:
    media = Media.of(row)
    context = prompt_context(row, "prompt", media, chat=isinstance(row.get("completion"), list))
    case = Case(context, response(row.require("completion", "text or messages"), "completion", context))
    meta = leftover(row, *_TEXTS, "completion", "label")
    yield Preference({"completion": case}, labels={"completion": row.flag("label")}, meta=meta)


def _stepwise(row: Row) -> Iterable[Preference]:
    prompt = row.text("prompt")
    steps, labels = same_length(row, "completions", "labels")
    cases: dict[str, Case] = {}
    for i, step in enumerate(steps):
        if not isinstance(step, str):
            raise DataError(described(step), "text", field=f"completions[{i}]")
        context = (Message.of(RAW, prompt, *(f"{before}\n" for before in steps[:i])),)
        cases[f"step_{i}"] = Case(context, response(step, f"completions[{i}]", context))
    liked = {f"step_{i}": boolean(label, f"labels[{i}]") for i, label in enumerate(labels)}
    yield Preference(cases, labels=liked, meta=leftover(row, "prompt", "completions", "labels"))


def _is_paired(columns: frozenset[str], row: Mapping[str, Any]) -> bool:
    others = ("question", "conversations", "instruction", "messages", "kto_tag", "prompt_id", "context")
    if not columns_match("chosen", "rejected", none_of=others)(columns, row):
        return False
    return "prompt" in columns or not str(row.get("chosen", "")).startswith("\n\nHuman:")


FORMATS = (
    Format(
        "trl",
        _is_paired,
        _paired,
        "Texts without chat or media stay raw. Without a prompt the common prefix is the prompt. Media without marks "
        "go to the front of the first user turn. margin, ref_*_logps and score_* are kept as columns.",
    ),
    Format(
        "ultrafeedback_binarized",
        columns_match("prompt", "prompt_id", "chosen", "rejected"),
        _paired,
        "The turns that both dialogues share are the prompt; score_chosen and score_rejected are kept.",
    ),
    Format(
        "trl_unpaired",
        columns_match("prompt", "completion", "label", none_of=("chosen", "rejected")),
        _unpaired,
        "One case `completion`, liked or not.",
    ),
    Format(
        "trl_stepwise",
        columns_match("prompt", "completions", "labels", none_of=("scores", "ranks")),
        _stepwise,
        "One labelled case `step_k` per step, whose context is the prompt and the steps before, a line each.",
    ),
)
