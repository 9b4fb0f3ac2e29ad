"""The demo's preferences: the model describes pictures, an oracle counts what it made up, best against worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnipref.build import best_vs_worst, flip, random_image
from omnipref.policies.prompt_files import prompt_only
from omnipref.policies.sampling import LocalSampler
from omnipref.preferences import Case, Message, Part, Preference
from omnipref.rewards import Reward, rule
from omnipref.worlds import DESCRIBE, Picture, Scene, alignment_pictures, oracle_judge, well_formed

SAMPLES = 6
"""Captions drawn for each picture."""
MALFORMED = 0.5
"""Cost of a malformed caption: less than one hallucinated object, so it only orders captions that tie."""


def describing(picture: Picture) -> tuple[Message, ...]:
    """The request to describe a picture."""
    return (Message.of("user", Part("image", picture.image), DESCRIBE),)


def truthfulness(pictures: Sequence[Picture]) -> Reward:
    """Minus the number of hallucinated objects, for captions of these pictures."""
    scenes: Mapping[int, Scene] = {id(picture.image): picture.scene for picture in pictures}

    def score(case: Case) -> float:
        scene = scenes[id(case.context[0].media[0].value)]
        return -oracle_judge(scene, [case.text])[0] - MALFORMED * (not well_formed(case.text))

    return rule(score, "truthfulness")


@dataclass(frozen=True)
class DemoData:
    """Preferences, and how they came about.

    Args:
        preferences: pairs with a random negative picture, and a coin-flipped pair of pictures for the control.
        pictures: pictures that were described.
        tied: pictures whose captions were all equally truthful.
    """

    preferences: list[Preference]
    pictures: int
    tied: int


def build_preferences(model: Any, processor: Any, count: int, seed: int, *, progress: bool = True) -> DemoData:
    """Draw pictures, let the model describe them, and keep the best and the worst caption of each.

    Args:
        model: the model whose captions are judged: the one that will be trained.
        processor: its processor.
        count: pictures.
        seed: draws pictures, captions and negative pictures.
        progress: whether to show a bar.
    """
    pictures = alignment_pictures(count, seed)
    prompts = [prompt_only(describing(picture), record=number) for number, picture in enumerate(pictures)]
    sampler = LocalSampler(model, processor, max_new_tokens=24, batch_size=384, seed=seed, progress=progress)
    judged = best_vs_worst(sampler, truthfulness(pictures), n=SAMPLES, margin=MALFORMED)(prompts)
    built = flip(random_image(seed), seed)(judged.preferences, pool=prompts)
    return DemoData(built.preferences, count, len(judged.dropped))
