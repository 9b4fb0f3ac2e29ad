"""The denoising world: prompts of a colour and a size, answered by vectors of eight numbers, with a known true reward.

Three numbers say the colour, one the size, two the position (nobody minds it) and two the style. The data follow the
prompt 7 times in 10 and ignore style; the true reward asks for colour, size and a style of (0.8, 0.8).

The model is diffusers' `UNet2DConditionModel` on latents `[8, 1, 1]`, with one block and the prompt added to the time
embedding: it trains within a minute on one core, and every claim runs it some thirty times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnipref.policies.diffusion import DiffusionPolicy, generate_latents
from omnipref.preferences import Part, Preference, pair

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

COLOURS = ("red", "green", "blue")
SIZES = ("small", "large")
PROMPTS = tuple(f"{size} {colour}" for colour in COLOURS for size in SIZES)
SIZE_TARGET = 0.7
STYLE_TARGET = 0.8
FAITHFUL = 0.7
"""Chance that the data's colour is the prompt's; the same for the size, independently."""
STEPS = 20
"""Denoising steps of a sample."""


def colour_targets() -> Tensor:
    """The three colours `[3, 3]`: 1 at their own number, -0.5 at the others."""
    return 1.5 * torch.eye(len(COLOURS)) - 0.5


@dataclass(frozen=True)
class VectorCodec:
    """Vectors of eight numbers, which are their own latents."""

    modality: str = "vector"
    latent_shape: tuple[int, ...] = (8, 1, 1)

    def load(self, part: Part) -> Tensor:
        """The vector `[8]` as a latent `[8, 1, 1]`."""
        return torch.as_tensor(part.value, dtype=torch.float32).reshape(self.latent_shape)

    def latents(self, media_N: Tensor, keys: Sequence[str]) -> Tensor:
        """The same tensor."""
        del keys
        return media_N

    def decode(self, latents_N: Tensor) -> list[Tensor]:
        """Vectors `[8]`."""
        return list(latents_N.flatten(1).cpu())


@dataclass(frozen=True)
class OneHotPrompts:
    """One state per prompt: its one-hot code, zeros for the empty prompt."""

    def __call__(self, prompts: Sequence[str], device: torch.device) -> Mapping[str, Tensor]:
        """`encoder_hidden_states` `[len(prompts), 1, 6]`."""
        table = torch.cat([torch.eye(len(PROMPTS)), torch.zeros(1, len(PROMPTS))]).to(device)
        rows = [PROMPTS.index(prompt) if prompt else len(PROMPTS) for prompt in prompts]
        return {"encoder_hidden_states": table[rows].unsqueeze(1)}


def sample_data(n: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """`n` vectors `[n, 8]` of the training data and their prompts."""
    prompt = torch.randint(len(PROMPTS), (n,), generator=generator)
    faithful = torch.rand(2, n, generator=generator) < FAITHFUL
    other = torch.randint(1, len(COLOURS), (n,), generator=generator)
    colour = torch.where(faithful[0], prompt // 2, (prompt // 2 + other) % len(COLOURS))
    size = torch.where(faithful[1], prompt % 2, 1 - prompt % 2)
    noise = torch.randn(n, 6, generator=generator)
    vectors = [
        colour_targets()[colour] + 0.15 * noise[:, :3],
        (SIZE_TARGET * (2 * size - 1)).unsqueeze(1) + 0.1 * noise[:, 3:4],
        2 * torch.rand(n, 2, generator=generator) - 1,
        0.5 * noise[:, 4:],
    ]
    return torch.cat(vectors, dim=1), [PROMPTS[index] for index in prompt.tolist()]


def _wanted(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    index = torch.tensor([PROMPTS.index(prompt) for prompt in prompts])
    return index // 2, index % 2


def true_reward(vector_N: Tensor, prompts: Sequence[str]) -> Tensor:
    """r = -‖colour - target‖² - 2 (size - target)² - ‖style - (0.8, 0.8)‖², `[N, 8]` to `[N]`; 0 is the best."""
    colour, size = _wanted(prompts)
    miss_colour = (vector_N[:, :3] - colour_targets()[colour]).square().sum(1)
    miss_size = (vector_N[:, 3] - SIZE_TARGET * (2 * size - 1)).square()
    return -miss_colour - 2 * miss_size - (vector_N[:, 6:] - STYLE_TARGET).square().sum(1)


def follows_prompt(vector_N: Tensor, prompts: Sequence[str]) -> Tensor:
    """Whether colour and size are the prompt's, `[N]` bool."""
    colour, size = _wanted(prompts)
    return (vector_N[:, :3].argmax(1) == colour) & ((vector_N[:, 3] > 0) == (size == 1))


def build_model(seed: int) -> UNet2DConditionModel:
    """The untrained model of 180 thousand parameters."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=1,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        block_out_channels=(40,),
        layers_per_block=1,
        # On one pixel a group norm sees only its group's channels: one group keeps what several would lose.
        norm_num_groups=1,
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=len(PROMPTS),
        attention_head_dim=len(PROMPTS),
        addition_embed_type="text",
        addition_embed_type_num_heads=1,
    )


def build_policy(**options: Any) -> DiffusionPolicy:
    """The world's policy; options are fields of `DiffusionPolicy`."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    # Without clipping, the first steps (signal 0.006) magnify any error of the model 150-fold.
    scheduler = DDPMScheduler(clip_sample=True, clip_sample_range=2.0, timestep_spacing="trailing")
    return DiffusionPolicy(scheduler, VectorCodec(), OneHotPrompts(), **options)


def base_model_path() -> Path:
    """Folder of the trained base model that is shipped with the package."""
    return Path(__file__).parent / "assets" / "denoiser"


def load(folder: Path | None = None) -> UNet2DConditionModel:
    """The model in a folder; the shipped base by default."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder or base_model_path())


def sample(model: Any, prompts: Sequence[str], seed: int) -> Tensor:
    """A vector `[len(prompts), 8]` per prompt, by 20 steps of DDIM without guidance."""
    latents = generate_latents(model, build_policy(), prompts, steps=STEPS, guidance=1.0, seed=seed, batch_size=1024)
    return latents.flatten(1)


@cache
def base_pool(n: int, seed: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Two samples of the base `[n, 8]` for each of `n` prompts, from which every arm's pairs are made."""
    generator = torch.Generator().manual_seed(seed)
    prompts = tuple(PROMPTS[i] for i in torch.randint(len(PROMPTS), (n,), generator=generator).tolist())
    both = sample(load(), [*prompts, *prompts], seed)
    return both[:n], both[n:], prompts


def preferences(n: int, seed: int) -> list[Preference]:
    """`n` pairs of base samples, the winner drawn by Bradley-Terry on the true reward."""
    first, second, prompts = base_pool(n, seed)
    gap = true_reward(first, prompts) - true_reward(second, prompts)
    wins = torch.rand(n, generator=torch.Generator().manual_seed(seed + 1)) < gap.sigmoid()
    return [
        pair(prompt, *(Part("vector", value) for value in ((a, b) if win else (b, a))), record=record)
        for record, (prompt, a, b, win) in enumerate(zip(prompts, first, second, wins.tolist(), strict=True))
    ]


def measure(model: Any, seed: int, n: int = 1200) -> dict[str, float]:
    """Mean true reward and share of samples that follow their prompt, over `n` fresh samples."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(n)]
    vectors = sample(model, prompts, seed)
    return {
        "reward": true_reward(vectors, prompts).mean().item(),
        "accuracy": follows_prompt(vectors, prompts).float().mean().item(),
    }
