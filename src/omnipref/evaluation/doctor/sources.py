"""Whether the two sides of the data can be told apart by their style, so that a loss may learn the source instead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from omnipref.errors import DataError
from omnipref.evaluation.separability import linear_separability
from omnipref.preferences import Preference, read

MOST, FEWEST = 500, 50
"""Pairs that are looked at, and fewest that say something."""


@dataclass(frozen=True)
class Probe:
    """What style tells about the data.

    Args:
        accuracy: of a linear probe on `style`, on held-out pairs; 0.5 if style tells nothing.
        pairs: how many pairs were looked at.
    """

    accuracy: float
    pairs: int


def probe_sources(config: Mapping[str, Any]) -> Probe | None:
    """Probe the first pairs of a run's data; None where they are no local file, or are fewer than 50.

    Args:
        config: fields of `omnipref train`.
    """
    files = [Path(str(name)) for name in config.get("dataset") or ()]
    chosen, rejected, prompts = [], [], []
    for file in filter(Path.exists, files):
        options = {"format": config.get("dataset_format"), "split": config.get("dataset_split") or "train"}
        try:
            records = list(islice(read(file, media="trust", quarantine=None, **options), MOST - len(chosen)))
        except DataError:
            continue
        for better, worse, prompt in filter(None, map(_texts, records)):
            chosen.append(style(better))
            rejected.append(style(worse))
            prompts.append(prompt)
    if len(set(prompts)) < FEWEST:
        return None
    return Probe(linear_separability(chosen, rejected, prompts), len(chosen))


def _texts(preference: Preference) -> tuple[str, str, str] | None:
    """The better and the worse text of the first comparison, and the prompt; None where there is no such pair."""
    for comparison in preference.comparisons:
        better, worse = (preference.cases[role] for role in (comparison.better, comparison.worse))
        if not comparison.tie and better.text and worse.text and better.text != worse.text:
            return better.text, worse.text, "\n".join(message.text for message in better.context)
    return None


def style(text: str) -> Sequence[float]:
    """What a text looks like, whatever it says: length, length of words, and shares of kinds of characters.

    Example:
        >>> [round(value, 2) for value in style("Two cups!")]
        [1.1, 4.0, 0.11, 0.0, 0.11, 0.0, 0.0]
    """
    words = text.split()
    kinds = (str.isupper, str.isdigit, _is_mark, _is_break, _is_foreign)
    shares = [sum(map(kind, text)) / max(1, len(text)) for kind in kinds]
    return [math.log1p(len(words)), sum(map(len, words)) / max(1, len(words)), *shares]


def _is_mark(character: str) -> bool:
    return not character.isalnum() and not character.isspace()


def _is_break(character: str) -> bool:
    return character == "\n"


def _is_foreign(character: str) -> bool:
    return not character.isascii()
