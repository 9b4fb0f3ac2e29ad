"""Negative pictures: the same answer beside another or a damaged picture, as role `<role>@negative_image`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from omnipref.build.builder import Builder, Step, case_of, each, each_step, generator, made_by
from omnipref.errors import ConfigError, DataError
from omnipref.policies.prompt_files import context_of
from omnipref.preferences import Case, Comparison, Preference
from omnipref.preferences.media import load_image, media_key

NEGATIVE = "@negative_image"
POSITIVE = "@positive_image"


@dataclass(frozen=True)
class PoolPicture:
    """A picture of the pool, by content, and the first record that shows it."""

    key: str
    value: Any
    record: int


def pictures_of(case: Case) -> list[Any]:
    """The pictures of a case's context, as the record holds them.

    Raises:
        DataError: there is none.
    """
    found = [part.value for message in case.context for part in message.media if part.type == "image"]
    if not found:
        raise DataError("a context without a picture", "at least one picture", cure="use text builders for this record")
    return found


def pool_pictures(pool: Sequence[Preference]) -> list[PoolPicture]:
    """The distinct pictures of all contexts, in order of appearance."""
    found: dict[str, PoolPicture] = {}
    for record in pool:
        for message in context_of(record):
            for part in message.media:
                if part.type == "image":
                    key = media_key(part.value)
                    found.setdefault(key, PoolPicture(key, part.value, record.record))
    return list(found.values())


def add_negative(record: Preference, role: str, pictures: Sequence[Any], name: str, **facts: Any) -> Preference:
    """The record with the case of `role` once more, beside these pictures instead, and the comparison between both."""
    case = case_of(record, role)
    queue = iter(pictures)
    media = [part for message in case.context for part in message.media]
    negative = case.replace_media([next(queue) if part.type == "image" else part.value for part in media])
    label = role + NEGATIVE
    return made_by(record.with_case(label, negative, Comparison(role, label, annotator="rule")), name, **facts)


def random_image(seed: int = 0, role: str = "chosen") -> Builder:
    """Another picture of the pool, drawn by chance, never one that the context shows."""

    def prepare(pool: Sequence[Preference]) -> Step:
        pictures = pool_pictures(pool)

        def change(record: Preference) -> list[Preference]:
            shown = pictures_of(case_of(record, role))
            keys = {media_key(value) for value in shown}
            if len(keys | {picture.key for picture in pictures[: len(keys) + 1]}) <= len(keys):
                raise DataError(
                    "no other picture in the pool", "at least two different ones", cure="build from more records"
                )
            rng = generator(seed, "random_image", record.record)
            taken = [_drawn(pictures, keys, rng) for _ in shown]
            facts = {"seed": seed, "picture_of_record": [picture.record for picture in taken]}
            return [add_negative(record, role, [picture.value for picture in taken], "random_image", **facts)]

        return each_step(change)

    return Builder("random_image", prepare)


def _drawn(pictures: Sequence[PoolPicture], avoid: set[str], rng: np.random.Generator) -> PoolPicture:
    while True:
        picture = pictures[int(rng.integers(len(pictures)))]
        if picture.key not in avoid:
            return picture


def same_image(role: str = "chosen") -> Builder:
    """The true picture itself: the control in which the visual term is constant."""
    return each(
        "same_image",
        lambda record: [add_negative(record, role, pictures_of(case_of(record, role)), "same_image")],
    )


def _damaged(
    name: str, damage: Callable[[Image.Image, np.random.Generator], Image.Image], seed: int, role: str, **facts: Any
) -> Builder:
    def change(record: Preference) -> list[Preference]:
        rng = generator(seed, name, record.record)
        damaged = [damage(load_image(value), rng) for value in pictures_of(case_of(record, role))]
        return [add_negative(record, role, damaged, name, seed=seed, **facts)]

    return each(name, change)


def occlude(share: float = 0.75, patch: int = 16, seed: int = 0, role: str = "chosen") -> Builder:
    """The true picture with a share of its square patches replaced by uniform noise.

    Args:
        share: of the patches, in (0, 1]; at least one is replaced.
        patch: side of a patch, in pixels; the last row and column may be smaller.
        seed: draws the patches and the noise, with the record's number.
        role: the case that is repeated.

    Raises:
        ConfigError: share outside (0, 1] or patch below 1.
    """
    if not 0 < share <= 1 or patch < 1:
        raise ConfigError(f"found share {share} and patch {patch}; expected a share in (0, 1] and a patch of 1 or more")

    def damage(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        pixels = np.array(image.convert("RGB"))
        corners = [(y, x) for y in range(0, image.height, patch) for x in range(0, image.width, patch)]
        for i in rng.permutation(len(corners))[: max(1, round(share * len(corners)))]:
            y, x = corners[i]
            area = pixels[y : y + patch, x : x + patch]
            area[:] = rng.integers(0, 256, area.shape)
        return Image.fromarray(pixels)

    return _damaged("occlude", damage, seed, role, share=share, patch=patch)


def crop(low: float = 0.01, high: float = 0.2, seed: int = 0, role: str = "chosen") -> Builder:
    """A small cutting of the true picture: a share of its area between `low` and `high`, of the same proportions.

    Raises:
        ConfigError: not 0 < low <= high < 1.

    Source: arXiv 2406.11839, section 3.2 (rejected images keep 0-20 % of the original).
    """
    if not 0 < low <= high < 1:
        raise ConfigError(f"found low {low}, high {high}; expected 0 < low <= high < 1")

    def damage(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        side = float(rng.uniform(low, high)) ** 0.5
        width, height = max(1, round(side * image.width)), max(1, round(side * image.height))
        left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return _damaged("crop", damage, seed, role, low=low, high=high)


def flip(builder: Builder, seed: int = 0, role: str = "chosen") -> Builder:
    """The control of a picture builder: a coin decides which of the two pictures counts as the true one.

    Adds the role `<role>@positive_image`, and exchanges it with `<role>@negative_image` for about half of the records.
    The case `<role>` itself keeps its picture, so that text terms stay as they are; the visual term of the control is
    the same objective on these two roles: `dpo(chosen="chosen@positive_image", rejected="chosen@negative_image")`.
    """

    def change(record: Preference) -> list[Preference]:
        true, other = case_of(record, role), case_of(record, role + NEGATIVE)
        heads = bool(generator(seed, "flip", record.record).integers(2))
        positive, negative = (other, true) if heads else (true, other)
        cases = {**record.cases, role + POSITIVE: positive, role + NEGATIVE: negative}
        comparisons = [c for c in record.comparisons if c.worse != role + NEGATIVE]
        comparisons.append(Comparison(role + POSITIVE, role + NEGATIVE, annotator="rule"))
        new = replace(record, cases=cases, comparisons=tuple(comparisons))
        return [made_by(new, "flip", seed=seed, flipped=heads)]

    return builder >> each("flip", change)
