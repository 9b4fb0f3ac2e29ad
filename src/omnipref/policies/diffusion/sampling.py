"""Samples from a diffusion policy with diffusers' DDIM scheduler and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from tqdm import tqdm

from omnipref.policies.diffusion.noising import record_generator
from omnipref.policies.diffusion.policy import DiffusionPolicy


def initial_noise(count: int, shape: tuple[int, ...], seed: int, first: int = 0) -> Tensor:
    """Starting noise `[count, *shape]`: that of the n-th prompt depends on (seed, first + n) alone."""
    return torch.stack([torch.randn(shape, generator=record_generator(seed, first + n)) for n in range(count)])


@torch.no_grad()
def generate_latents(
    model: nn.Module,
    policy: DiffusionPolicy,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    guidance: float = 7.5,
    seed: int = 0,
    batch_size: int = 16,
) -> Tensor:
    """Latents `[len(prompts), *latent]` float32 on the model's device, by deterministic DDIM.

    Args:
        model: the denoiser; it is in evaluation mode while it samples.
        policy: its schedule and conditioner.
        prompts: a caption each.
        steps: denoising steps.
        guidance: 1 is no guidance; g gives `null + g (prompt - null)`.
        seed: the n-th prompt's noise depends on (seed, n), not on the batch.
        batch_size: prompts per forward pass.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    starts = range(0, len(prompts), batch_size)
    pieces = []
    for start in tqdm(starts, desc="sampling", unit="batch", disable=None if len(starts) > 1 else True):
        batch = prompts[start : start + batch_size]
        noise = initial_noise(len(batch), policy.codec.latent_shape, seed, start).to(device)
        pieces.append(_denoise(model, policy, batch, noise, steps, guidance))
    model.train(training)
    return torch.cat(pieces)


def _denoise(
    model: nn.Module, policy: DiffusionPolicy, prompts: Sequence[str], noise_N: Tensor, steps: int, guidance: float
) -> Tensor:
    scheduler: Any = DDIMScheduler.from_config(policy.scheduler.config)
    scheduler.set_timesteps(steps, device=noise_N.device)
    guided = guidance != 1 and policy.conditioner is not None
    copies = 2 if guided else 1
    captions = [*[""] * (len(prompts) * (copies - 1)), *prompts]
    latents = noise_N
    for timestep in scheduler.timesteps:
        shown = torch.cat([latents] * copies).unsqueeze(1)
        predicted = policy.predict(model, shown, timestep.expand(len(shown)), captions).squeeze(1)
        if guided:
            null, prompt = predicted.chunk(2)
            predicted = null + guidance * (prompt - null)
        latents = scheduler.step(predicted, int(timestep), latents).prev_sample
    return latents


def generate(
    model: nn.Module,
    policy: DiffusionPolicy,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    guidance: float = 7.5,
    seed: int = 0,
    batch_size: int = 16,
) -> list[Any]:
    """Media (for pictures: PIL images) of prompts; arguments as in `generate_latents`."""
    latents = generate_latents(model, policy, prompts, steps=steps, guidance=guidance, seed=seed, batch_size=batch_size)
    return [medium for piece in latents.split(batch_size) for medium in policy.codec.decode(piece)]
