"""Tiny random-weight encoder-decoders with tokenizers that begin and end a text as theirs do."""

from __future__ import annotations

from typing import Any

import transformers as hf
from factories import _text_sizes, tokenizer
from multimodal_factories import built
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

SPECIAL = [("<s>", 1), ("</s>", 2)]


def writing(template: str) -> hf.PreTrainedTokenizerFast:
    """The tests' tokenizer, which makes this of a text, such as `<s> $A </s>`."""
    core = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    core.post_processor = TemplateProcessing(single=template, special_tokens=SPECIAL)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def t5() -> tuple[Any, Any]:
    """Relative positions, tied embeddings, scaled logits; the decoder begins with padding."""
    config = hf.T5Config(
        vocab_size=len(tokenizer()),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        initializer_factor=2.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
    )
    return built(config, hf.AutoModelForSeq2SeqLM), writing("$A </s>")


def bart() -> tuple[Any, Any]:
    """Learned positions; the decoder begins with the end of a text."""
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in SIDE.items()}
    config = hf.BartConfig(
        vocab_size=len(tokenizer()),
        d_model=32,
        init_std=0.2,
        max_position_embeddings=256,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        forced_eos_token_id=None,
        decoder_start_token_id=2,
        **sides,
    )
    model = built(config, hf.AutoModelForSeq2SeqLM)
    model.final_logits_bias.normal_()
    return model, writing("<s> $A </s>")


SIDE: dict[str, Any] = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}


def t5gemma() -> tuple[Any, Any]:
    """Rotary positions, windows and full layers in turn, soft-capped logits."""
    side = _text_sizes(head_dim=8, query_pre_attn_scalar=8, sliding_window=6)
    part = hf.T5GemmaModuleConfig
    config = hf.T5GemmaConfig(encoder=part(**side), decoder=part(**side, final_logit_softcapping=2.0))
    return built(config, hf.AutoModelForSeq2SeqLM), writing("<s> $A")
