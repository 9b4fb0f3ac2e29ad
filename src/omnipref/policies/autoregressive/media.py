"""Media of a context, turned into model inputs one item at a time, so that a repeated item is processed once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from omnipref.errors import CapabilityError, DataError
from omnipref.policies.caching.keys import content_hash
from omnipref.preferences import Part
from omnipref.preferences.media import load_audio, load_image, load_video, media_key


@dataclass(frozen=True)
class Modality:
    """How processors and models of `transformers` speak of one kind of medium.

    Args:
        load: from a record's value and the processor to what the processor takes, and its further options.
        argument: keyword of `processor(...)`.
        replacements: keyword of `get_text_with_replacements`.
        encoder: the model's method that encodes items.
        token_type: value in `mm_token_type_ids`.
        encoded_ahead: whether models take encoded items of this kind in `mm_encoder_outputs`.
    """

    load: Callable[[Any, Any], tuple[Any, dict[str, Any]]]
    argument: str
    replacements: str
    encoder: str
    token_type: int
    encoded_ahead: bool


def _image(value: Any, processor: Any) -> tuple[Any, dict[str, Any]]:
    del processor
    return load_image(value), {}


def _video(value: Any, processor: Any) -> tuple[Any, dict[str, Any]]:
    """Frames as they are; processors that write times into the text are told one frame a second."""
    del processor
    frames = load_video(value)
    count = len(frames)
    told = {"fps": 1.0, "total_num_frames": count, "duration": float(count), "frames_indices": list(range(count))}
    return frames, {"video_metadata": [told], "do_sample_frames": False}


def _audio(value: Any, processor: Any) -> tuple[Any, dict[str, Any]]:
    """Samples at the processor's own rate."""
    samples, rate = load_audio(value)
    extractor = getattr(processor, "audio_processor", None) or getattr(processor, "feature_extractor", None)
    wanted = getattr(extractor, "sampling_rate", rate)
    return resampled(samples, rate, wanted), {"sampling_rate": wanted}


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Sound at another sampling rate, float32 `[samples]`: its spectrum cut or continued with zeros.

    Example:
        >>> resampled(np.ones(8, dtype=np.float32), 8000, 4000).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    if rate == wanted:
        return samples
    length = round(len(samples) * wanted / rate)
    return (np.fft.irfft(np.fft.rfft(samples), length) * (length / len(samples))).astype(np.float32)


MODALITIES: Mapping[str, Modality] = {
    "image": Modality(_image, "images", "images_replacements", "get_image_features", 1, True),
    "video": Modality(_video, "videos", "videos_replacements", "get_video_features", 2, True),
    "audio": Modality(_audio, "audio", "audio_replacements", "get_audio_features", 3, False),
}


@dataclass(frozen=True)
class MediaItem:
    """One processed medium.

    Args:
        modality: `image`, `video` or `audio`.
        key: hash of its content; items of equal key are encoded once.
        features: the model's inputs for it, such as `pixel_values`.
        placeholder: text that stands for it in the prompt.
    """

    modality: str
    key: str
    features: Mapping[str, Tensor]
    placeholder: str

    @cached_property
    def content(self) -> str:
        """Hash of what the model is given for it, which a processor's settings decide too."""
        return content_hash(self.modality, self.features)


def process(processor: Any, parts: Sequence[Part]) -> tuple[MediaItem, ...]:
    """Load and process the media of a context; equal items share one `MediaItem`.

    Raises:
        DataError: an item cannot be read; the field says which (`images[1]`).
        CapabilityError: the model takes no such medium.
    """
    seen: dict[tuple[str, str], MediaItem] = {}
    items = []
    totals = Counter(part.type for part in parts)
    counts: Counter[str] = Counter()
    for part in parts:
        if part.type not in MODALITIES or not isinstance(processor, ProcessorMixin):
            raise CapabilityError(
                f"the data hold {part.type} input, which {type(processor).__name__} cannot process. "
                "To mend: use a model whose processor takes it"
            )
        try:
            key = (part.type, media_key(part.value))
            if key not in seen:
                seen[key] = _item(processor, part, key[1], totals[part.type] > 1)
        except DataError as error:
            raise error.at(field=f"{part.type}s[{counts[part.type]}]") from None
        counts[part.type] += 1
        items.append(seen[key])
    return tuple(items)


