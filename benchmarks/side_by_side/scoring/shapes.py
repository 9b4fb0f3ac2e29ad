"""Models at the sizes that are measured, with random weights of real classes, and their tokenizers and processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from omnipref.policies.autoregressive.prompts import TextOwner

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<|vision_start|>", "<|vision_end|>")
QWEN = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
MARKS = (*SPECIAL, *QWEN.values())
FIRST_WORD = 16
"""Ids from here on are words `w16`, `w17` ...: a text of n words has n tokens."""
TEXT, VISION = "text", "vision"


def word_tokenizer(vocabulary: int, **named: str) -> hf.PreTrainedTokenizerFast:
    """A tokenizer of whole words `w16`, `w17` ..., so that lengths are exact.

    Args:
        vocabulary: ids.
        named: special tokens under the names that a processor looks for.
    """
    words = dict(zip(MARKS, range(len(MARKS)), strict=True))
    words |= {f"w{number}": number for number in range(FIRST_WORD, vocabulary)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )
    made.add_special_tokens({"additional_special_tokens": list(MARKS[4:])})
    return made


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A size of model, and of the batches that suit it.

    Args:
        text: the configuration of the model that reads text.
        vision: that of the model that reads pictures too; None where there is none.
        processor: of the vision model, from the size of its vocabulary.
        picture: side of the pictures in pixels.
        batch: preferences of a step.
        shrink: factor on all lengths, for trials.
        said: one sentence on the models, for the page.
    """

    text: Callable[[], Any]
    vision: Callable[[], Any] | None = None
    processor: Callable[[int], TextOwner] | None = None
    picture: int = 336
    batch: int = 2
    shrink: float = 1.0
    said: str = field(default="")

    @property
    def vocabulary(self) -> int:
        """Tokens of the text model's head."""
        return self.text().vocab_size

    def owner(self, kind: str) -> TextOwner:
        """Tokenizer of the text model, processor of the vision model."""
        make = self.processor if kind == VISION and self.processor else word_tokenizer
        return make(self.vocabulary)


def _llama(**sizes: Any) -> Callable[[], hf.LlamaConfig]:
    common = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    return lambda: hf.LlamaConfig(**{**common, **sizes})


def _llava(text: Callable[[], Any], **vision: Any) -> Callable[[], hf.LlavaConfig]:
    return lambda: hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision),
        text_config=text(),
        image_token_index=MARKS.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _llava_processor(picture: int, patch: int) -> Callable[[int], TextOwner]:
    def make(vocabulary: int) -> TextOwner:
        images = hf.CLIPImageProcessorPil(
            size={"shortest_edge": picture}, crop_size={"height": picture, "width": picture}
        )
        return hf.LlavaProcessor(
            images,
            word_tokenizer(vocabulary),
            patch_size=patch,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )

    return make


QWEN_TEXT: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN_VISION: Mapping[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "out_hidden_size": 2048,
}


def qwen_vl(text: Mapping[str, Any], vision: Mapping[str, Any], sections: list[int]) -> Callable[[], Any]:
    """Qwen2.5-VL's configuration.

    Args:
        text: sizes of the text part.
        vision: sizes of the tower.
        sections: of the multimodal rotary embedding; they sum to half a head.
    """
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    return lambda: hf.Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config=dict(vision),
        image_token_id=MARKS.index("<|image_pad|>"),
        video_token_id=MARKS.index("<|video_pad|>"),
        vision_start_token_id=MARKS.index("<|vision_start|>"),
        vision_end_token_id=MARKS.index("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def qwen_processor(vocabulary: int) -> TextOwner:
    """Qwen2.5-VL's processor: a token for 28 × 28 pixels."""
    tokenizer = word_tokenizer(vocabulary, **QWEN)
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    images = hf.Qwen2VLImageProcessorPil(patch_size=14, temporal_patch_size=2, merge_size=2, size=pixels)
    videos = hf.Qwen2VLVideoProcessor(patch_size=14, temporal_patch_size=2, merge_size=2)
    return hf.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template="{{ messages }}")


SMALL = _llama(
    vocab_size=32000,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=4096,
)
TINY = _llama(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1024,
)
TOWER = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 336,
    "patch_size": 14,
}
TINY_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}

SHAPES: Mapping[str, Shape] = {
    "6x512": Shape(
        text=SMALL,
        vision=_llava(SMALL, **TOWER),
        processor=_llava_processor(336, 14),
        said="a Llama of 6 layers, 512 wide (8 heads, inner width 1408, vocabulary 32,000, untied); pictures go "
        "through a LLaVA of the same text model with a CLIP tower of 6 layers, 256 wide, 24 × 24 patches",
    ),
    "tiny": Shape(
        text=TINY,
        vision=_llava(TINY, **TINY_TOWER),
        processor=_llava_processor(56, 14),
        picture=56,
        shrink=0.05,
        said="a Llama of 2 layers, 32 wide, for trials only: its numbers mean nothing",
    ),
    "llama-7b": Shape(
        text=_llama(
            vocab_size=32000,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
        ),
        said="a Llama with the sizes of Llama-2 7B",
    ),
    "qwen2.5-vl-3b": Shape(
        text=lambda: hf.Qwen2Config(**QWEN_TEXT),
        vision=qwen_vl(QWEN_TEXT, QWEN_VISION, [16, 24, 24]),
        processor=qwen_processor,
        picture=672,
        batch=4,
        said="Qwen2.5-VL with the sizes of its 3B model; texts alone go through a Qwen2 of its text part's sizes",
    ),
}


def built(config: Any, kind: str, device: str, dtype: torch.dtype, seed: int) -> nn.Module:
    """A model with random weights on a device; what encodes pictures is frozen.

    Args:
        config: of the model.
        kind: `text` or `vision`.
        device: where to draw the weights.
        dtype: of the weights.
        seed: of the weights.
    """
    loader = hf.AutoModelForImageTextToText if kind == VISION else hf.AutoModelForCausalLM
    torch.manual_seed(seed)
    with torch.device(device):
        model = loader.from_config(config, dtype=dtype, attn_implementation="sdpa")
    for part in encoders(model).values():
        part.requires_grad_(False)
    return model.train()


def encoders(model: nn.Module) -> dict[str, nn.Module]:
    """What encodes pictures: the tower and what fits its features to the text model; none in models of text alone."""
    names = ("vision_tower", "multi_modal_projector", "visual")
    return {name: part for name in names if isinstance(part := getattr(model.model, name, None), nn.Module)}
