"""The parts of a `transformers` model that scoring uses, found by what they offer rather than by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive.encode import Positions, plain_positions
from omnipref.policies.autoregressive.feature_cache import FeatureCache
from omnipref.policies.autoregressive.features import encode_items, item_groups, placed, split_items
from omnipref.policies.autoregressive.media import MODALITIES, SAMPLE_COUNTS, MediaItem


def language_model(model: nn.Module) -> nn.Module:
    """The `transformers` model with its head, whatever wraps it (DDP, FSDP, compile, PEFT)."""
    for attribute in ("module", "_orig_mod"):
        if isinstance(inner := getattr(model, attribute, None), nn.Module):
            return language_model(inner)
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,return-value]


def backbone_of(model: nn.Module) -> nn.Module:
    """The model without its head; where the model names no base, the part of it that is a model too.

    Of an encoder-decoder it is the model itself, which holds both parts.
    """
    inner = language_model(model)
    if is_encoder_decoder(inner):
        return inner
    base = getattr(inner, "base_model", inner)
    if base is not inner:
        return base  # type: ignore[return-value]
    return next((part for part in inner.children() if isinstance(part, PreTrainedModel)), inner)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The blocks that the text tokens of a `transformers` model go through, first to last.

    Args:
        model: a whole model, perhaps wrapped.

    Raises:
        CapabilityError: they cannot be found.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 9}
        >>> len(blocks_of(LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, **sizes))))
        3
    """
    if (blocks := blocks_within(backbone_of(model))) is not None:
        return blocks
    raise CapabilityError(
        f"found no list of blocks in {type(language_model(model)).__name__}, whose states the objective reads; "
        "expected one as long as `num_hidden_layers` of its configuration. To mend: use another model, or an objective "
        "without such extras"
    )


def blocks_within(backbone: nn.Module) -> nn.ModuleList | None:
    """The blocks of a model without its head, None where they cannot be found.

    Args:
        backbone: of `backbone_of`.
    """
    decoder: Any = backbone.get_decoder() if hasattr(backbone, "get_decoder") else backbone  # type: ignore[operator]
    config: Any = getattr(decoder, "config", None) or getattr(backbone, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else None
    count = getattr(text, "num_hidden_layers", 0)
    lists = {name: part for name, part in decoder.named_modules() if isinstance(part, nn.ModuleList)}
    found = [name for name, part in lists.items() if len(part) == count > 0]
    # An encoder of media or a block itself may hold a list as long, further inside.
    return lists[min(found, key=lambda name: name.count("."))] if found else None


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model reads with one part and writes with another."""
    return bool(getattr(language_model(model).config, "is_encoder_decoder", False))


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    return name in inspect.signature(function).parameters


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be given a parameter of this name, declared or not."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def call_inside(model: nn.Module, function: Callable[..., Any], *given: Any) -> Any:
    """Run `function(*given)` as the forward pass of `model`, so that wrappers and hooks (DDP, FSDP, DeepSpeed) see one.

    Args:
        model: a whole model, perhaps wrapped, or a part of one.
        function: what to run; inside it, `model.forward` is the model's own again.
        given: tensors that hooks on the inputs should see.
    """
    inner = model
    while isinstance(deeper := getattr(inner, "module", None), nn.Module):
        inner = deeper
    own = inner.__dict__.get("forward")

    def restore() -> None:
        inner.__dict__.pop("forward", None)
        if own is not None:
            inner.forward = own

    def redirected(*arguments: Any, **__: Any) -> Any:
        restore()
        return function(*arguments)

    inner.forward = redirected
    try:
        return model(*given)
    finally:
        restore()


DERIVED: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "audio_seqlens": ("feature_attention_mask", lambda mask: mask.sum(-1)),
    "second_per_grids": ("video_second_per_grid", lambda seconds: seconds),
}
"""Arguments of position rules that follow from what processors give: name to source and function."""


def positions_of(model: nn.Module) -> Positions:
    """How a model numbers positions: by its own rule where it has multimodal rotary embeddings, else by counting."""
    rule = getattr(backbone_of(model), "get_rope_index", None)
    if rule is None:
        first = _first_position(language_model(model))
        return plain_positions if first == 0 else lambda ids, _types, _items: np.arange(first, first + len(ids))[None]
    names = set(inspect.signature(rule).parameters)

    def multimodal_positions(ids: np.ndarray, token_type: np.ndarray, items: Sequence[MediaItem]) -> np.ndarray:
        if not items:
            return np.repeat(np.arange(len(ids))[None], 3, 0)
        given = _by_name(items)
        given |= {name: make(given[source]) for name, (source, make) in DERIVED.items() if source in given}
        given["mm_token_type_ids"] = torch.from_numpy(token_type)[None]
        given["attention_mask"] = torch.ones(1, len(ids), dtype=torch.long)
        found, _ = rule(torch.from_numpy(ids)[None], **{name: given[name] for name in names & set(given)})
        return found[:, 0].round().long().numpy()

    return multimodal_positions


def _by_name(items: Sequence[MediaItem]) -> dict[str, Tensor]:
    """The model's inputs for all items, joined where their shapes allow."""
    found: dict[str, list[Tensor]] = {}
    for item in items:
        for name, value in item.features.items():
            found.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in found.items() if len({v.shape[1:] for v in values}) == 1}


