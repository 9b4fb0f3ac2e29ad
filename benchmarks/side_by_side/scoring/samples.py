"""What is scored: preferences of exact lengths, and real ones, encoded once for every side."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omnipref.policies.autoregressive.encode import EncodedCase, EncodedPreference, EncodedPrompt, encode, encode_prompt
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.preferences import RAW, Case, Comparison, Message, Part, Preference, pair, ranked, read
from side_by_side.base_model import chosen_dialogues, train_tokenizer
from side_by_side.scoring.shapes import FIRST_WORD

END = 2
"""Id of `</s>`, with which every drawn response ends."""
NEGATIVE = "chosen@negative_image"
TREE = {"step_1": (), "step_2": (0,), "step_3": (1,), "step_4": (0, 0)}
"""Pairs of sibling steps and the path of steps that they continue; 0 is the better step, 1 the worse. Five paths."""


@dataclass(frozen=True)
class Sample:
    """One preference, as every side takes it.

    Args:
        encoded: token ids, media and roles.
        peer: the example that TRL's collator takes; None where its trainer has no such preferences.
    """

    encoded: EncodedPreference
    peer: Mapping[str, Any] | None = None


@dataclass
class Draw:
    """Draws preferences of given lengths in tokens.

    Args:
        policy: gives positions, and the processor for pictures.
        vocabulary: ids to draw from.
        picture: side of the pictures in pixels.
        shrink: factor on all lengths of texts.
        seed: of the draws.
    """

    policy: AutoregressivePolicy
    vocabulary: int
    picture: int = 0
    shrink: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def ids(self, length: float, *, end: bool = False) -> np.ndarray:
        """Random words; with `end`, the last is the end mark."""
        found = self.random.integers(FIRST_WORD, self.vocabulary, max(2, round(length * self.shrink)))
        if end:
            found[-1] = END
        return found

    def pair(self, prompt: float, chosen: float, rejected: float) -> Sample:
        """Two responses to a text."""
        context, responses = self.ids(prompt), [self.ids(length, end=True) for length in (chosen, rejected)]
        return _with_peer(self._encoded(pair("", "-", "-"), [_text(context)] * 2, responses))

    def list(self, prompt: float, response: float, count: int) -> Sample:
        """Several responses to a text, best first."""
        context = [_text(self.ids(prompt))] * count
        responses = [self.ids(response, end=True) for _ in range(count)]
        return Sample(self._encoded(ranked("", ["-"] * count), context, responses))

    def tree(self, prompt: float, step: float) -> Sample:
        """Five paths of steps, eight steps in four pairs of siblings."""
        root = self.ids(prompt)
        steps: dict[tuple[int, ...], np.ndarray] = {}
        roles, prompts, responses = [], [], []
        for name, path in TREE.items():
            before = np.concatenate([root, *(steps[path[: depth + 1]] for depth in range(len(path)))])
            for branch, role in enumerate(("chosen", "rejected")):
                steps[*path, branch] = self.ids(step)
                roles.append(f"{name}/{role}")
                prompts.append(_text(before))
                responses.append(steps[*path, branch])
        comparisons = tuple(Comparison(f"{name}/chosen", f"{name}/rejected") for name in TREE)
        record = Preference({role: Case.raw("", "-") for role in roles}, comparisons)
        return Sample(self._encoded(record, prompts, responses))

    def picture_pair(self, prompt: float, response: float) -> Sample:
        """Two responses to a picture and a text."""
        picture, words = self._picture(), self._words(prompt)
        context = self._prompt(picture, words)
        responses = [self.ids(response, end=True) for _ in range(2)]
        chosen, rejected = (" ".join(map(word, ids)) for ids in responses)
        mark = self.policy.owner.image_token  # type: ignore[union-attr]
        peer = {"images": [picture], "prompt": f"{mark}{words}", "chosen": chosen, "rejected": rejected}
        return Sample(self._encoded(pair("", "-", "-"), [context] * 2, responses), peer)

    def two_pictures(self, prompt: float, response: float) -> Sample:
        """Two responses to a picture and a text, and the better one under another picture."""
        words = self._words(prompt)
        own, other = (self._prompt(self._picture(), words) for _ in range(2))
        chosen, rejected = (self.ids(response, end=True) for _ in range(2))
        record = pair("", "-", "-")
        record = record.with_case(NEGATIVE, record.cases["chosen"], Comparison("chosen", NEGATIVE))
        return Sample(self._encoded(record, [own, own, other], [chosen, rejected, chosen]))

    def _picture(self) -> Image.Image:
        return Image.fromarray(self.random.integers(0, 255, (self.picture, self.picture, 3), dtype=np.uint8))

    def _words(self, length: float) -> str:
        return " " + " ".join(map(word, self.ids(length)))

    def _prompt(self, picture: Image.Image, words: str) -> EncodedPrompt:
        return encode_prompt(self.policy.owner, (Message.of(RAW, Part("image", picture), words),))

    def _encoded(
        self, record: Preference, prompts: Sequence[EncodedPrompt], responses: Sequence[np.ndarray]
    ) -> EncodedPreference:
        cases = []
        for prompt, response in zip(prompts, responses, strict=True):
            zeros = np.zeros_like(response)
            ids, types = np.concatenate([prompt.ids, response]), np.concatenate([prompt.token_type, zeros])
            cases.append(EncodedCase(prompt, response, zeros, self.policy.positions(ids, types, prompt.items)))
        return EncodedPreference(record, tuple(cases))


def word(number: int) -> str:
    """The word of an id."""
    return "</s>" if number == END else f"w{number}"


def _text(ids: np.ndarray) -> EncodedPrompt:
    return EncodedPrompt(ids, ids.copy(), np.zeros_like(ids), ())


@dataclass(frozen=True)
class RealPairs:
    """Real pairs and what was done to get them."""

    samples: list[Sample]
    facts: dict[str, Any]


def real_pairs(source: Path, count: int, max_length: int, vocabulary: int, aside: Path, seed: int = 0) -> RealPairs:
    """The first `count` pairs of a shuffled file that fit, tokenised by a BPE trained on its chosen dialogues.

    Args:
        source: HH-RLHF's rows.
        count: pairs to take.
        max_length: longest case in tokens.
        vocabulary: most tokens of the BPE.
        aside: file for bad records.
        seed: of the order.
    """
    preferences = list(read(source, quarantine=aside))
    owner = train_tokenizer([m["content"] for d in chosen_dialogues(preferences) for m in d], vocabulary)
    random.Random(seed).shuffle(preferences)
    samples: list[Sample] = []
    too_long = characters = tokens = 0
    for preference in preferences:
        if len(samples) == count:
            break
        encoded = encode(owner, preference)
        if max(case.length for case in encoded.cases) > max_length:
            too_long += 1
            continue
        samples.append(_with_peer(encoded))
        chosen = preference.cases["chosen"]
        characters += sum(len(message.text) for message in (*chosen.context, *chosen.response))
        tokens += encoded.cases[0].length
    facts = {
        "vocabulary": len(owner),
        "too_long": too_long,
        "max_length": max_length,
        "characters_per_token": characters / tokens,
        **lengths(samples),
    }
    return RealPairs(samples, facts)


def _with_peer(encoded: EncodedPreference) -> Sample:
    chosen, rejected = encoded.cases
    peer = {
        "prompt_ids": chosen.prompt.ids.tolist(),
        "chosen_ids": chosen.response.tolist(),
        "rejected_ids": rejected.response.tolist(),
    }
    return Sample(encoded, peer)


def lengths(samples: Sequence[Sample]) -> dict[str, float]:
    """Mean tokens of prompts and responses."""
    cases = [case for sample in samples for case in sample.encoded.cases]
    return {
        "mean_prompt": float(np.mean([len(case.prompt.ids) for case in cases])),
        "mean_response": float(np.mean([len(case.response) for case in cases])),
    }


def text_preferences(draw: Draw, count: int, prompt: float, response: float) -> list[Preference]:
    """Pairs as plain text, for what starts from a file."""
    found = []
    for record in range(count):
        context, *answers = ([word(n) for n in draw.ids(size)] for size in (prompt, response, response))
        chosen, rejected = (" " + " ".join(words) for words in answers)
        found.append(pair(" ".join(context), chosen, rejected, record=record))
    return found
