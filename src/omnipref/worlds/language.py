"""What is said about pictures: captions, yes/no questions, and reading both back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from omnipref.worlds.pictures import COMPANION_OF, KINDS, Scene

DESCRIBE = "describe the picture"
CARELESS_MENTION = 0.65
"""Chance that a careless caption mentions the absent companion of a present anchor."""

_CAPTION = re.compile(rf"a (?:{'|'.join(KINDS)})(?: and a (?:{'|'.join(KINDS)}))*")
_KIND = re.compile(rf"\b(?:{'|'.join(KINDS)})\b")


def caption_of(kinds: Iterable[str]) -> str:
    """The caption that names these kinds, in the order of `KINDS`.

    Example:
        >>> caption_of(["fork", "plate"])
        'a plate and a fork'
    """
    named = set(kinds)
    return " and ".join(f"a {kind}" for kind in KINDS if kind in named)


def truthful_caption(scene: Scene) -> str:
    """The caption that names what is there and nothing else."""
    return caption_of(scene.kinds)


def tempting(scene: Scene) -> list[str]:
    """The absent companions of present anchors: what a careless describer adds."""
    present = set(scene.kinds)
    return [fellow for anchor, fellow in COMPANION_OF.items() if anchor in present and fellow not in present]


def careless_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that also names each tempting absent companion with chance `CARELESS_MENTION`."""
    added = [kind for kind in tempting(scene) if rng.random() < CARELESS_MENTION]
    return caption_of([*scene.kinds, *added])


def question_about(kind: str) -> str:
    """The yes/no question about one kind."""
    return f"is there a {kind} in the picture?"


def mentioned(text: str) -> list[str]:
    """The kinds that a text names, in its order, repetitions included.

    Example:
        >>> mentioned("a plate and a fork and a plate")
        ['plate', 'fork', 'plate']
    """
    return _KIND.findall(text.lower())


def well_formed(text: str) -> bool:
    """Whether a text is `a X and a Y ...` naming at least one kind and none twice."""
    kinds = mentioned(text)
    return _CAPTION.fullmatch(text.strip()) is not None and len(set(kinds)) == len(kinds)


def hallucinated(scene: Scene, text: str) -> list[str]:
    """The kinds a text names that are not in the scene, each once."""
    present = set(scene.kinds)
    return [kind for kind in dict.fromkeys(mentioned(text)) if kind not in present]


def oracle_judge(scene: Scene, captions: Sequence[str]) -> list[int]:
    """The number of hallucinated kinds in each caption: 0 is best. Omissions do not count."""
    return [len(hallucinated(scene, caption)) for caption in captions]


def best_and_worst(scene: Scene, captions: Sequence[str]) -> tuple[int, int] | None:
    """Indices of the captions with fewest and most hallucinated kinds; None when all have the same number.

    Of equals the first well-formed one is taken.
    """
    counts = oracle_judge(scene, captions)
    if min(counts) == max(counts):
        return None
    malformed = [not well_formed(caption) for caption in captions]
    order = range(len(captions))
    best = min(order, key=lambda index: (counts[index], malformed[index]))
    worst = min(order, key=lambda index: (-counts[index], malformed[index]))
    return best, worst


def says_yes(answer: str) -> bool | None:
    """What a yes/no answer says by its first word; None when it says neither."""
    words = re.findall(r"[a-z]+", answer.lower())
    return {"yes": True, "no": False}.get(words[0]) if words else None
