"""Who sees whom: windows and two-way blocks of a model, found by asking its own mask function, and masks of forests."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from omnipref.policies.autoregressive.encode import EncodedCase

LIMITS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Layer type to the configuration's name of its reach in tokens."""
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
Mask = TypeVar("Mask")


class Blocks(Protocol):
    """Which tokens of a case see each other in both directions."""

    def number(self, case: EncodedCase) -> np.ndarray:
        """Block of each token, `[L]`; -1 for tokens that see only what stands before them."""
        ...

    def token_type(self, case: EncodedCase) -> np.ndarray:
        """What the model's forward pass takes as token types, `[L]`."""
        ...


@dataclass(frozen=True)
class Causal:
    """No block: every token sees what stands before it."""

    def number(self, case: EncodedCase) -> np.ndarray:
        """-1 throughout."""
        return np.full(case.length, -1)

    def token_type(self, case: EncodedCase) -> np.ndarray:
        """0 for text, the modality's number for media."""
        return case.token_type


@dataclass(frozen=True)
class MediaBlocks:
    """Every unbroken stretch of media tokens is a block."""

    def number(self, case: EncodedCase) -> np.ndarray:
        """Counts the stretches from 0."""
        media = case.token_type > 0
        starts = media & ~np.concatenate([[False], media[:-1]])
        return np.where(media, starts.cumsum() - 1, -1)

    def token_type(self, case: EncodedCase) -> np.ndarray:
        """0 for text, the modality's number for media."""
        return case.token_type


@dataclass(frozen=True)
class PromptBlock:
    """The whole prompt is one block."""

    def number(self, case: EncodedCase) -> np.ndarray:
        """0 in the prompt."""
        return np.where(np.arange(case.length) < len(case.prompt.ids), 0, -1)

    def token_type(self, case: EncodedCase) -> np.ndarray:
        """0 for the prompt, 1 for the response."""
        return (np.arange(case.length) >= len(case.prompt.ids)).astype(np.int64)


@dataclass(frozen=True)
class Attention:
    """How a model's attention departs from plain causal attention.

    Args:
        blocks: what sees each other in both directions.
        window_limits_blocks: whether a sliding window also cuts what a token sees of its block.
    """

    blocks: Blocks = Causal()
    window_limits_blocks: bool = False

    def identity(self, case: EncodedCase) -> np.ndarray:
        """What each token's state depends on besides the tokens before it, `[L]`.

        The first token of a block stands for the whole block, so that cases share a block entirely or not at all.
        """
        identity, number = case.identity, self.blocks.number(case)
        for block in range(number.max(initial=-1) + 1):
            places = np.flatnonzero(number == block)
            digest = hashlib.sha256(np.ascontiguousarray(identity[places]).tobytes()).digest()
            identity[places[0]] = 2**61 + int.from_bytes(digest[:7], "little")  # beyond all token ids
        return identity


def attention_of(model: nn.Module) -> Attention:
    """Ask a model's own mask function for the blocks that token types make.

    Args:
        model: the `transformers` model with its head.
    """
    function = getattr(model, "create_masks_for_generate", None)
    names = set(inspect.signature(function).parameters) if function else set()
    if not names & set(TOKEN_TYPES):
        return Attention()
    config = deepcopy(model.config)
    config.get_text_config()._attn_implementation = "sdpa"  # type: ignore[union-attr,operator]
    text = config.get_text_config()  # type: ignore[union-attr,operator]
    if getattr(text, "sliding_window", None):
        text.sliding_window = 1
    types = torch.tensor([[0, 1, 1, 0]])
    given = {
        "config": config,
        "inputs_embeds": torch.zeros(1, types.shape[1], 1),
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": None,
        "is_first_iteration": True,
        **dict.fromkeys(TOKEN_TYPES, types),
    }
    found = function(**{name: value for name, value in given.items() if name in names})  # type: ignore[misc]
    masks = [mask for mask in (found.values() if isinstance(found, dict) else [found]) if mask is not None]
    sees_QK = torch.stack([mask[0, 0] for mask in masks]) if masks else torch.zeros(1, 4, 4, dtype=torch.bool)
    if sees_QK[:, 0, 3].any():
        return Attention(PromptBlock(), not bool(sees_QK[:, 3, 0].all()))
    return Attention(MediaBlocks(), not bool(sees_QK[:, 2, 1].all())) if sees_QK[:, 1, 2].any() else Attention()


