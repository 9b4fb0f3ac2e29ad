"""How truthful, complete and attentive to the picture a model of the picture world is, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnipref.build import occlude, random_image
from omnipref.demo.data import describing
from omnipref.evaluation import Estimate, Metric, bootstrap, chair, parse_yes_no, ratio_interval
from omnipref.policies.policy import Policy
from omnipref.policies.sampling import LocalSampler
from omnipref.preferences import Case, Message, Part, Preference
from omnipref.training.scoring import score_preferences
from omnipref.worlds import Picture, mentioned, pope_questions, truthful_caption, well_formed

SPLIT = "adversarial"
OCCLUDED = 0.75

METRICS = (
    Metric("chair_i", "CHAIR_i", "lower", note="Share of the named objects that are not in the picture."),
    Metric("chair_s", "CHAIR_s", "lower", note="Share of captions that name at least one object that is not there."),
    Metric("coverage", "coverage", "higher", note="Share of the objects in the picture that the caption names."),
    Metric("malformed", "malformed", "lower", note="Share of captions that are not of the form 'a ... and a ...'."),
    Metric("length", "words", "", False, 1, "Mean number of words per caption."),
    Metric(
        "pope", "POPE accuracy", "higher",
        note="Share of yes/no questions answered right; absent objects are those that go with what is there.",
    ),
    Metric("yes_ratio", "yes ratio", "", note="Share of yes answers; half of the true answers are yes."),
    Metric(
        "image_sensitivity", "picture sensitivity", "higher", False, 1,
        "Mean of log p(true caption | picture) - log p(true caption | another picture), in nats.",
    ),
    Metric(
        "sensitivity_occluded", "occlusion sensitivity", "higher", False, 1,
        "The same against the picture with 75 % of its patches replaced by noise.",
    ),
)  # fmt: skip

_COLUMNS = {
    "chair_i": ("hallucinated", "mentioned"),
    "chair_s": ("any_hallucinated", "one"),
    "coverage": ("found", "present"),
    "malformed": ("malformed", "one"),
    "length": ("words", "one"),
    "pope": ("right", "asked"),
    "yes_ratio": ("yes", "asked"),
    "image_sensitivity": ("nats_other", "one"),
    "sensitivity_occluded": ("nats_occluded", "one"),
}
"""Every metric is a ratio of two sums over pictures."""


@dataclass(frozen=True)
class Measured:
    """One model on the test pictures.

    Args:
        captions: its greedy captions.
        columns: counts per picture, by name.
    """

    captions: tuple[str, ...]
    columns: dict[str, list[float]]

    def _rows(self, metric: str) -> np.ndarray:
        return np.array([self.columns[name] for name in _COLUMNS[metric]], dtype=np.float64).T

    def estimates(self) -> dict[str, Estimate]:
        """All metrics with their intervals over pictures."""
        return {
            metric.key: ratio_interval(*self._rows(metric.key).T)
            if metric.share
            else bootstrap(self._rows(metric.key), _ratio)
            for metric in METRICS
        }

    def minus(self, other: Measured) -> dict[str, Estimate]:
        """Differences to another model on the same pictures, with paired intervals."""
        return {
            metric: bootstrap(np.concatenate([self._rows(metric), other._rows(metric)], 1), _ratio_difference)
            for metric in _COLUMNS
        }


def _ratio(means: np.ndarray) -> np.ndarray:
    return means[..., 0] / np.maximum(means[..., 1], 1e-12)


def _ratio_difference(means: np.ndarray) -> np.ndarray:
    return _ratio(means[..., :2]) - _ratio(means[..., 2:])


def measure(
    model: Any, processor: Any, policy: Policy, pictures: Sequence[Picture], aside: Path, *, seed: int = 0
) -> Measured:
    """Let a model describe pictures and answer about them, and score true captions under true and other pictures.

    Args:
        model: the model.
        processor: its processor.
        policy: scores captions.
        pictures: test pictures with their truth.
        aside: file for records that cannot be scored.
        seed: draws questions and other pictures.
    """
    greedy = LocalSampler(model, processor, max_new_tokens=24, temperature=0.0, batch_size=512, progress=False)
    captions = [answers[0] for answers in greedy([describing(picture) for picture in pictures])]
    columns = _caption_columns(captions, pictures) | _probe(greedy, pictures, seed)
    columns |= _sensitivity(model, policy, pictures, aside, seed)
    return Measured(tuple(captions), {name: [float(value) for value in values] for name, values in columns.items()})


def _caption_columns(captions: Sequence[str], pictures: Sequence[Picture]) -> dict[str, np.ndarray]:
    counts = chair(
        [set(mentioned(caption)) for caption in captions], [set(picture.scene.kinds) for picture in pictures], captions
    )
    return {
        "one": np.ones(len(pictures)),
        "hallucinated": counts.hallucinated,
        "any_hallucinated": counts.hallucinated > 0,
        "mentioned": counts.mentioned,
        "found": counts.found,
        "present": counts.present,
        "malformed": np.array([not well_formed(caption) for caption in captions]),
        "words": np.array([len(caption.split()) for caption in captions]),
    }


def _probe(greedy: LocalSampler, pictures: Sequence[Picture], seed: int) -> dict[str, np.ndarray]:
    """POPE's protocol; source: arXiv 2305.10355, section 4."""
    questions = pope_questions([picture.scene for picture in pictures], SPLIT, seed)
    contexts = [(Message.of("user", Part("image", pictures[q.picture].image), q.text),) for q in questions]
    said = [parse_yes_no(answers[0]) for answers in greedy(contexts)]
    counts = {name: np.zeros(len(pictures)) for name in ("right", "yes", "asked")}
    for question, answer in zip(questions, said, strict=True):
        counts["asked"][question.picture] += 1
        counts["right"][question.picture] += answer == question.label
        counts["yes"][question.picture] += answer == "yes"
    return counts


def _sensitivity(
    model: Any, policy: Policy, pictures: Sequence[Picture], aside: Path, seed: int
) -> dict[str, np.ndarray]:
    gold = [
        Preference({"gold": Case.chat(describing(picture), truthful_caption(picture.scene))}, record=number)
        for number, picture in enumerate(pictures)
    ]
    columns = {}
    builders = {
        "nats_other": random_image(seed, role="gold"),
        "nats_occluded": occlude(OCCLUDED, patch=8, seed=seed, role="gold"),
    }
    for name, builder in builders.items():
        scored = score_preferences(policy, model, builder(gold).preferences, batch_size=64, aside=aside, progress=False)
        logps = [{case.role: case.logp for case in cases} for cases in scored]
        columns[name] = np.array([logp["gold"] - logp["gold@negative_image"] for logp in logps])
    return columns
