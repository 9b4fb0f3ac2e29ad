"""Small trials on a loaded model: whether it scores token forests, and whether its head is what it seems."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from omnipref.errors import CapabilityError, OmniprefError
from omnipref.policies.autoregressive.attention import LIMITS, attention_of, layer_types, reaches
from omnipref.policies.autoregressive.backbone import (
    accepts,
    backbone_of,
    is_encoder_decoder,
    language_model,
    positions_of,
)
from omnipref.policies.autoregressive.encode import EncodedCase, EncodedPreference, EncodedPrompt, encode
from omnipref.policies.autoregressive.encoder_decoder import states_of
from omnipref.policies.autoregressive.head import head_of
from omnipref.policies.autoregressive.layouts import Forest, Rows, batch_inputs
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.autoregressive.prompts import TextOwner
from omnipref.policies.cases import align
from omnipref.policies.policy import Batch
from omnipref.policies.reference import evaluating
from omnipref.preferences import Case, Comparison, Message, Part, Preference, pair

logger = logging.getLogger(__name__)


def text_config(model: nn.Module) -> Any:
    """The part of a model's configuration that is about text."""
    return language_model(model).config.get_text_config()  # type: ignore[union-attr,operator]


def why_no_forest(model: nn.Module, max_length: int | None = None, owner: TextOwner | None = None) -> str | None:
    """Why a model cannot score token forests, or None: what it lacks, or a difference on a small trial.

    Args:
        model: as loaded.
        max_length: longest case in tokens, None for no limit.
        owner: its processor; with it, pictures are tried too.
    """
    inner, backbone = language_model(model), backbone_of(model)
    if is_encoder_decoder(inner):
        return f"{type(inner).__name__} is an encoder-decoder"
    strange = sorted(set(layer_types(text_config(model))) - {"full_attention", *LIMITS})
    if getattr(inner, "_is_stateful", False) or strange:
        kinds = f" (layers: {', '.join(strange)})" if strange else ""
        return f"{type(inner).__name__} is recurrent: its state cannot branch{kinds}"
    for name in ("attention_mask", "position_ids"):
        if not accepts(backbone.forward, name):
            return f"{type(backbone).__name__} takes no {name}"
    if accepts(backbone.forward, "cross_attention_mask"):
        return f"{type(backbone).__name__} looks at pictures through cross-attention, whose masks cannot branch"
    return _difference(model, _small_pair(model)) or _short_window(model, max_length) or _pictures(model, owner)


def _short_window(model: nn.Module, max_length: int | None) -> str | None:
    """Try with the reach of windows and chunks narrowed, so that a short trial goes beyond it."""
    config = text_config(model)
    found = {LIMITS[kind]: reach for kind, reach in reaches(config).items() if reach}
    shortest = min(found.values(), default=None)
    if shortest is None or (max_length is not None and max_length <= shortest):
        return None
    try:
        for name in found:
            setattr(config, name, 3)
        reason = _difference(model, _small_pair(model))
    finally:
        for name, reach in found.items():
            setattr(config, name, reach)
    cure = f"its sliding window of {shortest} tokens is shorter than the longest case; set --max-length {shortest}"
    return f"{cure} ({reason})" if reason else None


def _pictures(model: nn.Module, owner: TextOwner | None) -> str | None:
    """Try one answer to one question about two pictures, where the processor takes pictures."""
    if getattr(owner, "image_token", None) is None or not hasattr(backbone_of(model), "get_image_features"):
        return None
    noise = np.random.default_rng(0).integers(0, 255, (2, 32, 48, 3), dtype=np.uint8)
    contexts = [(Message("raw", (Part("image", Image.fromarray(each)), Part("text", "what? "))),) for each in noise]
    answer = (Message.of("raw", "this"),)
    cases = {role: Case(context, answer) for role, context in zip(("chosen", "rejected"), contexts, strict=True)}
    try:
        encoded = encode(owner, Preference(cases, (Comparison(*cases),)), positions_of(model))  # type: ignore[arg-type]
    except (OmniprefError, ValueError, TypeError, KeyError, RuntimeError) as error:
        logger.info("no trial with pictures: %s", error)
        return None
    return _difference(model, encoded)