def layer_types(config: Any) -> tuple[str, ...]:
    """The kinds of attention layers of a text configuration, without repeats."""
    named = getattr(config, "layer_types", None)
    if named:
        return tuple(dict.fromkeys(named))
    return tuple(kind for kind, name in LIMITS.items() if getattr(config, name, None)) or ("full_attention",)


def reaches(config: Any) -> dict[str, int | None]:
    """Reach in tokens of each kind of layer; None for no limit."""
    return {kind: getattr(config, LIMITS[kind], None) if kind in LIMITS else None for kind in layer_types(config)}


def forest_masks(
    attention: Attention, config: Any, inputs: Mapping[str, Any], dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Additive masks `[B, 1, T, T]` of a token forest: one for all layers, or by kind of layer where these differ.

    A token sees the tokens before it on its own path, itself, and all of its block.

    Args:
        attention: the model's blocks.
        config: its text configuration, which names the layers' reaches.
        inputs: `run_BT`, `ancestor_BGG`, `depth_BT`, `block_BT` and the longest depth, `longest`.
        dtype: of the mask.
    """
    run_BT, depth_BT, block_BT = inputs["run_BT"], inputs["depth_BT"], inputs["block_BT"]
    width = run_BT.shape[1]
    rows = torch.arange(len(run_BT), device=run_BT.device)[:, None, None]
    on_path = inputs["ancestor_BGG"][rows, run_BT[:, :, None], run_BT[:, None, :]]
    before = on_path & torch.ones(width, width, dtype=torch.bool, device=run_BT.device).tril()
    together = (_both(run_BT) & _both(block_BT) & (block_BT >= 0)[:, :, None]) if inputs["blocks"] else None

    def mask(kind: str, reach: int | None) -> Tensor:
        sees = visible(attention, kind, reach, before, depth_BT[:, :, None], depth_BT[:, None, :], together)
        lowest = torch.finfo(dtype).min
        return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, lowest)[:, None]

    return by_kind(config, inputs["longest"], mask)


def by_kind(config: Any, longest: int, mask: Callable[[str, int | None], Mask]) -> Mask | dict[str, Mask]:
    """One mask for all layers, or one by kind of layer where their reaches differ and matter.

    Args:
        config: the text configuration.
        longest: tokens of the longest case; a longer reach is none.
        mask: from kind and reach to a mask.
    """
    shorter = {kind: reach if reach and reach < longest else None for kind, reach in reaches(config).items()}
    if len(set(shorter.values())) == 1:
        return mask(*next(iter(shorter.items())))
    return {kind: mask(kind, reach) for kind, reach in shorter.items()}


def visible(
    attention: Attention,
    kind: str,
    reach: int | None,
    before: Tensor,
    far: Tensor,
    near: Tensor,
    together: Tensor | None,
) -> Tensor:
    """Which keys each query sees, bool, in the broadcast shape of the arguments.

    Args:
        attention: the model's blocks.
        kind: of the layer.
        reach: of the layer, in tokens; None for no limit.
        before: whether the key stands before the query on its path, or is the query.
        far: depth of each query.
        near: depth of each key.
        together: whether both stand in one two-way block; None without blocks.
    """
    sees = before
    if reach and kind == "chunked_attention":
        sees = sees & (far // reach == near // reach)
    if together is not None and attention.window_limits_blocks:
        sees = sees | together
    if reach and kind == "sliding_attention":
        sees = sees & (far - near < reach)
    if together is not None and not attention.window_limits_blocks:
        sees = sees | together
    return sees


def _both(value_BT: Tensor) -> Tensor:
    return value_BT[:, :, None] == value_BT[:, None, :]
