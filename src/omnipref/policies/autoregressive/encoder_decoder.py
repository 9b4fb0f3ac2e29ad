"""The layout of encoder-decoders: every distinct prompt is read once, and every case decodes its response beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive.encode import EncodedPreference


@dataclass(frozen=True)
class EncoderDecoder:
    """One decoder row per case; cases of one prompt look at one encoding of it.

    Args:
        start: id of the token that a decoder begins with.

    Raises:
        CapabilityError: where preferences are laid out, a prompt holds media.
    """

    start: int

    @property
    def apart(self) -> bool:
        """True: prompt and response are two texts."""
        return True

    def tokens(self, preferences: Sequence[EncodedPreference]) -> int:
        """Tokens of the encoder's and the decoder's rows, padding included."""
        prompts, _ = _distinct(preferences)
        responses = [len(case.response) for preference in preferences for case in preference.cases]
        return len(prompts) * _width(prompts, max(responses)) + len(responses) * (1 + max(responses))

    def inputs(self, preferences: Sequence[EncodedPreference], pad: int) -> dict[str, Any]:
        """Prompts `[E, S]`, decoder rows `[N, 1 + U]`, the prompt of each row, and the scored places."""
        cases = [case for preference in preferences for case in preference.cases]
        with_media = [each.preference.record for each in preferences if any(case.prompt.items for case in each.cases)]
        if with_media:
            raise CapabilityError(
                f"found media in the prompts of records {with_media}; of encoder-decoders only text is scored. To "
                "mend: use a decoder-only model that reads media, or leave these records out"
            )
        prompts, which = _distinct(preferences)
        target = _padded([case.response for case in cases], 0)
        units = target.shape[1]
        column = np.arange(units)[None]
        mask = column < np.array([[len(case.response)] for case in cases])
        first = np.full((len(cases), 1), self.start)
        width = _width(prompts, units)
        arrays = {
            "prompt_ES": _padded(prompts, pad, width),
            "prompt_valid_ES": np.arange(width)[None] < np.array([[len(each)] for each in prompts]),
            "prompt_N": which,
            "ids_BT": np.concatenate([first, np.where(mask, target, pad)], 1),
            "count_BT": np.concatenate([np.ones_like(first), mask], 1),
            "predictor_NU": np.where(mask, np.arange(len(cases))[:, None] * (units + 1) + column, 0),
            "own_NU": np.where(mask, np.arange(len(cases))[:, None] * (units + 1) + column + 1, 0),
            "target_NU": target,
            "mask_NU": mask,
            "segment_NU": _padded([case.segment for case in cases], 0),
        }
        found: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
        return found | {"case_keys": tuple(case.key for case in cases)}

    def hidden(self, backbone: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Last hidden states of the decoder's rows, `[N, 1 + U, D]`."""
        read = states_of(backbone.get_encoder(), inputs["prompt_ES"], attention_mask=inputs["prompt_valid_ES"].long())  # type: ignore[operator]
        return states_of(
            backbone.get_decoder(),  # type: ignore[operator]
            inputs["ids_BT"],
            attention_mask=(inputs["count_BT"] > 0).long(),
            encoder_hidden_states=read[inputs["prompt_N"]],
            encoder_attention_mask=inputs["prompt_valid_ES"][inputs["prompt_N"]].long(),
        )


def states_of(part: Any, ids: Tensor, **given: Any) -> Tensor:
    """Last hidden states of an encoder or a decoder, `[B, T, D]`.

    Args:
        part: the module.
        ids: token ids, `[B, T]`.
        given: its further arguments.
    """
    return part(input_ids=ids, use_cache=False, **given).last_hidden_state


def start_of(model: nn.Module) -> int:
    """The token that a model's decoder begins with.

    Raises:
        CapabilityError: neither the model's configuration nor its generation settings tell.
    """
    settings = (getattr(model, "generation_config", None), model.config)
    found = (getattr(each, name, None) for name in ("decoder_start_token_id", "bos_token_id") for each in settings)
    start = next((each for each in found if isinstance(each, int)), None)
    if start is None:
        raise CapabilityError(
            f"{type(model).__name__} does not tell what its decoder begins with. To mend: set "
            "`decoder_start_token_id` in its generation_config.json"
        )
    return start


def _distinct(preferences: Sequence[EncodedPreference]) -> tuple[list[np.ndarray], np.ndarray]:
    """The distinct prompts, in order of first appearance, and the prompt of each case."""
    places: dict[bytes, int] = {}
    prompts, which = [], []
    for case in (case for preference in preferences for case in preference.cases):
        ids = case.prompt.ids
        if places.setdefault(ids.tobytes(), len(prompts)) == len(prompts):
            prompts.append(ids)
        which.append(places[ids.tobytes()])
    return prompts, np.array(which)


def _width(prompts: Sequence[np.ndarray], units: int) -> int:
    """Columns of the prompts: never those of the decoder, so that the states of both are told apart by their shape."""
    longest = max(map(len, prompts))
    return longest + (longest == 1 + units)


def _padded(rows: Sequence[np.ndarray], fill: int, width: int = 0) -> np.ndarray:
    found = np.full((len(rows), width or max(map(len, rows))), fill, dtype=np.int64)
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
    return found
