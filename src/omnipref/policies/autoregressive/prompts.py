"""Text of prompts and responses: chat templates, plain text, and the media that a context holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from omnipref.errors import CapabilityError, DataError
from omnipref.preferences import RAW, Case, Message, Part

TextOwner = PreTrainedTokenizerBase | ProcessorMixin
"""What renders and tokenises text: a tokenizer, or the processor that holds one."""


def tokenizer_of(owner: TextOwner) -> PreTrainedTokenizerBase:
    """The tokenizer itself, whether bare or inside a processor."""
    return getattr(owner, "tokenizer", owner)  # type: ignore[return-value]


def token_id(owner: TextOwner, name: str) -> int | None:
    """Id of a special token (`bos`, `eos`, `pad`), None where there is none."""
    found = getattr(tokenizer_of(owner), f"{name}_token_id", None)
    return found if isinstance(found, int) else None


def is_raw(context: Sequence[Message]) -> bool:
    """Whether a context is plain text outside any chat template.

    Raises:
        DataError: raw and chat messages are mixed.
    """
    raw = {message.role == RAW for message in context}
    if len(raw) != 1:
        raise DataError(f"roles {[message.role for message in context]}", "either all `raw` or none", field="prompt")
    return raw.pop()


def media_of(context: Sequence[Message]) -> tuple[Part, ...]:
    """All media of a context, in order of appearance."""
    return tuple(part for message in context for part in message.media)


def prompt_text(owner: TextOwner, context: Sequence[Message]) -> str:
    """What the model reads before it answers, media as placeholders.

    A context that ends with an assistant message is a partial answer to be continued.

    Raises:
        CapabilityError: the tokenizer or processor has no chat template, or lacks a placeholder for a medium.
    """
    if is_raw(context):
        return "".join(_placeholder(owner, part) for message in context for part in message.parts)
    return render(owner, context, partial=context[-1].role == "assistant")


def response_text(owner: TextOwner, case: Case) -> str:
    """What the model should write after `prompt_text`, end-of-turn marks included for chats.

    Raises:
        DataError: the template renders context and response so that the prompt is no prefix of the whole.
    """
    if is_raw(case.context):
        return case.text
    prompt = prompt_text(owner, case.context)
    whole = render(owner, _joined(case), finished=True)
    if not whole.startswith(prompt):
        raise DataError(
            f"a prompt that the chat template rewrites when an answer follows: alone it renders to {prompt[-80:]!r}, "
            f"with the answer to {whole[max(0, len(prompt) - 80) :][:160]!r}",
            "a prompt that stays, so that the answer's tokens can be told apart",
            cure="set a template whose generation prompt is a prefix of its finished dialogue",
        )
    return whole[len(prompt) :]


def render(owner: TextOwner, messages: Sequence[Message], *, partial: bool = False, finished: bool = False) -> str:
    """Apply the chat template: ready for an answer, ending inside one (`partial`), or complete (`finished`).

    Raises:
        CapabilityError: there is no chat template.
        DataError: the template refuses the dialogue, such as one with a role it does not know.
    """
    if not getattr(owner, "chat_template", None) and not getattr(tokenizer_of(owner), "chat_template", None):
        raise CapabilityError(
            f"{type(owner).__name__} has no chat template, but the data are dialogues. To mend: set "
            "`chat_template` in the model's folder, or give prompts as plain strings"
        )
    in_parts = isinstance(owner, ProcessorMixin)
    dialogue = [{"role": m.role, "content": _parts(m) if in_parts else m.text} for m in messages]
    options = {"continue_final_message": True} if partial else {"add_generation_prompt": not finished}
    try:
        return str(owner.apply_chat_template(dialogue, tokenize=False, **options))  # type: ignore[arg-type]
    except TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise DataError(f"turns {roles}, which the chat template refuses: {error}", "turns that it takes") from None


def _joined(case: Case) -> tuple[Message, ...]:
    """Context and response as one dialogue; a partial assistant turn absorbs the response's first message."""
    last, first = case.context[-1], case.response[0]
    if last.role != "assistant":
        return case.context + case.response
    merged = Message("assistant", last.parts + first.parts)
    return (*case.context[:-1], merged, *case.response[1:])


def _parts(message: Message) -> list[dict[str, Any]]:
    # Text parts are segments of one text; templates that put marks between content items must not see the seams.
    parts: list[dict[str, Any]] = []
    for part in message.parts:
        if part.type == "text" and parts and parts[-1]["type"] == "text":
            parts[-1] = {"type": "text", "text": parts[-1]["text"] + part.value}
        else:
            parts.append({"type": "text", "text": part.value} if part.type == "text" else {"type": part.type})
    return parts


def _placeholder(owner: TextOwner, part: Part) -> str:
    if part.type == "text":
        return part.value
    token = getattr(owner, f"{part.type}_token", None)
    if token is None:
        raise CapabilityError(f"{type(owner).__name__} has no placeholder for {part.type} input; its model takes none")
    return token
