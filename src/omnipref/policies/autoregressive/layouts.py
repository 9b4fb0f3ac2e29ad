"""Two ways to lay cases out for a model: one row per case (the reference), or a token forest.

Both give the same log-probabilities; a layout only decides which tokens share work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from omnipref.policies.autoregressive.attention import TOKEN_TYPES, Attention, forest_masks
from omnipref.policies.autoregressive.backbone import accepts, repeated_media, shared_media
from omnipref.policies.autoregressive.encode import EncodedCase, EncodedPreference, media_of_cases, stack_features
from omnipref.policies.autoregressive.feature_cache import FeatureCache
from omnipref.policies.autoregressive.flex import FLEX_ATTENTION, block_masks
from omnipref.policies.autoregressive.forest import Layout, Tree, grow, lay_out, row_tokens_of
from omnipref.policies.autoregressive.last_block import read_at
from omnipref.policies.autoregressive.media import MODALITIES
from omnipref.policies.autoregressive.tree_attention import TREE_ATTENTION, tree_masks

ONE_ROW = 2**62
"""A row length that puts all preferences of a batch into one row."""
MASKS: Mapping[str, Callable[..., Any]] = {TREE_ATTENTION: tree_masks, FLEX_ATTENTION: block_masks}
"""How a forest's structure is told to an attention implementation; others get dense masks."""


