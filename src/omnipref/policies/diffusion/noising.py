"""The denoising task: which timestep and noise a record gets, what the model is shown, and what it must predict."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.errors import CapabilityError, ConfigError, nearest
from omnipref.scores import Cases

Target = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`(x0, noise, signal, sigma) -> target`, with `x_t = signal * x0 + sigma * noise`."""

TARGETS: Mapping[str, Target] = {
    "epsilon": lambda x0, noise, signal, sigma: noise,
    "v_prediction": lambda x0, noise, signal, sigma: signal * noise - sigma * x0,
    "sample": lambda x0, noise, signal, sigma: x0,
}
"""What a model predicts, by its scheduler's `prediction_type`."""


@dataclass(frozen=True)
class Draws:
    """What was drawn for N cases with S timesteps each.

    Args:
        timestep_NS: `[N, S]` long.
        noise_NS: `[N, S, *latent]` float32, standard normal.
        uncaptioned_N: `[N]` bool, cases whose caption is replaced by the empty string.
    """

    timestep_NS: Tensor
    noise_NS: Tensor
    uncaptioned_N: Tensor

    def to(self, device: torch.device | str) -> Draws:
        """The same draws on another device."""
        return Draws(self.timestep_NS.to(device), self.noise_NS.to(device), self.uncaptioned_N.to(device))


def record_generator(seed: int, record: int) -> torch.Generator:
    """A generator on the CPU that depends on (seed, record number) alone, so on no batch, process or device."""
    digest = hashlib.blake2b(f"{seed}/{record}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def draw_all(
    cases: Cases, shape: tuple[int, ...], seed: int, allowed: Tensor, *, units: int, dropout: float, share_noise: bool
) -> Draws:
    """Draw timesteps, noise and caption dropout for every case of a batch.

    All cases of a record share their timesteps and their dropout, and with `share_noise` their noise.

    Args:
        cases: alignment of the N cases.
        shape: shape of one latent.
        seed: together with the record's number, all that the draws depend on.
        allowed: timesteps to draw from, uniformly, `[T]` long.
        units: timesteps per record, S.
        dropout: probability that a record loses its caption.
        share_noise: False gives each case noise of its own.
    """
    owner = cases.preference_N.cpu()
    timesteps, dropped, noise = [], [], torch.empty(len(owner), units, *shape)
    for p, record in enumerate(cases.record_P.tolist()):
        generator = record_generator(seed, record)
        timesteps.append(allowed[torch.randint(len(allowed), (units,), generator=generator)])
        dropped.append(torch.rand((), generator=generator) < dropout)
        own = owner == p
        noise[own] = torch.randn(1 if share_noise else int(own.sum()), units, *shape, generator=generator)
    return Draws(torch.stack(timesteps)[owner], noise, torch.stack(dropped)[owner])


class Noising:
    """A diffusers noise schedule as the two things training needs: noisy latents and their targets.

    Args:
        scheduler: any diffusers scheduler with `alphas_cumprod`, such as `DDPMScheduler`.

    Raises:
        CapabilityError: the scheduler has no `alphas_cumprod` (flow matching), or a prediction type without a target.
    """

    def __init__(self, scheduler: Any):
        if not hasattr(scheduler, "alphas_cumprod"):
            raise CapabilityError(f"{type(scheduler).__name__} has no `alphas_cumprod`; use a DDPM-style scheduler")
        kind = scheduler.config.prediction_type
        if kind not in TARGETS:
            raise CapabilityError(f"no target for the scheduler's prediction_type `{kind}`; {nearest(kind, TARGETS)}")
        self._target = TARGETS[kind]
        self._signal_T = scheduler.alphas_cumprod.float().sqrt()
        self._sigma_T = (1 - scheduler.alphas_cumprod.float()).sqrt()

    def allowed(self, timesteps: tuple[int, ...]) -> Tensor:
        """The timesteps to draw from; all of the schedule's when none are named.

        Raises:
            ConfigError: a timestep outside the schedule.
        """
        last = len(self._signal_T) - 1
        if wrong := [t for t in timesteps if not 0 <= t <= last]:
            raise ConfigError(f"found timestep {wrong[0]}; expected 0 to {last}, the scheduler's range")
        return torch.tensor(timesteps or range(last + 1))

    def __call__(self, x0_N: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Noisy latents `x_t = sqrt(ᾱ_t) x0 + sqrt(1 − ᾱ_t) ε` and targets, each `[N, S, *latent]`."""
        x0 = x0_N.unsqueeze(1)
        shape = (*draws.timestep_NS.shape, *[1] * (x0.ndim - 2))
        signal, sigma = (
            table.to(x0.device)[draws.timestep_NS].reshape(shape) for table in (self._signal_T, self._sigma_T)
        )
        noisy = signal * x0 + sigma * draws.noise_NS
        return noisy, self._target(x0, draws.noise_NS, signal, sigma).expand_as(noisy)
