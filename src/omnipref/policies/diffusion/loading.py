"""Loads a Stable Diffusion 1.5 style pipeline folder as a model and its policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnipref.errors import CapabilityError
from omnipref.policies.diffusion.latents import ClipText, PictureCodec
from omnipref.policies.diffusion.policy import DiffusionPolicy

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

_PARTS = frozenset({"unet", "vae", "text_encoder", "tokenizer", "scheduler"})


def load_diffusion_policy(
    pretrained_path: str | Path,
    *,
    resolution: int | None = None,
    dtype: torch.dtype | str = torch.float32,
    **options: Any,
) -> tuple[UNet2DConditionModel, DiffusionPolicy]:
    """The UNet to train and the policy that scores with it, from a pipeline's folder or hub name.

    Args:
        pretrained_path: a `StableDiffusionPipeline`, as `save_pretrained` writes it.
        resolution: side of the pictures in pixels; the UNet's own by default.
        dtype: type of all weights, such as `torch.bfloat16` or `bfloat16`.
        options: fields of `DiffusionPolicy`, such as `caption_dropout=0.2`.

    Raises:
        CapabilityError: the pipeline has other parts, or its UNet needs more than one text encoder's states.
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    parts = set(StableDiffusionPipeline.load_config(pretrained_path))
    if missing := sorted(_PARTS - parts):
        found = f"{pretrained_path} has no {', '.join(missing)}"
        raise CapabilityError(f"{found}; expected the folder of a Stable Diffusion 1.x or 2.x pipeline")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        pretrained_path,
        dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype,
        safety_checker=None,
        requires_safety_checker=False,
    )
    unet = pipeline.unet
    if unet.config.addition_embed_type is not None:
        raise CapabilityError(
            f"the UNet of {pretrained_path} takes `{unet.config.addition_embed_type}` conditions besides the prompt's "
            "states; use a Stable Diffusion 1.x or 2.x pipeline"
        )
    for frozen in (pipeline.vae, pipeline.text_encoder):
        frozen.requires_grad_(False).eval()
    policy = DiffusionPolicy(
        DDPMScheduler.from_config(pipeline.scheduler.config),
        PictureCodec(pipeline.vae, resolution or unet.config.sample_size * pipeline.vae_scale_factor),
        ClipText(pipeline.tokenizer, pipeline.text_encoder),
        **options,
    )
    return unet, policy
