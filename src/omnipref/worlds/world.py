"""The picture world as a data source: pictures to align on, pictures to test on."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from omnipref.worlds.pictures import Scene, draw_all, sample_scenes

_TEST_STREAM = 7919


@dataclass(frozen=True)
class Picture:
    """A picture and what is truly in it."""

    scene: Scene
    image: Image.Image


def alignment_pictures(n: int, seed: int) -> list[Picture]:
    """`n` biased pictures without captions, from which preferences are made."""
    return _pictures(n, seed, biased=True)


def test_pictures(n: int, seed: int) -> list[Picture]:
    """`n` unbiased pictures, on which what goes with what says nothing."""
    return _pictures(n, seed + _TEST_STREAM, biased=False)


def _pictures(n: int, seed: int, biased: bool) -> list[Picture]:
    scenes = sample_scenes(n, seed, biased)
    return [Picture(scene, image) for scene, image in zip(scenes, draw_all(scenes, seed), strict=True)]