SAMPLE_COUNTS = "batch_num_images"
"""Input of models that read a picture alone otherwise than several: the number of pictures of each sample."""
TEXT_INPUTS = frozenset(
    ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels", "text_replacement_offsets")
)
"""What processors return about the text rather than the medium."""


def _item(processor: ProcessorMixin, part: Part, key: str, several: bool) -> MediaItem:
    modality = MODALITIES[part.type]
    medium, options = modality.load(part.value, processor)
    features, placeholder = _processed(processor, part.type, [medium], options)
    if several and SAMPLE_COUNTS in features:
        features, placeholder = _processed(processor, part.type, [medium, medium], options)
        features = {name: value if name == SAMPLE_COUNTS else value[:1] for name, value in features.items()}
        key = hashlib.sha256(f"{key} among several".encode()).hexdigest()[: len(key)]
    return MediaItem(part.type, key, features, placeholder)


def _processed(
    processor: Any, kind: str, media: list[Any], options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], str]:
    """Run the processor on a sample's media and their marks alone; what replaces the first mark is its placeholder."""
    mark = getattr(processor, f"{kind}_token", None)
    if mark is None:
        raise CapabilityError(f"{type(processor).__name__} has no placeholder for {kind} input")
    given = {MODALITIES[kind].argument: [media] if kind == "image" else media, **options}
    found = processor(text=[mark * len(media)], **given, return_text_replacement_offsets=True, return_tensors="np")
    features = {name: torch.as_tensor(value) for name, value in found.items() if name not in TEXT_INPUTS}
    if "text_replacement_offsets" not in found:
        raise CapabilityError(
            f"{type(processor).__name__} does not tell which tokens stand for one {kind}, as models that look at media "
            "through cross-attention have none. To mend: use a model that reads media among its tokens, or text alone"
        )
    return features, found["text_replacement_offsets"][0][0]["replacement"]


def expand(processor: Any, text: str, items: Sequence[MediaItem]) -> str:
    """Replace each placeholder of `text` by its item's text, as the processor itself does.

    Raises:
        DataError: the number of placeholders differs from the number of media.
    """
    if not items:
        return text
    replacements = {
        modality.replacements: [item.placeholder for item in items if item.modality == name]
        for name, modality in MODALITIES.items()
    }
    for name in MODALITIES:
        token = getattr(processor, f"{name}_token", None)
        if token and text.count(token) != sum(item.modality == name for item in items):
            raise _mismatch(processor, text, items)
    texts, _ = processor.get_text_with_replacements(_normal(processor, text, items), **replacements)
    return texts[0]


def _normal(processor: Any, text: str, items: Sequence[MediaItem]) -> list[str]:
    """The text as the processor lays it out before it expands marks; only the number of pictures matters to that."""
    pictures = [Image.new("RGB", (1, 1)) for item in items if item.modality == "image"]
    if not pictures or not hasattr(processor, "prepare_inputs_layout"):
        return [text]
    _, texts, *_ = processor.prepare_inputs_layout(images=pictures, text=[text])
    return texts


def _mismatch(processor: Any, text: str, items: Sequence[MediaItem]) -> DataError:
    tokens = {name: getattr(processor, f"{name}_token", None) for name in MODALITIES}
    found = {name: text.count(token) for name, token in tokens.items() if token}
    given = {name: sum(item.modality == name for item in items) for name in found}
    return DataError(
        f"placeholders {found} in the prompt but media {given}",
        "one placeholder per medium",
        cure="write one mark (such as <image>) per medium, or none at all to have them placed first",
        field="prompt",
    )
