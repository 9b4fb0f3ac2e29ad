"""Load a model, its tokenizer or processor, and the policy that fits what the model can do."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
)

from omnipref.errors import CapabilityError, ConfigError
from omnipref.policies.autoregressive.backbone import accepts, backbone_of, language_model, positions_of
from omnipref.policies.autoregressive.encode import EncodedCase, EncodedPreference, EncodedPrompt
from omnipref.policies.autoregressive.layouts import CaseLayout, Forest, Rows, batch_inputs
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.autoregressive.prompts import TextOwner
from omnipref.policies.cases import align
from omnipref.policies.policy import Batch
from omnipref.policies.reference import evaluating
from omnipref.preferences import pair

LAYOUTS: dict[str, type[Forest] | type[Rows]] = {"forest": Forest, "rows": Rows}

logger = logging.getLogger(__name__)


def load_model(name_or_path: str, **options: Any) -> nn.Module:
    """Load the model that answers in text, by what its configuration is registered for.

    Args:
        name_or_path: folder or hub name.
        options: further arguments of `from_pretrained`, such as `dtype` or `attn_implementation`.

    Raises:
        ConfigError: there is no such model, or it does not generate text from a decoder.
    """
    trust = {"trust_remote_code": options.get("trust_remote_code", False)}
    try:
        config = AutoConfig.from_pretrained(name_or_path, **trust)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no model at {name_or_path!r}: {error}") from error
    for loader in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM):
        if type(config) in loader._model_mapping:
            return loader.from_pretrained(name_or_path, **options)
    return AutoModelForCausalLM.from_pretrained(name_or_path, **options)


def load_owner(name_or_path: str, **options: Any) -> TextOwner:
    """Load the processor, or the tokenizer of a model that has no processor."""
    try:
        return AutoProcessor.from_pretrained(name_or_path, **options)
    except (OSError, ValueError):
        return AutoTokenizer.from_pretrained(name_or_path, **options)


def build_policy(
    model: nn.Module, owner: TextOwner, layout: str = "forest", max_length: int | None = None, truncate: bool = False
) -> AutoregressivePolicy:
    """The policy for a loaded model: the layout asked for where the model can take it, else one row per case.

    Args:
        model: as loaded.
        owner: its processor or tokenizer.
        layout: `forest` or `rows`.
        max_length: longest case in tokens; the model's own limit where None.
        truncate: see `AutoregressivePolicy`.
    """
    chosen: CaseLayout = LAYOUTS[layout]()
    reason = why_no_forest(model, max_length) if isinstance(chosen, Forest) else None
    if reason:
        logger.warning("scoring one row per case: %s", reason)
        chosen = Rows()
    text_config = language_model(model).config.get_text_config()  # type: ignore[union-attr,operator]
    limit = max_length or getattr(text_config, "max_position_embeddings", None)
    return AutoregressivePolicy(owner, chosen, positions_of(model), limit, truncate)


def why_no_forest(model: nn.Module, max_length: int | None = None) -> str | None:
    """Why a model cannot score token forests, or None: what it lacks, or a difference on a small trial.

    Raises:
        CapabilityError: the model is an encoder-decoder, which no layout scores.
    """
    inner, backbone = language_model(model), backbone_of(model)
    if inner.config.is_encoder_decoder:  # type: ignore[union-attr]
        raise CapabilityError(f"{type(inner).__name__} is an encoder-decoder; decoder-only models can be aligned")
    if getattr(inner, "_is_stateful", False):
        return f"{type(inner).__name__} is recurrent: its state cannot branch"
    for name in ("attention_mask", "position_ids"):
        if not accepts(backbone.forward, name):
            return f"{type(backbone).__name__} takes no {name}"
    if hasattr(backbone, "get_image_features") and not accepts(backbone.forward, "mm_encoder_outputs"):
        return f"{type(backbone).__name__} takes no precomputed media"
    window = getattr(inner.config.get_text_config(), "sliding_window", None)  # type: ignore[union-attr,operator]
    if window and (max_length is None or max_length > window):
        return f"its sliding window of {window} tokens is shorter than the longest case; set --max_length {window}"
    return _trial(model)


@torch.no_grad()
def _trial(model: nn.Module, tolerance: float = 0.05) -> str | None:
    """Score one small pair both ways."""
    encoded = _small_pair(model)
    found = []
    device = next(model.parameters()).device
    with evaluating(model):
        for layout in (Rows(), Forest()):
            policy = AutoregressivePolicy(owner=None, layout=layout)  # type: ignore[arg-type]
            batch = Batch(align([encoded.preference]), batch_inputs(layout, [encoded], 0)).to(device)
            try:
                found.append(policy.score(model, batch).logp)
            except (TypeError, ValueError, RuntimeError) as error:
                return f"{type(error).__name__} on a trial of {type(layout).__name__}: {error}"
    difference = float((found[0] - found[1]).abs().max())
    return f"a trial differed from separate rows by {difference:.3g} nats" if not difference <= tolerance else None


def _small_pair(model: nn.Module) -> EncodedPreference:
    """Two answers to one prompt of arbitrary text tokens; ids of media placeholders would ask for media."""
    vocabulary = backbone_of(model).get_input_embeddings().weight.shape[0]  # type: ignore[operator,union-attr]
    config = language_model(model).config
    special = {value for name, value in vars(config).items() if name.endswith(("token_id", "token_index"))}
    draw = np.array([t for t in np.random.default_rng(0).integers(0, vocabulary, 40) if int(t) not in special])
    zeros = np.zeros(8, dtype=np.int64)
    prompt = EncodedPrompt(draw[:4], draw[:4], zeros[:4], ())
    positions = positions_of(model)
    cases = []
    for response in (draw[4:7], draw[7:10]):
        ids = np.concatenate([prompt.ids, response])
        cases.append(EncodedCase(prompt, response, zeros[: len(response)], positions(ids, zeros[: len(ids)], ())))
    return EncodedPreference(pair("", "-", "-"), tuple(cases))
