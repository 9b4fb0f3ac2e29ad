"""Trains the denoising world's base model: `python -m omnipref.worlds.train_denoising --output DIR`."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import track

from omnipref.policies.diffusion import Draws
from omnipref.worlds.denoising import build_model, build_policy, load, measure, sample_data

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

UNCAPTIONED = 0.1


def train(steps: int = 3000, batch: int = 256, learning_rate: float = 2e-3, seed: int = 0) -> UNet2DConditionModel:
    """The base, trained by plain denoising on fresh data with a one-cycle learning rate."""
    model, policy = build_model(seed), build_policy()
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps + 1, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in track(range(steps), description="training the base"):
        vectors, prompts = sample_data(batch, generator)
        draws = Draws(
            torch.randint(policy.scheduler.config.num_train_timesteps, (batch, 1), generator=generator),
            torch.randn(batch, 1, 8, 1, 1, generator=generator),
            torch.rand(batch, generator=generator) < UNCAPTIONED,
        )
        noisy, target = policy.noising(vectors.reshape(batch, 8, 1, 1), draws)
        shown = ["" if dropped else prompt for prompt, dropped in zip(prompts, draws.uncaptioned_N, strict=True)]
        loss = (policy.predict(model, noisy, draws.timestep_NS, shown) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def save(model: UNet2DConditionModel, folder: Path) -> None:
    """Writes the model to a folder, whole or not at all; a folder that is there is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as draft:
        model.save_pretrained(Path(draft) / "model")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(Path(draft) / "model", folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, saves, and prints the saved model's reward and accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--seed", type=int, default=0, help="weights and data are drawn from it")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    save(train(chosen.steps, seed=chosen.seed), chosen.output)
    print(measure(load(chosen.output), seed=chosen.seed))


if __name__ == "__main__":
    main()
