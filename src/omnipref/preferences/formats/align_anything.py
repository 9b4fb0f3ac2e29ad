"""align-anything's sets: two responses and which is better, in any modality; and PKU-SafeRLHF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.content import MODALITIES, Media, as_list, prompt_context, response
from omnipref.preferences.fields import Row
from omnipref.preferences.formats.assemble import judged, leftover, pair_of
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import RAW, Case, Message, Part, Preference

_SUFFIXES = {
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".webp": "image", ".gif": "image", ".bmp": "image",
    ".mp4": "video", ".avi": "video", ".mov": "video", ".webm": "video", ".mkv": "video",
    ".wav": "audio", ".mp3": "audio", ".flac": "audio", ".ogg": "audio",
}  # fmt: skip
_RESPONSES = ("response_1", "response_2")
_OVERALL = tuple(f"overall_{kind}" for kind in MODALITIES)


def _context(row: Row) -> tuple[Message, ...]:
    key = "question" if row.has("question") else "prompt"
    columns = {kind: row.get(kind) if row.has(kind) else row.get(f"{kind}_path") for kind in MODALITIES}
    named = next((name for kind in MODALITIES for name in (kind, f"{kind}_path") if row.has(name)), "image")
    media = Media({kind: as_list(value) for kind, value in columns.items() if value is not None}, named)
    return prompt_context(row, key, media, chat=True)


def _verdict(row: Row, key: str, first: int) -> int:
    """0 when the first response is better, 1 when the second is, from a label that counts from `first`."""
    verdict = row.number(key) - first
    if verdict not in (0, 1):
        expected = f"{first} (first better) or {first + 1} (second better)"
        raise DataError(f"{row.get(key)}", expected, cure="drop the record", field=key)
    return int(verdict)


def _texts(row: Row) -> Iterable[Preference]:
    context = _context(row)
    cases = [Case(context, response(row.text(key), key, context)) for key in _RESPONSES]
    used = (
        "question",
        "prompt",
        "overall_response",
        *_RESPONSES,
        *MODALITIES,
        *(f"{kind}_path" for kind in MODALITIES),
    )
    yield judged(cases, _verdict(row, "overall_response", 1), meta=leftover(row, *used))


def _generated(row: Row) -> Iterable[Preference]:
    """Responses that are media, judged by `overall_image`, `overall_video` or `overall_audio`."""
    key = next(name for name in _OVERALL if row.has(name))
    kind = key.removeprefix("overall_")
    context = (Message.of(RAW, row.text("prompt")),)
    cases = [Case(context, (Message.of(RAW, Part(kind, row.require(name, f"the {kind}"))),)) for name in _RESPONSES]
    yield judged(cases, _verdict(row, key, 1), meta=leftover(row, "prompt", key, *_RESPONSES))


def _paths(row: Row) -> Iterable[Preference]:
    context = (Message.of(RAW, row.text("prompt")),)
    cases = [Case(context, (Message.of(RAW, _by_suffix(row, key)),)) for key in ("better_data_path", "worse_data_path")]
    yield pair_of(*cases, meta=leftover(row, "prompt", "better_data_path", "worse_data_path"))


def _by_suffix(row: Row, key: str) -> Part:
    path = row.text(key)
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"the path {path[:80]!r}", f"one that ends in {', '.join(_SUFFIXES)}", field=key)
    return Part(_SUFFIXES[suffix], path)


def _interleaved(row: Row) -> Iterable[Preference]:
    context = prompt_context(
        row, "input_text", Media({"image": as_list(row.get("input_image"))}, "input_image"), chat=True
    )
    cases = [Case(context, _text_and_images(row, side)) for side in ("better", "worse")]
    used = ("input_text", "input_image", "better_text", "better_img", "worse_text", "worse_img")
    yield pair_of(*cases, meta=leftover(row, *used))


def _text_and_images(row: Row, side: str) -> tuple[Message, ...]:
    """Text with its pictures at their marks, or after it where it has none."""
    media = Media({"image": as_list(row.get(f"{side}_img"))}, f"{side}_img")
    parts = media.parts(row.text(f"{side}_text"))
    if media.used["image"]:
        return media.finish((Message("assistant", parts),))
    return (Message("assistant", (*parts, *(media.take("image") for _ in media.values["image"]))),)


def _pku_safe(row: Row) -> Iterable[Preference]:
    context = prompt_context(row, "prompt", Media({}), chat=True)
    cases = [Case(context, response(row.text(key), key, context)) for key in ("response_0", "response_1")]
    meta = leftover(row, "prompt", "response_0", "response_1", "better_response_id")
    yield judged(cases, _verdict(row, "better_response_id", 0), aspect="helpfulness", annotator="human", meta=meta)


def _is_generated(columns: frozenset[str], row: Mapping[str, Any]) -> bool:
    return columns_match("prompt", *_RESPONSES, any_of=_OVERALL, none_of=("overall_response",))(columns, row)


FORMATS = (
    Format(
        "align_anything",
        columns_match(*_RESPONSES, "overall_response", any_of=("question", "prompt")),
        _texts,
        "overall_response 1 or 2 names the better answer, other values are refused; image, video_path and audio_path "
        "go before the question, or to its marks.",
    ),
    Format("align_anything_media", _is_generated, _generated, "overall_<modality> 1 or 2 names the better medium."),
    Format(
        "align_anything_paths",
        columns_match("prompt", "better_data_path", "worse_data_path"),
        _paths,
        "The modality is told by the files' suffixes.",
    ),
    Format(
        "align_anything_ti2ti",
        columns_match("input_text", "better_text", "worse_text"),
        _interleaved,
        "Answers of text and pictures; pictures go to their marks, or after the text.",
    ),
    Format(
        "pku_safe_rlhf",
        columns_match("prompt", "response_0", "response_1", "better_response_id"),
        _pku_safe,
        "better_response_id 0 or 1 names the more helpful answer; safety labels are kept in meta.",
    ),
)
