"""The picture world: 32x32 pictures of eight kinds of things in four directed pairs, anchor -> companion.

Every kind has a bitmap, a colour and two home cells of a 4x4 grid, so a patch of 8x8 pixels is a cell. In
*biased* pictures a companion mostly stands with its anchor; in *unbiased* ones all kinds are as likely together.
Companions are dim, some hardly visible, so there is something to gain from leaning on co-occurrence instead of looking.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

SIZE = 32
CELL = 8
BACKGROUND = (44, 48, 60)
"""RGB of empty ground; the shipped model's image processor maps it to zero."""
SCALE = 50.0
"""RGB units that the shipped model's image processor maps to one."""
NOISE = 16.0
COMPANION_OF: Mapping[str, str] = {"plate": "fork", "cup": "spoon", "tree": "bird", "boat": "fish"}
KINDS: tuple[str, ...] = tuple(kind for pair in COMPANION_OF.items() for kind in pair)

COMPANION_CONTRAST = 0.5
"""A companion's colour at full brightness, as a share of an anchor's."""
COMPANION_FADING = 1.5
"""A companion's brightness is `u ** 1.5` with u uniform in [0, 1]: one in five is below 0.09, hard to make out."""

ANCHOR_GIVEN_PAIR = 0.88
COMPANION_GIVEN_ANCHOR = 0.7

_COLOURS = {
    "plate": (236, 236, 228),
    "fork": (120, 200, 255),
    "cup": (240, 110, 90),
    "spoon": (255, 225, 90),
    "tree": (90, 205, 100),
    "bird": (250, 120, 215),
    "boat": (235, 165, 75),
    "fish": (80, 225, 215),
}
_HOME_CELLS = {
    "plate": (6, 15),
    "fork": (1, 12),
    "cup": (4, 11),
    "spoon": (3, 9),
    "tree": (2, 7),
    "bird": (0, 5),
    "boat": (8, 14),
    "fish": (10, 13),
}
_BITMAPS = {
    "plate": ("..###..", ".#####.", "##+++##", "##+++##", "##+++##", ".#####.", "..###.."),
    "fork": (".#.#.#.", ".#.#.#.", ".#.#.#.", ".#####.", "...#...", "...#...", "...#..."),
    "cup": (".......", "#####..", "#+++###", "#+++#.#", "#+++###", "#+++#..", ".###..."),
    "spoon": ("..###..", ".##+##.", ".#+++#.", "..###..", "...#...", "...#...", "...#..."),
    "tree": ("...#...", "..###..", ".##+##.", "..###..", ".#####.", "###+###", "...+..."),
    "bird": (".......", "##...##", ".##.##.", "..###..", "...#...", "..#.#..", "......."),
    "boat": ("...#...", "...##..", "...###.", "...#...", "#######", ".#####.", "..+++.."),
    "fish": (".......", "#..###.", "##+#+##", ".######", "##+###.", "#..##..", "......."),
}
_INK = {".": 0.0, "+": 0.55, "#": 1.0}


@dataclass(frozen=True)
class Thing:
    """One thing in a picture: its kind, its cell (0-15, row by row) and its brightness (1 is ordinary)."""

    kind: str
    cell: int
    brightness: float = 1.0


@dataclass(frozen=True)
class Scene:
    """What is truly in a picture, at most one thing of a kind, in the order of `KINDS`.

    Example:
        >>> scene = Scene((Thing("plate", 6),))
        >>> Scene.from_dict(scene.to_dict()) == scene
        True
    """

    things: tuple[Thing, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds present, in the order of `KINDS`."""
        return tuple(thing.kind for thing in self.things)

    def to_dict(self) -> dict[str, Any]:
        """The scene as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Scene:
        """The scene that `to_dict` wrote."""
        return cls(tuple(Thing(**thing) for thing in value["things"]))


@functools.cache
def _stamp(kind: str) -> np.ndarray:
    """Colour offset of a kind from the ground, `[7, 7, 3]` in RGB units, contrast included."""
    ink = np.array([[_INK[char] for char in row] for row in _BITMAPS[kind]], dtype=np.float32)
    contrast = COMPANION_CONTRAST if kind in COMPANION_OF.values() else 1.0
    offset = np.array(_COLOURS[kind], dtype=np.float32) - np.array(BACKGROUND, dtype=np.float32)
    return ink[:, :, None] * offset * contrast


def draw_array(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draws a scene as an array `[32, 32, 3]` of uint8 RGB; `rng` gives the pixel noise."""
    canvas = rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32) * NOISE + np.array(BACKGROUND, dtype=np.float32)
    for thing in scene.things:
        top, left = CELL * (thing.cell // 4), CELL * (thing.cell % 4)
        canvas[top : top + 7, left : left + 7] += thing.brightness * _stamp(thing.kind)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Draws a scene as a 32x32 RGB picture; `rng` gives the pixel noise (sd `NOISE` RGB units)."""
    return Image.fromarray(draw_array(scene, rng))


def _place(present: set[str], rng: np.random.Generator) -> Scene:
    cells, light = rng.integers(0, 2, len(KINDS)), rng.random(len(KINDS))
    is_anchor = [kind in COMPANION_OF for kind in KINDS]
    brightness = np.where(is_anchor, 0.85 + 0.3 * light, light**COMPANION_FADING)
    return Scene(
        tuple(
            Thing(kind, _HOME_CELLS[kind][cells[index]], round(float(brightness[index]), 4))
            for index, kind in enumerate(KINDS)
            if kind in present
        )
    )


def biased_scene(rng: np.random.Generator) -> Scene:
    """A scene of 1-3 pairs: 12 % are the companion alone, the others the anchor, 70 % of them with its companion."""
    present: set[str] = set()
    anchors = list(COMPANION_OF)
    for index in rng.permutation(len(anchors))[: rng.integers(1, 4)]:
        anchor, with_anchor, with_companion = anchors[index], rng.random(), rng.random()
        if with_anchor < ANCHOR_GIVEN_PAIR:
            present.add(anchor)
        if with_anchor >= ANCHOR_GIVEN_PAIR or with_companion < COMPANION_GIVEN_ANCHOR:
            present.add(COMPANION_OF[anchor])
    return _place(present, rng)


def unbiased_scene(rng: np.random.Generator) -> Scene:
    """A scene of 2-4 kinds drawn uniformly, whatever goes with what."""
    chosen = rng.permutation(len(KINDS))[: rng.integers(2, 5)]
    return _place({KINDS[index] for index in chosen}, rng)


def sample_scenes(n: int, seed: int, biased: bool = True) -> list[Scene]:
    """`n` scenes, the same for the same seed: biased as the base model's training pictures, or unbiased."""
    rng = np.random.default_rng([seed, int(biased)])
    one = biased_scene if biased else unbiased_scene
    return [one(rng) for _ in range(n)]


def draw_all(scenes: Sequence[Scene], seed: int) -> list[Image.Image]:
    """One picture per scene, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [draw(scene, rng) for scene in scenes]
