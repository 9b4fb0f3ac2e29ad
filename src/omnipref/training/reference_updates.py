"""A reference that moves: every few steps some way towards the policy, or all the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from omnipref.errors import CapabilityError, ConfigError, nearest
from omnipref.objectives.checks import check_number
from omnipref.policies.policy import Reference
from omnipref.policies.reference import AdapterAs, FrozenCopy

FILE = "reference.safetensors"
"""Weights of the reference beside a checkpoint's own."""


AVERAGE = "average/"
"""Before the name of a weight in that file: its moving average, where the reference is more than that."""


@dataclass(frozen=True)
class Bema:
    """A bias-corrected exponential moving average (BEMA).

    `θ_ref = m + (ρ + t)^−η (θ − θ_0)` with `m ← m + (ρ + t)^−κ (θ − m)`; `t` counts optimiser steps, `θ_0` are the
    weights before training, and `m` starts there. The average lags behind the policy, which the second part makes up
    for, ever less.

    Args:
        ema_power: `κ ≥ 0`; 0 for no average, `m = θ`.
        bias_power: `η ≥ 0`; large for a plain average.
        lag: `ρ ≥ 1`; larger is smoother at the beginning.

    Raises:
        ConfigError: an argument is out of range.

    Source: arXiv 2508.00180; TRL's `BEMACallback`, which also moves references.
    """

    ema_power: float = 0.5
    bias_power: float = 0.2
    lag: float = 10

    def __post_init__(self) -> None:
        check_number(0, ema_power=self.ema_power, bias_power=self.bias_power)
        check_number(1, lag=self.lag)

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Bema:
        """From settings by name.

        Raises:
            ConfigError: there is no such setting, or its value is out of range.
        """
        known = [each.name for each in fields(Bema)]
        for name in settings:
            if name not in known:
                raise ConfigError(f"found `{name}` in `ref_model_bema`; {nearest(name, known)}")
        return Bema(**settings)

    def __call__(self, step: int, trained: Tensor, start: Tensor, average: Tensor) -> Tensor:
        """The new weight of the reference; moves the average in place.

        Args:
            step: `t`.
            trained: `θ`.
            start: `θ_0`.
            average: `m`, float32.
        """
        age = self.lag + step
        average.lerp_(trained, age**-self.ema_power)
        return average + age**-self.bias_power * (trained - start)


@dataclass
class ReferenceUpdates(TrainerCallback):
    """`θ_ref ← a θ + (1 − a) θ_ref` after every so many optimiser steps (TR-DPO).

    `mixup = 1` resets the reference to the policy; a small one at every step is an exponential moving average. With
    `correct` another rule takes the share's place.

    Args:
        reference: a frozen copy, or the frozen copy of an adapter; whole on every process.
        model: what is trained, with the same weights by name.
        mixup: `a` in (0, 1].
        steps: optimiser steps between two updates.

    Raises:
        CapabilityError: the reference has no weights of its own, others than the policy's, or weights in shards.

    Source: arXiv 2404.09656; `sync_ref_model` of TRL.
    """

    reference: Reference
    model: nn.Module
    mixup: float = 0.6
    steps: int = 512

    def __post_init__(self) -> None:
        self._pairs = list(_pairs(self.reference, self.model))
        self._bema: Bema | None = None
        self._start: dict[str, Tensor] = {}
        self._averages: dict[str, Tensor] = {}

    def correct(self, bema: Bema) -> None:
        """Follow by this rule, from the weights as they are now, of which it keeps two copies in float32."""
        self._bema = bema
        self._start = {name: trained.detach().float().clone() for name, trained, _ in self._pairs}
        self._averages = {name: weight.clone() for name, weight in self._start.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look again: an adapter beside the policy goes into shards with it, when training begins.

        Raises:
            CapabilityError: the weights are in shards.
        """
        _check_whole(self.model.parameters())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the reference if it is time."""
        if state.global_step % self.steps == 0:
            self.update(state.global_step)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the reference now, after so many optimiser steps."""
        for name, trained, frozen in self._pairs:
            if self._bema:
                start, average = self._start[name], self._averages[name]
                frozen.copy_(self._bema(step, trained.detach().to(average), start, average))
            else:
                frozen.lerp_(trained.detach().to(frozen), self.mixup)

    def save(self, folder: Path) -> None:
        """Write the reference's weights into a checkpoint, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{FILE}.tmp"
        kept = {name: frozen for name, _, frozen in self._pairs}
        kept |= {AVERAGE + name: average for name, average in self._averages.items()}
        save_file({name: weight.detach().cpu().clone() for name, weight in kept.items()}, temporary)
        temporary.replace(folder / FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take the reference's weights from a checkpoint, if it has any.

        Raises:
            ConfigError: they were moved by another rule, which kept no average.
        """
        if (folder / FILE).exists():
            kept = load_file(folder / FILE)
            if any(AVERAGE + name not in kept for name in self._averages):
                raise ConfigError(
                    f"{folder / FILE} holds no moving average; it is of a run without `ref_model_bema`. To go on from "
                    "it, leave `ref_model_bema` away, too"
                )
            for name, _, frozen in self._pairs:
                frozen.copy_(kept[name])
            for name, average in self._averages.items():
                average.copy_(kept[AVERAGE + name])


def _pairs(reference: Reference, model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, weight of the policy, and weight of the reference that follows it."""
    if isinstance(reference, AdapterAs):
        frozen = {name.replace(f".{reference.name}.", ".{}."): p for name, p in model.named_parameters()}
        found = [
            (name, weight, frozen[slot])
            for name, weight in model.named_parameters()
            if weight.requires_grad and (slot := _slot(name, model)) in frozen and frozen[slot] is not weight
        ]
    elif isinstance(reference, FrozenCopy):
        own = dict(reference.model.named_parameters())
        found = [(name, p, own[name]) for name, p in model.named_parameters() if p.requires_grad and name in own]
    else:
        raise CapabilityError(
            "the reference is the model without its adapter, whose weights do not move; train all weights, or continue "
            "an adapter (`adapter`), or leave `sync_ref_model` away"
        )
    if not found or len(found) < sum(p.requires_grad for p in model.parameters()):
        raise CapabilityError("the reference has other weights than the policy and cannot follow it; same model needed")
    _check_whole(frozen for _, _, frozen in found)
    yield from found


def _check_whole(weights: Iterable[Tensor]) -> None:
    if any(type(weight).__name__ == "DTensor" or hasattr(weight, "ds_id") for weight in weights):
        raise CapabilityError(
            "a reference in shards cannot follow the policy yet; use DDP, or leave `sync_ref_model` away"
        )


def _slot(name: str, model: nn.Module) -> str:
    return name.replace(f".{model.active_adapter}.", ".{}.")  # type: ignore[operator,union-attr]
