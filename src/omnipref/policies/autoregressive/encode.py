"""From a preference to tokens: every case as prompt and response ids, with media, segments and positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from omnipref.errors import DataError
from omnipref.policies.autoregressive.media import MODALITIES, MediaItem, expand, process
from omnipref.policies.autoregressive.prompts import TextOwner, is_raw, media_of, prompt_text, tokenizer_of
from omnipref.policies.autoregressive.responses import placeholder_ids, response_tokens, without_end
from omnipref.policies.caching.keys import content_hash
from omnipref.preferences import Message, Preference
from omnipref.preferences.media import media_key

Positions = Callable[[np.ndarray, np.ndarray, Sequence[MediaItem]], np.ndarray]
"""From ids, token types and media of a case to its position ids `[R, L]`; R is 1, or 3 for multimodal rotary."""


def plain_positions(ids: np.ndarray, token_type: np.ndarray, items: Sequence[MediaItem]) -> np.ndarray:
    """Positions of models that count tokens: `[1, L]`, from 0."""
    del token_type, items
    return np.arange(len(ids))[None]


@dataclass(frozen=True)
class EncodedPrompt:
    """Tokens of one context.

    Args:
        ids: token ids, `[L]`.
        identity: equal for two tokens exactly when they stand for the same input: the id for text, a content hash
            for tokens of media.
        token_type: 0 for text, the modality's number for media, `[L]`.
        items: media in order of appearance.
        text: what was tokenised, placeholders expanded.
        special: whether the tokenizer added its own first token.
    """

    ids: np.ndarray
    identity: np.ndarray
    token_type: np.ndarray
    items: tuple[MediaItem, ...]
    text: str = ""
    special: bool = False


@dataclass(frozen=True)
class EncodedCase:
    """Tokens of one case: those of its prompt, its response's ids and their segments, and positions `[R, L]`."""

    prompt: EncodedPrompt
    response: np.ndarray
    segment: np.ndarray
    position: np.ndarray

    @property
    def length(self) -> int:
        """Tokens of prompt and response, media included."""
        return len(self.prompt.ids) + len(self.response)

    @property
    def ids(self) -> np.ndarray:
        """All token ids."""
        return np.concatenate([self.prompt.ids, self.response])

    @property
    def identity(self) -> np.ndarray:
        """What each token stands for, see `EncodedPrompt`."""
        return np.concatenate([self.prompt.identity, self.response])

    def cut(self, length: int) -> EncodedCase:
        """The same case with a response of at most `length` tokens."""
        end = len(self.prompt.ids) + length
        return EncodedCase(self.prompt, self.response[:length], self.segment[:length], self.position[:, :end])

    @property
    def token_type(self) -> np.ndarray:
        """0 for text, the modality's number for media."""
        return np.concatenate([self.prompt.token_type, np.zeros_like(self.response)])

    @cached_property
    def key(self) -> str:
        """Hash of all that the scores of its tokens depend on besides the model."""
        media = [item.content for item in self.prompt.items]
        scored = self.segment >= 0
        return content_hash(self.ids, len(self.prompt.ids), self.token_type, self.position, scored, media)


@dataclass(frozen=True)
class EncodedPreference:
    """A preference and its encoded cases, in the preference's order of roles."""

    preference: Preference
    cases: tuple[EncodedCase, ...]

    def cut(self, length: int) -> EncodedPreference:
        """The same cases with responses of at most `length` tokens."""
        return EncodedPreference(self.preference, tuple(case.cut(length) for case in self.cases))


def encode(
    owner: TextOwner,
    preference: Preference,
    positions: Positions = plain_positions,
    max_length: int | None = None,
    truncate: bool = False,
    apart: bool = False,
) -> EncodedPreference:
    """Tokenise all cases of a preference; contexts that recur are processed once.

    Args:
        owner: tokenizer or processor.
        preference: what is encoded.
        positions: how the model numbers positions.
        max_length: longest case in tokens, None for no limit; where prompt and response are apart, of each for itself.
        truncate: cut responses that are too long.
        apart: prompt and response are two texts, each with the tokens that begin and end a text, as encoder-decoders
            read them.

    Raises:
        DataError: a medium cannot be read, placeholders and media disagree, a response is empty, or a case is longer
            than `max_length` (where `truncate` is false, or the prompt alone is).
    """
    prompts: dict[tuple, EncodedPrompt] = {}
    cases = []
    for role, case in preference.cases.items():
        try:
            signature = _signature(case.context)
            if signature not in prompts:
                prompts[signature] = encode_prompt(owner, case.context, apart)
            prompt = prompts[signature]
            response, segment = _fit(prompt, *response_tokens(owner, case, prompt, apart), max_length, truncate, apart)
            ids = np.concatenate([prompt.ids, response])
            token_type = np.concatenate([prompt.token_type, np.zeros_like(response)])
            cases.append(EncodedCase(prompt, response, segment, positions(ids, token_type, prompt.items)))
        except DataError as error:
            raise error.at(record=preference.record, field=role, source=preference.source or None) from None
    return EncodedPreference(preference, tuple(cases))


