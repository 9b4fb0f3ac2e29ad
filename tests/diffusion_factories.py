"""A tiny random-weight Stable Diffusion 1.5 pipeline of the real classes, saved to disk, and pictures for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from omnipref.preferences import Part, Preference, pair

RESOLUTION = 16
WORDS = ("a", "red", "green", "blue", "cube", "ball", "big", "small")


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of single bytes and a few words."""
    letters = sorted({letter for word in WORDS for letter in word})
    merges, pieces = [], []
    for word in WORDS:
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            merges.append(f"{symbols[0]} {symbols[1]}")
            symbols = [symbols[0] + symbols[1], *symbols[2:]]
            pieces.append(symbols[0])
    tokens = [*letters, *[f"{letter}</w>" for letter in letters], *pieces, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=8)


def save_pipeline(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Writes the pipeline as `save_pretrained` does and returns its folder."""
    tokenizer = clip_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=RESOLUTION,
    )
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def picture(seed: int, size: tuple[int, int] = (20, 24)) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def picture_pairs(n: int) -> list[Preference]:
    """`n` pairs of pictures with captions."""
    captions = ("a red cube", "a green ball", "a big blue cube")
    return [
        pair(captions[i % 3], Part("image", picture(2 * i)), Part("image", picture(2 * i + 1)), record=10 + i)
        for i in range(n)
    ]
