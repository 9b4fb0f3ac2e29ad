"""Yes/no probing of objects by POPE's protocol: as many absent as present kinds are asked about.

Source: arXiv 2305.10355, section 4 (random, popular and adversarial sampling of the absent objects).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omnipref.errors import ConfigError
from omnipref.worlds.language import question_about
from omnipref.worlds.pictures import KINDS, Scene, sample_scenes

_STATISTICS_SCENES = 4000


@dataclass(frozen=True)
class Question:
    """One yes/no question about the picture with index `picture`; `label` is the true answer, "yes" or "no"."""

    picture: int
    kind: str
    text: str
    label: str


@functools.cache
def _together() -> np.ndarray:
    """`[8, 8]`: share of biased pictures that hold both kinds; the diagonal is each kind's own share."""
    scenes = sample_scenes(_STATISTICS_SCENES, seed=0, biased=True)
    present = np.array([[kind in scene.kinds for kind in KINDS] for scene in scenes], dtype=float)
    return present.T @ present / len(scenes)


def _adversarial(scene: Scene) -> np.ndarray:
    return _together()[[KINDS.index(kind) for kind in scene.kinds]].max(axis=0)


SPLITS: Mapping[str, Callable[[Scene], np.ndarray]] = {
    "random": lambda scene: np.zeros(len(KINDS)),
    "popular": lambda scene: np.diag(_together()),
    "adversarial": _adversarial,
}
"""How tempting each kind is, `[8]`, by split; the most tempting absent kinds are asked about, ties drawn by chance."""


def pope_questions(scenes: Sequence[Scene], split: str, seed: int) -> list[Question]:
    """Questions about each picture: k present kinds (answer yes) and k absent ones (answer no), yes first.

    Args:
        scenes: the pictures' truth; a question's `picture` is an index into it.
        split: which absent kinds: `random`; `popular`, the most frequent in the biased pictures; `adversarial`, those
            that stand most often with a present kind there.
        seed: draws the order and the ties.

    Raises:
        ConfigError: unknown split.

    Source: arXiv 2305.10355, section 4.
    """
    if split not in SPLITS:
        raise ConfigError(f"found split `{split}`; expected one of {', '.join(SPLITS)}")
    rng = np.random.default_rng(seed)
    return [
        question
        for index, scene in enumerate(scenes)
        for question in _about_one(index, scene, SPLITS[split](scene), rng)
    ]


def _about_one(index: int, scene: Scene, tempting: np.ndarray, rng: np.random.Generator) -> list[Question]:
    order = sorted(rng.permutation(len(KINDS)), key=lambda kind: -tempting[kind])
    absent = [KINDS[kind] for kind in order if KINDS[kind] not in scene.kinds]
    present = [KINDS[kind] for kind in order if KINDS[kind] in scene.kinds][: len(absent)]
    labelled = [(kind, "yes") for kind in present] + [(kind, "no") for kind in absent[: len(present)]]
    return [Question(index, kind, question_about(kind), label) for kind, label in labelled]
