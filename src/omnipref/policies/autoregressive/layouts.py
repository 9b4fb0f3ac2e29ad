"""Two ways to lay cases out for a model: one row per case (the reference), or a token forest.

Both give the same log-probabilities; a layout only decides which tokens share work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from omnipref.policies.autoregressive.backbone import accepts, encode_media
from omnipref.policies.autoregressive.encode import EncodedCase, EncodedPreference, media_of_cases, stack_features
from omnipref.policies.autoregressive.forest import Layout, Tree, grow, lay_out
from omnipref.policies.autoregressive.media import MODALITIES


class CaseLayout(Protocol):
    """Lays cases out as rows of tokens and runs a backbone over them."""

    def trees(self, preferences: Sequence[EncodedPreference]) -> list[Tree]:
        """The token trees whose union covers all cases, in the order of cases."""
        ...

    def hidden(self, backbone: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Last hidden states of all tokens, `[B, T, D]`."""
        ...

    @property
    def row_tokens(self) -> int:
        """Fill rows up to this many tokens; 0 gives each tree a row."""
        ...


@dataclass(frozen=True)
class Rows:
    """One row per case, padded on the right; the model's own masks, positions and media handling."""

    row_tokens: int = 0

    def trees(self, preferences: Sequence[EncodedPreference]) -> list[Tree]:
        """A tree of its own for each case."""
        return [grow([case.identity]) for preference in preferences for case in preference.cases]

    def hidden(self, backbone: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """The stock forward pass; an item that occurs in several rows is encoded for each."""
        features: dict[str, Tensor] = {}
        for modality, groups in inputs["media"].items():
            items = [item for group in groups for item in _split(group, inputs["media_count"][modality])]
            placed = [items[i] for i in inputs["media_order"][modality]]
            features |= {name: torch.cat([item[name] for item in placed]) for name in placed[0]}
        if accepts(backbone.forward, "mm_token_type_ids"):
            features["mm_token_type_ids"] = inputs["token_type_BT"]
        return backbone(
            input_ids=inputs["ids_BT"], attention_mask=(inputs["valid_BT"]).long(), use_cache=False, **features
        ).last_hidden_state


@dataclass(frozen=True)
class Forest:
    """Cases of a preference share their prefixes; every distinct medium is encoded once.

    Args:
        row_tokens: put several preferences into one row, up to this many tokens; 0 gives each its own row.
    """

    row_tokens: int = 0

    def trees(self, preferences: Sequence[EncodedPreference]) -> list[Tree]:
        """One tree per preference."""
        return [grow([case.identity for case in preference.cases]) for preference in preferences]

    def hidden(self, backbone: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """A forward pass with a tree attention mask and explicit positions."""
        media = {"mm_encoder_outputs": encode_media(backbone, inputs["media"], inputs["media_order"])}
        position = inputs["position_RBT"]
        return backbone(
            input_ids=inputs["ids_BT"],
            attention_mask=tree_mask(inputs["run_BT"], inputs["ancestor_BGG"], next(backbone.parameters()).dtype),
            position_ids=position[0] if len(position) == 1 else position,
            use_cache=False,
            **(media if inputs["media"] else {}),
        ).last_hidden_state


def tree_mask(run_BT: Tensor, ancestor_BGG: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask `[B, 1, T, T]`: a token sees the tokens before it on its own path, and itself."""
    width = run_BT.shape[1]
    rows = torch.arange(len(run_BT), device=run_BT.device)[:, None, None]
    on_path = ancestor_BGG[rows, run_BT[:, :, None], run_BT[:, None, :]]
    earlier = torch.ones(width, width, dtype=torch.bool, device=run_BT.device).tril()
    mask = torch.zeros(on_path.shape, dtype=dtype, device=run_BT.device)
    return mask.masked_fill_(~(on_path & earlier), torch.finfo(dtype).min)[:, None]


def _split(group: Mapping[str, Tensor], counts: Sequence[int]) -> list[dict[str, Tensor]]:
    """Undo the joining of a group of features."""
    pieces = {name: value.split([count[name] for count in counts]) for name, value in group.items()}  # type: ignore[index]
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(len(counts))]


def batch_inputs(layout: CaseLayout, preferences: Sequence[EncodedPreference], pad: int) -> dict[str, Any]:
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
    segment = [np.concatenate([np.zeros(len(case.prompt.ids), dtype=np.int64), case.segment]) for case in cases]
    arrays = {
        "ids_BT": ids,
        "valid_BT": valid,
        "token_type_BT": _gather(placed, [case.token_type for case in cases], 0),
        "run_BT": placed.run_BT,
        "ancestor_BGG": placed.ancestor_BGG,
        "position_RBT": np.stack(
            [_gather(placed, [case.position[r] for case in cases], 0) for r in range(len(cases[0].position))]
        ),
        "predictor_NU": placed.predictor_NU,
        "target_NU": target,
        "mask_NU": mask,
        "segment_NU": np.where(mask, [_row(line, row) for line, row in zip(segment, placed.target_NU, strict=True)], 0),
    }
    inputs: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return inputs | _media(placed, cases)


def _row(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    return values[np.minimum(places, len(values) - 1)]


def _gather(placed: Layout, values: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """Copy per-case values to the rows, `[B, T]`."""
    found = np.full(placed.case_BT.shape, fill, dtype=np.int64)
    for case, value in enumerate(values):
        here = placed.case_BT == case
        found[here] = value[placed.depth_BT[here]]
    return found


def _media(placed: Layout, cases: Sequence[EncodedCase]) -> dict[str, Any]:
    """Distinct media, joined in groups of one shape, and the item index of each placement in reading order."""
    items = list(media_of_cases(cases).values())
    identity = _gather(placed, [case.identity for case in cases], 0)
    code = -identity[identity < 0] - 1
    contents = (code[code % 2**20 == 0] // 2**20).tolist()
    media: dict[str, list[dict[str, Tensor]]] = {}
    order: dict[str, list[int]] = {}
    counts: dict[str, list[dict[str, int]]] = {}
    for modality in MODALITIES:
        own = [item for item in items if item.modality == modality]
        if not own:
            continue
        shapes: dict[tuple, list[int]] = {}
        for number, item in enumerate(own):
            shapes.setdefault(tuple(v.shape[1:] for v in item.features.values()), []).append(number)
        sequence = [number for group in shapes.values() for number in group]
        place = {int(own[number].key[:10], 16): index for index, number in enumerate(sequence)}
        media[modality] = [stack_features([own[number] for number in group]) for group in shapes.values()]
        order[modality] = [place[content] for content in contents if content in place]
        counts[modality] = [{name: len(v) for name, v in own[number].features.items()} for number in sequence]
    return {"media": media, "media_order": order, "media_count": counts}
