"""Contexts to be answered, who answers them, and the keys that make sampling repeatable; imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from omnipref.preferences import Message
from omnipref.preferences.checks import messages_key
from omnipref.preferences.media import media_key

Context = tuple[Message, ...]
"""What is answered: messages; one that ends with an assistant message is a partial answer to be continued."""


class Sampler(Protocol):
    """Anything that answers contexts."""

    def __call__(self, contexts: Sequence[Context], *, n: int = 1) -> list[list[str]]:
        """`n` responses to each context, in order."""
        ...


def context_key(context: Context) -> str:
    """A hash of what a context holds, media by their content: equal contexts have equal keys."""
    return messages_key(context, media_key)


def draw_seed(seed: int, context: Context, sample: int) -> int:
    """63 bits from a seed, the content of a context and the number of the sample.

    Equal contexts draw equal samples, wherever they stand in a list; ask for `n` to have several.
    """
    digest = hashlib.sha256(f"{seed}/{sample}/{context_key(context)}".encode())
    return int.from_bytes(digest.digest()[:8], "big") >> 1
