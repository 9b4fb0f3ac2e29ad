"""References: which model a log-ratio is measured against, as contexts that yield it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


@contextmanager
def _trained_stays_trained(model: nn.Module) -> Iterator[Callable[[], None]]:
    """PEFT turns gradients of adapters off and on as it changes between them; what this yields undoes that inside.

    FSDP notes at its first pass what is trained, and that pass may be the reference's.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def restore() -> None:
        for parameter, trained in before:
            parameter.requires_grad_(trained)

    try:
        yield restore
    finally:
        restore()


@dataclass
class FrozenCopy:
    """A second set of weights; build it with `frozen_copy(model)`."""

    model: nn.Module

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the frozen model, which stands where the policy does."""
        del model
        yield self.model

    def place(self, prepare: Callable[[nn.Module], nn.Module]) -> None:
        """Put the copy where the policy is: on its device, or in shards over the same processes."""
        self.model = prepare(self.model)


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
        with evaluating(peft), _trained_stays_trained(peft) as restore, peft.disable_adapter():  # type: ignore[operator]
            restore()
            yield model

    def place(self, prepare: Callable[[nn.Module], nn.Module]) -> None:
        """Nothing to do: the weights are the policy's, and stand where they stand."""
        del prepare


@dataclass(frozen=True)
class AdapterAs:
    """Another adapter on the same weights: the frozen copy of an adapter whose training continues."""

    name: str = REFERENCE_ADAPTER

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the model with that adapter active."""
        peft = _peft_model(model)
        active = peft.active_adapter
        with evaluating(peft), _trained_stays_trained(peft) as restore:
            peft.set_adapter(self.name)  # type: ignore[operator]
            restore()
            try:
                yield model
            finally:
                peft.set_adapter(active)  # type: ignore[operator]

    def place(self, prepare: Callable[[nn.Module], nn.Module]) -> None:
        """Nothing to do: the weights are the policy's, and stand where they stand."""
        del prepare


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
