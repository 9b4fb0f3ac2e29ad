"""Load a model, its tokenizer or processor, and the policy that fits what the model can do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
)

from omnipref.errors import ConfigError
from omnipref.policies.autoregressive.attention import Attention, attention_of
from omnipref.policies.autoregressive.backbone import is_encoder_decoder, language_model, positions_of
from omnipref.policies.autoregressive.encode import plain_positions
from omnipref.policies.autoregressive.encoder_decoder import EncoderDecoder, start_of
from omnipref.policies.autoregressive.flex import FLEX_ATTENTION, uncompiled, why_no_flex
from omnipref.policies.autoregressive.implementation import set_text_attention, text_attention
from omnipref.policies.autoregressive.layouts import ONE_ROW, CaseLayout, Forest, Rows
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.autoregressive.prompts import TextOwner
from omnipref.policies.autoregressive.tree_attention import TREE_ATTENTION
from omnipref.policies.autoregressive.trials import check_head, text_config, why_no_forest

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
        if (Path(name_or_path) / "model_index.json").exists():
            raise ConfigError(f"{name_or_path} is a pipeline; expected a model that answers in text") from error
        here = "" if Path(name_or_path).exists() else "no such folder here; as a name on the hub: "
        raise ConfigError(f"no model at {name_or_path!r}: {here}{' '.join(str(error).split())}") from error
    # Of some classes a decoder alone can be saved, whose configuration says that it has no encoder.
    with_encoder = (AutoModelForSeq2SeqLM,) if getattr(config, "is_encoder_decoder", False) else ()
    loaders = (AutoModelForImageTextToText, AutoModelForMultimodalLM, *with_encoder, AutoModelForCausalLM)
    loader = next((each for each in loaders if type(config) in each._model_mapping), AutoModelForCausalLM)
    try:
        return loader.from_pretrained(name_or_path, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ConfigError(f"the model at {name_or_path!r} cannot be loaded: {' '.join(str(error).split())}") from error


def load_owner(name_or_path: str, **options: Any) -> TextOwner:
    """Load the processor, or the tokenizer of a model that has no processor.

    Raises:
        ConfigError: the processor needs a package that is not installed, or there is no tokenizer.
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
        pass
    try:
        return AutoTokenizer.from_pretrained(name_or_path, **options)
    except (OSError, ValueError) as error:
        cure = "put the files of its tokenizer (`tokenizer.json`, `tokenizer_config.json`) beside the weights"
        raise ConfigError(f"{name_or_path} has no tokenizer that can be read; {cure}") from error


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
    limit = max_length or getattr(text_config(model), "max_position_embeddings", None)
    if is_encoder_decoder(model):
        return _encoder_decoder(model, owner, limit, truncate, max_tokens)
    check_head(model)
    attention = attention_of(language_model(model))
    chosen: CaseLayout = LAYOUTS[layout](attention=attention)
    if isinstance(chosen, Forest):
        chosen = _forest(model, attention, max_length, owner)
    return AutoregressivePolicy(owner, chosen, positions_of(model), limit, truncate, max_tokens)


def _encoder_decoder(model: nn.Module, owner: TextOwner, *limits: Any) -> AutoregressivePolicy:
    """Responses decoded one row per case, whatever layout is asked for; a prompt is read once for all of its cases."""
    inner = language_model(model)
    logger.warning("scoring one row per case: %s is an encoder-decoder; each prompt is read once", type(inner).__name__)
    check_head(model)
    return AutoregressivePolicy(owner, EncoderDecoder(start_of(inner)), plain_positions, *limits)


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
