"""A reference that moves: every few steps some way towards the policy, or all the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from omnipref.errors import CapabilityError
from omnipref.policies.policy import Reference
from omnipref.policies.reference import AdapterAs, FrozenCopy

FILE = "reference.safetensors"
"""Weights of the reference beside a checkpoint's own."""


@dataclass
class ReferenceUpdates(TrainerCallback):
    """`θ_ref ← a θ + (1 − a) θ_ref` after every so many optimiser steps (TR-DPO).

    `mixup = 1` resets the reference to the policy; a small one at every step is an exponential moving average.

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

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the reference if it is time."""
        if state.global_step % self.steps == 0:
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Move the reference now."""
        for _, trained, frozen in self._pairs:
            frozen.lerp_(trained.detach().to(frozen), self.mixup)

    def save(self, folder: Path) -> None:
        """Write the reference's weights into a checkpoint, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{FILE}.tmp"
        save_file({name: frozen.detach().cpu().clone() for name, _, frozen in self._pairs}, temporary)
        temporary.replace(folder / FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take the reference's weights from a checkpoint, if it has any."""
        if (folder / FILE).exists():
            kept = load_file(folder / FILE)
            for name, _, frozen in self._pairs:
                frozen.copy_(kept[name])


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
    if any(type(frozen).__name__ == "DTensor" or hasattr(frozen, "ds_id") for _, _, frozen in found):
        raise CapabilityError(
            "a reference in shards cannot follow the policy yet; use DDP, or leave `sync_ref_model` away"
        )
    yield from found


def _slot(name: str, model: nn.Module) -> str:
    return name.replace(f".{model.active_adapter}.", ".{}.")  # type: ignore[operator,union-attr]
