"""Media of a context, turned into model inputs one item at a time, so that a repeated item is processed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import ProcessorMixin

from omnipref.errors import CapabilityError, DataError
from omnipref.preferences import Part
from omnipref.preferences.media import load_audio, load_image, load_video, media_key


@dataclass(frozen=True)
class Modality:
    """How processors and models of `transformers` speak of one kind of medium.

    Args:
        load: from a record's value to what the processor takes.
        argument: keyword of `processor(...)`.
        replace: the processor's method that writes an item's placeholder text.
        replacements: keyword of `get_text_with_replacements`.
        encoder: the model's method that encodes items.
        token_type: value in `mm_token_type_ids`.
    """

    load: Any
    argument: str
    replace: str
    replacements: str
    encoder: str
    token_type: int


MODALITIES: Mapping[str, Modality] = {
    "image": Modality(load_image, "images", "replace_image_token", "images_replacements", "get_image_features", 1),
    "video": Modality(load_video, "videos", "replace_video_token", "videos_replacements", "get_video_features", 2),
    "audio": Modality(load_audio, "audio", "replace_audio_token", "audio_replacements", "get_audio_features", 3),
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


def process(processor: Any, parts: Sequence[Part]) -> tuple[MediaItem, ...]:
    """Load and process the media of a context; equal items share one `MediaItem`.

    Raises:
        DataError: an item cannot be read; the field says which (`images[1]`).
        CapabilityError: the model takes no such medium.
    """
    seen: dict[tuple[str, str], MediaItem] = {}
    items = []
    counts: dict[str, int] = {}
    for part in parts:
        number = counts.get(part.type, 0)
        counts[part.type] = number + 1
        if part.type not in MODALITIES or not isinstance(processor, ProcessorMixin):
            raise CapabilityError(
                f"the data hold {part.type} input, which {type(processor).__name__} cannot process. "
                "To mend: use a model whose processor takes it"
            )
        try:
            key = (part.type, media_key(part.value))
            if key not in seen:
                seen[key] = _item(processor, part, key[1])
        except DataError as error:
            raise error.at(field=f"{part.type}s[{number}]") from None
        items.append(seen[key])
    return tuple(items)


def _item(processor: ProcessorMixin, part: Part, key: str) -> MediaItem:
    modality = MODALITIES[part.type]
    loaded = modality.load(part.value)
    features = dict(processor(**{modality.argument: [loaded]}, return_tensors="pt"))  # type: ignore[call-arg]
    placeholder = getattr(processor, modality.replace)(features, 0)
    return MediaItem(part.type, key, features, placeholder)


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
    texts, _ = processor.get_text_with_replacements([text], **replacements)
    return texts[0]


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
