"""References: which model a log-ratio is measured against, as contexts that yield it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from omnipref.errors import NeedsError

REFERENCE_ADAPTER = "ref"
"""Name of the frozen copy of an adapter that training continues."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off inside, and put every module's mode back after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class FrozenCopy:
    """A second set of weights; build it with `frozen_copy(model)`."""

    model: nn.Module

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the frozen model, on the device of the policy."""
        del model
        yield self.model

    def place(self, device: torch.device | str) -> None:
        """Move the copy to the policy's device."""
        self.model.to(device)


def frozen_copy(model: nn.Module) -> FrozenCopy:
    """The model as it is now, for good."""
    return FrozenCopy(copy.deepcopy(model).eval().requires_grad_(False))


@dataclass(frozen=True)
class AdapterOff:
    """The policy's own weights without its adapters: for a freshly added LoRA."""

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the model with adapters disabled."""
        peft = _peft_model(model)
        with evaluating(peft), peft.disable_adapter():  # type: ignore[operator]
            yield model

    def place(self, device: torch.device | str) -> None:
        """Nothing to move: the weights are the policy's."""


@dataclass(frozen=True)
class AdapterAs:
    """Another adapter on the same weights: the frozen copy of an adapter whose training continues."""

    name: str = REFERENCE_ADAPTER

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the model with that adapter active."""
        peft = _peft_model(model)
        active = peft.active_adapter
        peft.set_adapter(self.name)  # type: ignore[operator]
        try:
            with evaluating(peft):
                yield model
        finally:
            peft.set_adapter(active)  # type: ignore[operator]
            for parameter_name, parameter in peft.named_parameters():
                if f".{self.name}." in parameter_name:
                    parameter.requires_grad_(False)

    def place(self, device: torch.device | str) -> None:
        """Nothing to move: the weights are the policy's."""


def copy_adapter(model: nn.Module, name: str = REFERENCE_ADAPTER) -> AdapterAs:
    """Keep the active adapter of a PEFT model as a frozen second adapter, and make that the reference.

    Raises:
        NeedsError: the model has no adapter.
    """
    peft = _peft_model(model)
    active = peft.active_adapter
    peft.add_adapter(name, peft.peft_config[active])  # type: ignore[operator,index]
    parameters = dict(peft.named_parameters())
    for parameter_name, parameter in parameters.items():
        if f".{active}." in parameter_name:
            twin = parameters[parameter_name.replace(f".{active}.", f".{name}.")]
            twin.data.copy_(parameter.data)
            twin.requires_grad_(False)
    peft.set_adapter(active)  # type: ignore[operator]
    return AdapterAs(name)


def _peft_model(model: nn.Module) -> nn.Module:
    while not hasattr(model, "peft_config") and isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    if not hasattr(model, "disable_adapter"):
        raise NeedsError("the model has no adapter; use frozen_copy(model) as the reference")
    return model
