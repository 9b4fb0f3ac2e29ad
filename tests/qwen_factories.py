"""Tiny random-weight models with multimodal rotary positions and with sound, of real classes with real processors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from multimodal_factories import built, template_with, text_sizes, words

MULTIMODAL_ROTARY: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
QWEN_PATCHES: dict[str, Any] = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "embed_dim": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}


def qwen(family: str) -> Callable[[], tuple[Any, Any]]:
    """Pictures of any size and multimodal rotary positions."""

    def make() -> tuple[Any, Any]:
        mark = "<|vision_start|><|image_pad|><|vision_end|>"
        clip = "<|vision_start|><|video_pad|><|vision_end|>"
        names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
        made = words(template_with(image=mark, video=clip), **names)
        ids = made.convert_tokens_to_ids
        vision = (
            QWEN_VISION
            | {
                "Qwen2VL": {"hidden_size": 32, "mlp_ratio": 2},
                "Qwen2_5_VL": {"window_size": 16, "fullatt_block_indexes": [1]},
                "Qwen3VL": {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
            }[family]
        )
        more = {"head_dim": 8} if family == "Qwen3VL" else {}
        config = getattr(hf, f"{family}Config")(
            text_config=text_sizes(made, rope_parameters=MULTIMODAL_ROTARY, **more),
            vision_config=vision,
            image_token_id=ids("<|image_pad|>"),
            video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
        )
        images = hf.Qwen2VLImageProcessorPil(**QWEN_PATCHES, size={"shortest_edge": 64, "longest_edge": 64 * 64})
        video = hf.Qwen3VLVideoProcessor if family == "Qwen3VL" else hf.Qwen2VLVideoProcessor
        videos = video(**QWEN_PATCHES, size={"shortest_edge": 64, "longest_edge": 64 * 64 * 8})
        processor = getattr(hf, f"{family}Processor")(images, made, videos, chat_template=made.chat_template)
        return built(config), processor

    return make


SOUND: dict[str, Any] = {
    "num_mel_bins": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "max_source_positions": 50,
}
MEL: dict[str, Any] = {"feature_size": 16, "chunk_length": 1, "sampling_rate": 16000}


def qwen2_audio() -> tuple[Any, Any]:
    """Sound."""
    made = words()
    config = hf.Qwen2AudioConfig(
        audio_config=hf.Qwen2AudioEncoderConfig(**SOUND),
        text_config=hf.Qwen2Config(**text_sizes(made)),
        audio_token_index=made.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = hf.Qwen2AudioProcessor(hf.WhisperFeatureExtractor(**MEL), made, chat_template=made.chat_template)
    return built(config, hf.AutoModelForMultimodalLM), processor


def qwen_omni() -> tuple[Any, Any]:
    """Sound, pictures and clips in one sequence, with positions in time."""
    names: dict[str, Any] = {
        "image_token": "<|image_pad|>",
        "audio_token": "<|AUDIO|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    image, audio = "<|vision_start|><|image_pad|><|vision_end|>", "<|audio_bos|><|AUDIO|><|audio_eos|>"
    made = words(template_with(image=image, audio=audio), **names)
    ids = made.convert_tokens_to_ids
    vision: dict[str, Any] = {**QWEN_VISION, "window_size": 16, "fullatt_block_indexes": [1]}
    config = hf.Qwen2_5OmniThinkerConfig(
        audio_config={**SOUND, "n_window": 20, "output_dim": 32},
        vision_config=vision,
        text_config=text_sizes(made, rope_parameters=MULTIMODAL_ROTARY),
        image_token_index=ids("<|image_pad|>"),
        video_token_index=ids("<|video_pad|>"),
        audio_token_index=ids("<|AUDIO|>"),
        audio_start_token_id=ids("<|audio_bos|>"),
        audio_end_token_id=ids("<|audio_eos|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    images = hf.Qwen2VLImageProcessorPil(**QWEN_PATCHES, size={"shortest_edge": 64, "longest_edge": 64 * 64})
    videos = hf.Qwen2VLVideoProcessor(**QWEN_PATCHES, size={"shortest_edge": 64, "longest_edge": 64 * 64 * 8})
    sounds = hf.WhisperFeatureExtractor(**MEL, hop_length=160)
    processor = hf.Qwen2_5OmniProcessor(images, videos, sounds, made, chat_template=made.chat_template)
    torch.manual_seed(0)
    return hf.Qwen2_5OmniThinkerForConditionalGeneration(config).eval(), processor
