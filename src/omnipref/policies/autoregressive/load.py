"""Load a model, its tokenizer or processor, and the policy that fits what the model can do."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
)

from omnipref.errors import CapabilityError, ConfigError, OmniprefError
from omnipref.policies.autoregressive.attention import LIMITS, Attention, attention_of, layer_types, reaches
from omnipref.policies.autoregressive.backbone import accepts, backbone_of, language_model, positions_of
from omnipref.policies.autoregressive.encode import EncodedCase, EncodedPreference, EncodedPrompt, encode
from omnipref.policies.autoregressive.flex import FLEX_ATTENTION, uncompiled, why_no_flex
from omnipref.policies.autoregressive.head import head_of
from omnipref.policies.autoregressive.implementation import set_text_attention, text_attention
from omnipref.policies.autoregressive.layouts import ONE_ROW, CaseLayout, Forest, Rows, batch_inputs
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.autoregressive.prompts import TextOwner
from omnipref.policies.autoregressive.tree_attention import TREE_ATTENTION
from omnipref.policies.cases import align
from omnipref.policies.policy import Batch
from omnipref.policies.reference import evaluating
from omnipref.preferences import Case, Comparison, Message, Part, Preference, pair

ONE_ROW_FROM = {"sdpa", TREE_ATTENTION, FLEX_ATTENTION}
"""Implementations that may be replaced by one that puts a batch into one row; `eager` and others stay as asked for."""
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
    """Load the processor, or the tokenizer of a model that has no processor.

    Raises:
        ConfigError: the processor needs a package that is not installed.
    """
    try:
        return AutoProcessor.from_pretrained(name_or_path, **options)
    except ImportError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        cure = "install it, such as `pip install torchvision` beside a torch of the same build"
        raise ConfigError(
            f"the processor of {name_or_path} needs a package that is missing ({lines[0]}); {cure}"
        ) from error
    except (OSError, ValueError):
        return AutoTokenizer.from_pretrained(name_or_path, **options)


def build_policy(
    model: nn.Module,
    owner: TextOwner,
    layout: str = "forest",
    max_length: int | None = None,
    truncate: bool = False,
    max_tokens: int | None = None,
) -> AutoregressivePolicy:
    """The policy for a loaded model: the layout asked for where the model can take it, else one row per case.

    Args:
        model: as loaded.
        owner: its processor or tokenizer.
        layout: `forest` or `rows`.
        max_length: longest case in tokens; the model's own limit where None.
        truncate: see `AutoregressivePolicy`.
        max_tokens: see `AutoregressivePolicy`.
    """
    _check_decoder(model)
    _check_head(model)
    attention = attention_of(language_model(model))
    chosen: CaseLayout = LAYOUTS[layout](attention=attention)
    if isinstance(chosen, Forest):
        chosen = _forest(model, attention, max_length, owner)
    limit = max_length or getattr(_text_config(model), "max_position_embeddings", None)
    return AutoregressivePolicy(owner, chosen, positions_of(model), limit, truncate, max_tokens)


def _forest(model: nn.Module, attention: Attention, max_length: int | None, owner: TextOwner) -> CaseLayout:
    """All preferences in one row where the attention makes that cheap, else a row for each, else a row per case."""
    own = text_attention(model)
    for name in one_row_attentions(model) if own in ONE_ROW_FROM else ():
        with uncompiled():
            if set_text_attention(model, name) and why_no_forest(model, max_length, owner) is None:
                return Forest(ONE_ROW, attention)
    set_text_attention(model, own)
    reason = why_no_forest(model, max_length, owner)
    if reason is None:
        return Forest(attention=attention)
    logger.warning("scoring one row per case: %s", reason)
    return Rows(attention=attention)


def one_row_attentions(model: nn.Module) -> tuple[str, ...]:
    """Attention implementations whose cost is linear in the trees of a row, best first.

    Args:
        model: as loaded; it is asked for the device that training will use.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    reason = why_no_flex(model, found) if found else "it has no gradient on the CPU"
    if reason and text_attention(model) == FLEX_ATTENTION:
        logger.warning("scoring without flex_attention: %s", reason)
    return (TREE_ATTENTION,) if reason else (FLEX_ATTENTION, TREE_ATTENTION)


def _check_decoder(model: nn.Module) -> None:
    inner = language_model(model)
    if inner.config.is_encoder_decoder:  # type: ignore[union-attr]
        raise CapabilityError(f"{type(inner).__name__} is an encoder-decoder; decoder-only models can be aligned")


def _text_config(model: nn.Module) -> Any:
    return language_model(model).config.get_text_config()  # type: ignore[union-attr,operator]


def why_no_forest(model: nn.Module, max_length: int | None = None, owner: TextOwner | None = None) -> str | None:
    """Why a model cannot score token forests, or None: what it lacks, or a difference on a small trial.

    Args:
        model: as loaded.
        max_length: longest case in tokens, None for no limit.
        owner: its processor; with it, pictures are tried too.

    Raises:
        CapabilityError: the model is an encoder-decoder, which no layout scores.
    """
    inner, backbone = language_model(model), backbone_of(model)
    _check_decoder(model)
    strange = sorted(set(layer_types(_text_config(model))) - {"full_attention", *LIMITS})
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
    config = _text_config(model)
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
def _check_head(model: nn.Module) -> None:
    """Compare the model's own logits with those of its head on its last hidden states.

    Raises:
        CapabilityError: they differ, so that scores would be wrong.
    """
    inner = language_model(model)
    ids = torch.from_numpy(_small_pair(model).cases[0].ids)[None].to(next(model.parameters()).device)
    with evaluating(model):
        states = getattr(backbone_of(model)(input_ids=ids, use_cache=False), "last_hidden_state", None)
        own = inner(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    if not isinstance(states, torch.Tensor):
        raise CapabilityError(f"{type(inner).__name__} does not part into a body and a head, so it cannot be scored")
    ours = head_of(inner)(states[0]).log_softmax(-1)
    difference = float((own - ours).abs().max())
    if not difference <= _tolerance(model):
        raise CapabilityError(
            f"{type(inner).__name__} does something to its logits that its configuration does not tell "
            f"(difference {difference:.3g} nats), so its answers cannot be scored"
        )


def _small_pair(model: nn.Module) -> EncodedPreference:
    """Two answers to one prompt of arbitrary text tokens; ids of media placeholders would ask for media."""
    vocabulary = backbone_of(model).get_input_embeddings().weight.shape[0]  # type: ignore[operator,union-attr]
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