class CaseLayout(Protocol):
    """Lays cases out as rows of tokens and runs a backbone over them."""

    @property
    def apart(self) -> bool:
        """Whether prompt and response are tokenised as two texts."""
        ...

    def tokens(self, preferences: Sequence[EncodedPreference]) -> int:
        """Tokens of all rows, padding included."""
        ...

    def inputs(self, preferences: Sequence[EncodedPreference], pad: int) -> dict[str, Any]:
        """All tensors of a batch: rows of tokens padded with `pad`, and the scored places."""
        ...

    def hidden(self, backbone: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Last hidden states of all tokens, `[B, T, D]`."""
        ...


class TreeLayout(Protocol):
    """A layout of decoder-only models: cases as token trees."""

    @property
    def attention(self) -> Attention:
        """How the model's attention departs from plain causal attention."""
        ...

    @property
    def row_tokens(self) -> int:
        """Fill rows up to this many tokens; 0 gives each tree a row."""
        ...

    def trees(self, preferences: Sequence[EncodedPreference]) -> list[Tree]:
        """The token trees whose union covers all cases, in the order of cases."""
        ...


@dataclass(frozen=True)
class Rows:
    """One row per case, padded on the right; the model's own masks, positions and media handling.

    Args:
        row_tokens: rows hold one case each.
        attention: the model's blocks; `attention_of(model)`.
    """

    row_tokens: int = 0
    attention: Attention = field(default_factory=Attention)

    def trees(self, preferences: Sequence[EncodedPreference]) -> list[Tree]:
        """A tree of its own for each case."""
        return [grow([case.identity]) for preference in preferences for case in preference.cases]

    @property
    def apart(self) -> bool:
        """False: the response continues the prompt."""
        return False

    def tokens(self, preferences: Sequence[EncodedPreference]) -> int:
        """Tokens of all rows, padding included."""
        return row_tokens_of([tree.size for tree in self.trees(preferences)], self.row_tokens)

    def inputs(self, preferences: Sequence[EncodedPreference], pad: int) -> dict[str, Any]:
        """All tensors of a batch, see `batch_inputs`."""
        return batch_inputs(self, preferences, pad)

    def hidden(self, backbone: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """The stock forward pass; an item that occurs in several rows is encoded for each."""
        types = {name: inputs["token_type_BT"] for name in TOKEN_TYPES if accepts(backbone.forward, name)}
        return backbone(
            input_ids=inputs["ids_BT"],
            attention_mask=(inputs["valid_BT"]).long(),
            use_cache=False,
            **types,
            **repeated_media(backbone, inputs, inputs["media"]),
        ).last_hidden_state


@dataclass(frozen=True)
class Forest:
    """Cases of a preference share their prefixes; every distinct medium is encoded once.

    Args:
        row_tokens: put several preferences into one row, up to this many tokens; 0 gives each its own row.
        attention: the model's blocks; `attention_of(model)`.
        features: of frozen encoders, kept for further passes.
    """

    row_tokens: int = 0
    attention: Attention = field(default_factory=Attention)
    features: FeatureCache = field(default_factory=FeatureCache, compare=False, repr=False)

    def trees(self, preferences: Sequence[EncodedPreference]) -> list[Tree]:
        """One tree per preference."""
        return [grow([self.attention.identity(case) for case in preference.cases]) for preference in preferences]

    @property
    def apart(self) -> bool:
        """False: the response continues the prompt."""
        return False

    def tokens(self, preferences: Sequence[EncodedPreference]) -> int:
        """Tokens of all rows, padding included."""
        return row_tokens_of([tree.size for tree in self.trees(preferences)], self.row_tokens)

    def inputs(self, preferences: Sequence[EncodedPreference], pad: int) -> dict[str, Any]:
        """All tensors of a batch, see `batch_inputs`."""
        return batch_inputs(self, preferences, pad)

    def hidden(self, backbone: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """A forward pass with a tree attention mask and explicit positions.

        States are whole at the places of `read_M` alone, or everywhere where it is None, see `last_block.read_at`.
        """
        position = inputs["position_RBT"]
        config = backbone.config.get_text_config()  # type: ignore[union-attr,operator]
        masks = MASKS.get(config._attn_implementation, forest_masks)
        with read_at(backbone, inputs["read_M"], inputs["ids_BT"].shape):
            return backbone(
                input_ids=inputs["ids_BT"],
                attention_mask=masks(self.attention, config, inputs, next(backbone.parameters()).dtype),
                position_ids=position[0] if len(position) == 1 else position,
                use_cache=False,
                **shared_media(backbone, inputs, self.features),
            ).last_hidden_state


def batch_inputs(layout: TreeLayout, preferences: Sequence[EncodedPreference], pad: int) -> dict[str, Any]:
    """All tensors of a batch: token rows, structure, scored places, media and where they stand."""
    cases = [case for preference in preferences for case in preference.cases]
    placed = lay_out(
        layout.trees(preferences),
        [len(case.prompt.ids) for case in cases],
        [case.length for case in cases],
        layout.row_tokens,
    )
    valid = placed.case_BT >= 0
    ids = _gather(placed, [case.ids for case in cases], pad)
    units = placed.predictor_NU.shape[1]
    mask = np.arange(units)[None] < placed.length_N[:, None]
    target = np.where(mask, [_row(case.ids, row) for case, row in zip(cases, placed.target_NU, strict=True)], 0)
    blocks = layout.attention.blocks
    block = [blocks.number(case) for case in cases]
    segment = [np.concatenate([np.zeros(len(case.prompt.ids), dtype=np.int64), case.segment]) for case in cases]
    arrays = {
        "ids_BT": ids,
        "valid_BT": valid,
        "count_BT": placed.count_BT,
        "token_type_BT": _gather(placed, [blocks.token_type(case) for case in cases], 0),
        "block_BT": _gather(placed, block, -1),
        "depth_BT": placed.depth_BT,
        "run_BT": placed.run_BT,
        "ancestor_BGG": placed.ancestor_BGG,
        "position_RBT": np.stack(
            [_gather(placed, [case.position[r] for case in cases], 0) for r in range(len(cases[0].position))]
        ),
        "predictor_NU": placed.predictor_NU,
        "own_NU": placed.own_NU,
        "target_NU": target,
        "mask_NU": mask,
        "read_M": np.unique(np.concatenate([placed.predictor_NU[mask], placed.own_NU[mask]])),
        "segment_NU": np.where(mask, [_row(line, row) for line, row in zip(segment, placed.target_NU, strict=True)], 0),
    }
    inputs: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    inputs["spans"] = placed.spans
    inputs |= {"longest": int(placed.depth_BT.max()) + 1, "blocks": any((number >= 0).any() for number in block)}
    inputs["case_keys"] = tuple(case.key for case in cases)
    return inputs | _media(placed, cases)


def _row(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    return values[np.minimum(places, len(values) - 1)]


def _gather(placed: Layout, values: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """Copy per-case values to the rows, `[B, T]`."""
    starts = np.cumsum([0, *(len(value) for value in values)])
    there = placed.case_BT >= 0
    found = np.full(there.shape, fill, dtype=np.int64)
    found[there] = np.concatenate(values)[starts[placed.case_BT[there]] + placed.depth_BT[there]]
    return found


def _media(placed: Layout, cases: Sequence[EncodedCase]) -> dict[str, Any]:
    """Distinct media, joined in groups of one shape, and the item of each placement in reading order, by row."""
    items = list(media_of_cases(cases).values())
    identity = _gather(placed, [case.identity for case in cases], 0)
    code = np.where(identity < 0, -identity - 1, 1)
    starts = [(line[line % 2**20 == 0] // 2**20).tolist() for line in code]
    found: dict[str, dict[str, Any]] = {
        "media": {},
        "media_order": {},
        "media_rows": {},
        "media_count": {},
        "media_key": {},
    }
    for modality in MODALITIES:
        own = [item for item in items if item.modality == modality]
        if not own:
            continue
        shapes: dict[tuple, list[int]] = {}
        for number, item in enumerate(own):
            shapes.setdefault(tuple((v.shape[1:], v.dtype) for v in item.features.values()), []).append(number)
        sequence = [number for group in shapes.values() for number in group]
        place = {int(own[number].key[:10], 16): index for index, number in enumerate(sequence)}
        rows = [[place[content] for content in line if content in place] for line in starts]
        found["media"][modality] = [stack_features([own[number] for number in group]) for group in shapes.values()]
        found["media_order"][modality] = [number for row in rows for number in row]
        found["media_rows"][modality] = [len(row) for row in rows]
        found["media_key"][modality] = [own[number].content for number in sequence]
        found["media_count"][modality] = [{k: len(v) for k, v in own[number].features.items()} for number in sequence]
    return found