@torch.no_grad()
def _difference(model: nn.Module, encoded: EncodedPreference) -> str | None:
    """Score one small preference both ways; None where both agree."""
    found = []
    device, attention = next(model.parameters()).device, attention_of(language_model(model))
    with evaluating(model):
        for layout in (Rows(attention=attention), Forest(attention=attention)):
            policy = AutoregressivePolicy(owner=None, layout=layout)  # type: ignore[arg-type]
            batch = Batch(align([encoded.preference]), batch_inputs(layout, [encoded], 0)).to(device)
            try:
                found.append(policy.score(model, batch).logp)
            except (AttributeError, CapabilityError, TypeError, ValueError, RuntimeError) as error:
                return f"{type(error).__name__} on a trial of {type(layout).__name__}: {error}"
    difference = float((found[0] - found[1]).abs().max())
    same = difference <= _tolerance(model)
    return None if same else f"a trial differed from separate rows by {difference:.3g} nats"


def _tolerance(model: nn.Module) -> float:
    """Nats by which two ways to compute a log-probability may differ: wrong masks and heads differ by far more."""
    return max(0.05, 32 * torch.finfo(next(model.parameters()).dtype).eps)


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """Compare the model's own logits with those of its head on its last hidden states.

    Raises:
        CapabilityError: they differ, so that scores would be wrong.
    """
    inner = language_model(model)
    ids = torch.from_numpy(_small_pair(model).cases[0].ids)[None].to(next(model.parameters()).device)
    apart = f"{type(inner).__name__} does not part into a body and a head, so it cannot be scored"
    with evaluating(model):
        try:
            states, given = _trial_states(model, ids)
        except (AttributeError, TypeError, ValueError) as error:
            raise CapabilityError(f"{apart} ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error
        own = inner(input_ids=ids, use_cache=False, **given).logits[0].log_softmax(-1)
    if not isinstance(states, torch.Tensor):
        raise CapabilityError(apart)
    ours = head_of(inner)(states[0]).log_softmax(-1)
    difference = float((own - ours).abs().max())
    if not difference <= _tolerance(model):
        raise CapabilityError(
            f"{type(inner).__name__} does something to its logits that its configuration does not tell "
            f"(difference {difference:.3g} nats), so its answers cannot be scored"
        )


def _trial_states(model: nn.Module, ids: torch.Tensor) -> tuple[Any, dict[str, Any]]:
    """Last hidden states on some tokens, and what else the model's own forward pass needs to be at them."""
    backbone: Any = backbone_of(model)
    if not is_encoder_decoder(model):
        return getattr(backbone(input_ids=ids, use_cache=False), "last_hidden_state", None), {}
    read = states_of(backbone.get_encoder(), ids)
    return states_of(backbone.get_decoder(), ids, encoder_hidden_states=read), {"decoder_input_ids": ids}


def _small_pair(model: nn.Module) -> EncodedPreference:
    """Two answers to one prompt of arbitrary text tokens; ids of media placeholders would ask for media."""
    vocabulary = language_model(model).get_input_embeddings().weight.shape[0]  # type: ignore[operator,union-attr]
    config = language_model(model).config
    special = {value for name, value in vars(config).items() if name.endswith(("token_id", "token_index"))}
    draw = np.array([t for t in np.random.default_rng(0).integers(0, vocabulary, 40) if int(t) not in special])
    zeros = np.zeros(8, dtype=np.int64)
    prompt = EncodedPrompt(draw[:4], draw[:4].copy(), zeros[:4], ())
    positions = positions_of(model)
    cases = []
    for response in (draw[4:7], draw[7:10]):
        ids = np.concatenate([prompt.ids, response])
        cases.append(EncodedCase(prompt, response, zeros[: len(response)], positions(ids, zeros[: len(ids)], ())))
    return EncodedPreference(pair("", "-", "-"), tuple(cases))
