"""The parts of a `transformers` model that scoring uses, found by what they offer rather than by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from omnipref.policies.autoregressive.encode import Positions, plain_positions, stack_features
from omnipref.policies.autoregressive.media import MODALITIES, MediaItem


def language_model(model: nn.Module) -> nn.Module:
    """The `transformers` model with its head, whatever wraps it (DDP, FSDP, compile, PEFT)."""
    for attribute in ("module", "_orig_mod"):
        if isinstance(inner := getattr(model, attribute, None), nn.Module):
            return language_model(inner)
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,return-value]


def backbone_of(model: nn.Module) -> nn.Module:
    """The model without its head."""
    return language_model(model).base_model  # type: ignore[return-value]


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    return name in inspect.signature(function).parameters


def call_inside(model: nn.Module, function: Callable[[], Any]) -> Any:
    """Run `function` as the forward pass of `model`, so that wrappers (DDP, FSDP, DeepSpeed) see a forward pass."""
    inner = model
    while isinstance(deeper := getattr(inner, "module", None), nn.Module):
        inner = deeper
    if inner is model:
        return function()
    original = inner.forward

    def redirected(*_: Any, **__: Any) -> Any:
        inner.forward = original
        return function()

    inner.forward = redirected
    try:
        return model()
    finally:
        inner.forward = original


def positions_of(model: nn.Module) -> Positions:
    """How a model numbers positions: by its own rule where it has multimodal rotary embeddings, else by counting."""
    rule = getattr(backbone_of(model), "get_rope_index", None)
    if rule is None:
        return plain_positions
    names = set(inspect.signature(rule).parameters)

    def multimodal_positions(ids: np.ndarray, token_type: np.ndarray, items: Sequence[MediaItem]) -> np.ndarray:
        inputs: dict[str, Tensor] = {}
        for modality in MODALITIES:
            own = [item for item in items if item.modality == modality]
            inputs |= {name: value for name, value in (stack_features(own) if own else {}).items() if name in names}
        if not items:
            return np.repeat(np.arange(len(ids))[None], 3, 0)
        found, _ = rule(
            input_ids=torch.from_numpy(ids)[None], mm_token_type_ids=torch.from_numpy(token_type)[None], **inputs
        )
        return found[:, 0].numpy()

    return multimodal_positions


def encode_media(
    backbone: nn.Module, media: Mapping[str, Sequence[Mapping[str, Tensor]]], order: Mapping[str, Sequence[int]]
) -> dict[str, BaseModelOutputWithPooling]:
    """Encode each distinct item once and repeat its features wherever the layout places it.

    Args:
        media: modality to groups of features; the items of a group are joined along the first axis.
        order: modality to the item index of each placement, in reading order of the rows.
    """
    found = {}
    for modality, groups in media.items():
        encoder = getattr(backbone, MODALITIES[modality].encoder)
        features: list[Tensor] = []
        for group in groups:
            features += list(encoder(**group, return_dict=True).pooler_output)
        found[modality] = BaseModelOutputWithPooling(pooler_output=[features[i] for i in order[modality]])  # type: ignore[arg-type]
    return found
