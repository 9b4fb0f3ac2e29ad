"""Several answers with ratings on several aspects: UltraFeedback and VLFeedback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omnipref.preferences.content import Media, prompt_context, response
from omnipref.preferences.fields import Row
from omnipref.preferences.formats.assemble import Messages, leftover, mean_rating, scored
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import Preference

_IMAGES = ("image", "img_path")


def _ultrafeedback(row: Row) -> Iterable[Preference]:
    yield _rated(row, prompt_context(row, "instruction", Media.of(row), chat=True))


def _vlfeedback(row: Row) -> Iterable[Preference]:
    image = next((row.get(name) for name in _IMAGES if row.has(name)), None)
    media = Media({"image": [] if image is None else [image]}, "image" if row.has("image") else "img_path")
    yield _rated(row, prompt_context(row, "prompt", media, chat=True))


def _rated(row: Row, context: Messages) -> Preference:
    completions = row.rows("completions")
    answers = [response(item.text("response"), item.name("response"), context) for item in completions]
    scores = [mean_rating(item.child("annotations")) for item in completions]
    aspects = [
        {name: _rating(value) for name, value in item.child("annotations").value.items()} for item in completions
    ]
    meta = {**leftover(row, "instruction", "prompt", *_IMAGES), "models": [item.get("model") for item in completions]}
    return scored(context, answers, scores, annotator="closed_model", meta={**meta, "aspects": aspects})


def _rating(value: Any) -> Any:
    return value.get("Rating") if isinstance(value, Mapping) else None


FORMATS = (
    Format(
        "ultrafeedback",
        columns_match("instruction", "completions"),
        _ultrafeedback,
        "Score = mean over the rated aspects (overall_score, known to be faulty, is not used); equal means tie.",
    ),
    Format(
        "vlfeedback",
        columns_match("prompt", "completions", "models", any_of=_IMAGES),
        _vlfeedback,
        "Score = mean over the rated aspects, N/A left out; equal means tie.",
    ),
)