def _first_position(model: nn.Module) -> int:
    """The position that a model gives to a first token, as it prepares its own generation."""
    prepare = getattr(model, "prepare_inputs_for_generation", None)
    if prepare is None:
        return 0
    ids = torch.zeros(1, 1, dtype=torch.long)
    prepared = prepare(ids, attention_mask=torch.ones_like(ids), position_ids=torch.zeros_like(ids), use_cache=False)
    found = prepared.get("position_ids")
    return 0 if found is None else int(found.min())


def repeated_media(backbone: nn.Module, inputs: Mapping[str, Any], modalities: Iterable[str]) -> dict[str, Tensor]:
    """The model's own media inputs, repeated for each placement, as the model's processor would give them.

    Args:
        backbone: the model without its head.
        inputs: `media`: modality to groups of features, the items of a group joined along the first axis;
            `media_count`: first-axis lengths of each item's features; `media_order`: the item of each placement, in
            reading order of the rows; `media_rows`: placements of each row.
        modalities: which to give.
    """
    given: dict[str, Tensor] = {}
    for modality in modalities:
        counts, order = inputs["media_count"][modality], inputs["media_order"][modality]
        items = [
            item for group, own in item_groups(inputs["media"][modality], counts) for item in split_items(group, own)
        ]
        given |= {name: joined([items[i][name] for i in order]) for name in items[0] if takes(backbone.forward, name)}
        if SAMPLE_COUNTS in given:
            given[SAMPLE_COUNTS] = torch.tensor([count for count in inputs["media_rows"][modality] if count])
    return given


def shared_media(backbone: nn.Module, inputs: Mapping[str, Any], kept: FeatureCache) -> dict[str, Any]:
    """Media of a batch with each distinct item encoded once, where the model accepts encoded media of its kind.

    Args:
        backbone: the model without its head.
        inputs: see `repeated_media`; `media_key`: the content of each item.
        kept: features of frozen encoders, which need no further pass.
    """
    encoded: dict[str, BaseModelOutputWithPooling] = {}
    for modality, groups in inputs["media"].items():
        encoder = getattr(backbone, MODALITIES[modality].encoder, None)
        if encoder and MODALITIES[modality].encoded_ahead and accepts(backbone.forward, "mm_encoder_outputs"):
            encode = partial(encode_items, encoder, groups, inputs["media_count"][modality])
            items = kept.gather(backbone, modality, inputs["media_key"][modality], encode)
            encoded[modality] = placed(items, inputs["media_order"][modality])
        else:
            kept.not_kept(f"{type(backbone).__name__} takes no {modality} that is encoded ahead", "use another model")
    others = repeated_media(backbone, inputs, [name for name in inputs["media"] if name not in encoded])
    return {**others, **({"mm_encoder_outputs": encoded} if encoded else {})}


def joined(values: Sequence[Tensor]) -> Tensor:
    """Tensors joined along their first axis, the others padded with zeros to the longest, as processors do.

    Example:
        >>> joined([torch.ones(1, 2), torch.ones(1, 3)]).tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    longest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        gaps = [size - own for size, own in zip(longest, value.shape[1:], strict=True)]
        padded.append(nn.functional.pad(value, [n for gap in reversed(gaps) for n in (0, gap)]))
    return torch.cat(padded)
