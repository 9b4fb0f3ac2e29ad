"""Tokens of responses: how their text becomes ids, and which part of the response each token belongs to."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from omnipref.errors import DataError
from omnipref.policies.autoregressive.media import MODALITIES
from omnipref.policies.autoregressive.prompts import TextOwner, is_raw, response_text, token_id, tokenizer_of
from omnipref.preferences import RAW, Case


class TokenisedPrompt(Protocol):
    """What a response's tokens depend on."""

    @property
    def ids(self) -> np.ndarray:
        """Token ids, `[L]`."""
        ...

    @property
    def text(self) -> str:
        """What was tokenised."""
        ...

    @property
    def special(self) -> bool:
        """Whether the tokenizer added its own first token."""
        ...


def without_end(owner: TextOwner, text: str, special: bool) -> list[int]:
    """Ids of a text, without the end that some tokenizers add."""
    tokenizer = tokenizer_of(owner)
    ids = tokenizer(text, add_special_tokens=special)["input_ids"]
    if special and ids[-1:] == [token_id(owner, "eos")]:
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if ids[-1:] == plain[-1:] else ids[:-1]
    return ids


def placeholder_ids(owner: Any, modality: str) -> list[int]:
    """Ids of the tokens that stand for media of a kind."""
    return [number for number in getattr(owner, f"{modality}_token_ids", []) if number is not None]


def response_tokens(
    owner: TextOwner, case: Case, prompt: TokenisedPrompt, apart: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and segments of the response: the index of the text part that a token ends in, -1 for others' turns.

    Args:
        owner: tokenizer or processor.
        case: context and response.
        prompt: tokens of the context.
        apart: tokenise the response as a text of its own, as encoder-decoders read it.

    Raises:
        DataError: the response is empty, or holds media or their placeholders.
    """
    if any(message.media for message in case.response):
        raise DataError("a medium in the response", "text: this model answers in text", cure="drop the record")
    if not case.text.strip():
        raise DataError("an empty response", "text", cure="drop the record")
    text = response_text(owner, case)
    ids, ends = _alone(owner, text) if apart else _tail(owner, prompt, text)
    media = {number for name in MODALITIES for number in placeholder_ids(owner, name)}
    if media & set(ids):
        raise DataError("a placeholder of media in the response", "text", cure="drop the record or the placeholder")
    starts, numbers = _pieces(text, case)
    segment = (
        numbers[np.searchsorted(starts, (ends - 1).clip(0), side="right") - 1] if len(ends) else np.empty(0, np.int64)
    )
    end = token_id(owner, "eos")
    if is_raw(case.context) and end is not None and ids[-1:] != [end]:
        ids = [*ids, end]
        segment = np.append(segment, segment[-1] if len(segment) else 0)
    return np.asarray(ids, dtype=np.int64), segment.astype(np.int64)


def _tail(owner: TextOwner, prompt: TokenisedPrompt, text: str) -> tuple[list[int], np.ndarray]:
    """The response's ids, and where in its text each token ends.

    Prompt and response are tokenised together, as the model has read them in pre-training; where that would change the
    prompt's own tokens, the response is tokenised alone, as it is generated.
    """
    tokenizer = tokenizer_of(owner)
    if not tokenizer.is_fast:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        lengths = [len(tokenizer.decode(ids[: k + 1], clean_up_tokenization_spaces=False)) for k in range(len(ids))]
        return ids, np.array(lengths, dtype=np.int64)
    whole = tokenizer(prompt.text + text, add_special_tokens=prompt.special, return_offsets_mapping=True)
    ids, offsets, start = whole["input_ids"], whole["offset_mapping"], len(prompt.ids)
    if ids[:start] == prompt.ids.tolist():
        keep = len(without_end(owner, prompt.text + text, prompt.special))
        ends = [end - len(prompt.text) for _, end in offsets[start:keep]]
        return ids[start:keep], np.array(ends, dtype=np.int64)
    alone = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return alone["input_ids"], np.array([end for _, end in alone["offset_mapping"]], dtype=np.int64)


def _alone(owner: TextOwner, text: str) -> tuple[list[int], np.ndarray]:
    """Ids of a text that a decoder writes, with the tokens that begin and end it, and where each token ends."""
    tokenizer = tokenizer_of(owner)
    if not tokenizer.is_fast:
        ids = tokenizer(text_target=text)["input_ids"]
        written = [tokenizer.decode(ids[: k + 1], skip_special_tokens=True) for k in range(len(ids))]
        return ids, np.array([len(each) for each in written], dtype=np.int64)
    found = tokenizer(text_target=text, return_offsets_mapping=True)
    ends = np.array([end for _, end in found["offset_mapping"]], dtype=np.int64)
    return found["input_ids"], np.maximum.accumulate(ends)  # what is added stands at 0


def _pieces(text: str, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Where in the rendered response its parts start, and their numbers; a turn that is not the model's has -1.

    What the template writes between two parts belongs to the first of them.
    """
    parts = [
        (part.value, message.role in (RAW, "assistant"))
        for message in case.response
        for part in message.parts
        if part.type == "text"
    ]
    starts, place = [0], 0
    for part, _ in parts[1:]:
        place = text.find(part, place + 1)
        if place < 0:
            raise DataError(
                f"a response part {part[:40]!r} that the chat template changed", "parts that stay as they are"
            )
        starts.append(place)
    numbers = [number if scored else -1 for number, (_, scored) in enumerate(parts)]
    return np.array(starts), np.array(numbers)