def encode_prompt(owner: TextOwner, context: Sequence[Message], apart: bool = False) -> EncodedPrompt:
    """Tokenise a context and process its media.

    Args:
        owner: tokenizer or processor.
        context: its messages.
        apart: keep the last token that some tokenizers add to a text.
    """
    items = process(owner, media_of(context)) if media_of(context) else ()
    text = expand(owner, prompt_text(owner, context), items)
    tokenizer = tokenizer_of(owner)
    bos = tokenizer.bos_token
    written = isinstance(bos, str) and text.startswith(bos)
    special = not written and (is_raw(context) or owner is not tokenizer)
    ids = tokenizer(text, add_special_tokens=special)["input_ids"] if apart else without_end(owner, text, special)
    array = np.asarray(ids, dtype=np.int64)
    token_type = np.zeros_like(array)
    for name, modality in MODALITIES.items():
        token_type[np.isin(array, placeholder_ids(owner, name))] = modality.token_type
    if token_type.any() and not items:
        raise DataError(
            "a placeholder of media in a prompt without media", "one medium per placeholder", field="prompt"
        )
    return EncodedPrompt(array, _identity(array, token_type, items, owner), token_type, items, text, special)


def _identity(ids: np.ndarray, token_type: np.ndarray, items: Sequence[MediaItem], owner: TextOwner) -> np.ndarray:
    """Text tokens stand for themselves; the k-th token of a medium for (its content, k), as a negative number."""
    identity = ids.copy()
    for name, modality in MODALITIES.items():
        places = np.flatnonzero(token_type == modality.token_type)
        start = 0
        for item in (item for item in items if item.modality == name):
            inner = tokenizer_of(owner)(item.placeholder, add_special_tokens=False)["input_ids"]
            count = int(np.isin(inner, placeholder_ids(owner, name)).sum())
            content = int(item.key[:10], 16)
            identity[places[start : start + count]] = -(content * 2**20 + np.arange(count) + 1)
            start += count
    return identity


def _signature(context: Sequence[Message]) -> tuple:
    return tuple(
        (message.role, part.type, part.value if part.type == "text" else media_key(part.value))
        for message in context
        for part in message.parts
    )


def _fit(
    prompt: EncodedPrompt,
    response: np.ndarray,
    segment: np.ndarray,
    max_length: int | None,
    truncate: bool,
    apart: bool,
) -> tuple[np.ndarray, np.ndarray]:
    before = 1 if apart else len(prompt.ids)  # a decoder begins with a token of its own
    length = max(len(prompt.ids), before + len(response))
    if max_length is None or length <= max_length:
        return response, segment
    room = max_length - before
    if room > 0 and len(prompt.ids) <= max_length and truncate:
        return response[:room], segment[:room]
    media = int((prompt.token_type > 0).sum())
    parts = f"{len(prompt.ids)} of the prompt, {media} of them media, and {len(response)} of the response"
    raise DataError(
        f"{length} tokens ({parts})",
        f"at most {max_length}",
        cure="raise --max-length, make the media smaller, or drop the record",
    )


def media_of_cases(encoded: Sequence[EncodedCase]) -> dict[str, MediaItem]:
    """The distinct media of some cases by `modality:key`, in order of first appearance."""
    items: dict[str, MediaItem] = {}
    for case in encoded:
        for item in case.prompt.items:
            items.setdefault(f"{item.modality}:{item.key}", item)
    return items


def stack_features(items: Sequence[MediaItem]) -> dict[str, Tensor]:
    """The model's inputs for some items of one modality, joined along their first axis.

    Raises:
        ValueError: shapes differ beyond the first axis; such items are encoded in several calls.
    """
    return {name: torch.cat([item.features[name] for item in items]) for name in items[0].features}
