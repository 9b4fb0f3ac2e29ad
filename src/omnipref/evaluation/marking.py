"""Marks the words of an answer as wrong or right."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from omnipref.evaluation.document import Answer, Exhibit


@dataclass(frozen=True)
class Segment:
    """A stretch of an answer; `mark` is `wrong`, `right` or empty."""

    text: str
    mark: str = ""


def segments(answer: Answer) -> list[Segment]:
    """The answer cut at its marked words, in order; the texts joined are the answer's text.

    Words match whole and in any case; a word given as wrong stays wrong even if it is also given as right.

    Example:
        >>> [(s.text, s.mark) for s in segments(Answer("a", "A cup and a fork", wrong=("fork",), right=("cup",)))]
        [('A ', ''), ('cup', 'right'), (' and a ', ''), ('fork', 'wrong')]
    """
    marks = {word.lower(): "right" for word in answer.right} | {word.lower(): "wrong" for word in answer.wrong}
    if not marks:
        return [Segment(answer.text)] if answer.text else []
    longest_first = sorted(marks, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    parts = pattern.split(answer.text)
    return [Segment(part, marks[part.lower()] if place % 2 else "") for place, part in enumerate(parts) if part]


def missing(exhibit: Exhibit, answer: Answer) -> list[str]:
    """What is in the picture and not in the answer, in the picture's order."""
    named = _lower(answer.right)
    return [name for name in exhibit.present if name.lower() not in named]


def _lower(words: Iterable[str]) -> set[str]:
    return {word.lower() for word in words}
