"""Compiled layers: each layer of a model on its own, because scoring does not go through the model's forward pass."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn
from transformers import TrainingArguments


def compile_layers(accelerator: Accelerator, args: TrainingArguments, *models: nn.Module | None) -> None:
    """Compile the layers that `transformers` keeps together on a device, if `torch_compile` is asked for.

    Layers of one kind share their code, which takes batches of any size. Attention over token trees on a CPU stays as
    it is. Names and weights stay what they are.

    Args:
        accelerator: would otherwise compile a forward pass that scoring never calls.
        args: say whether, and with which backend and mode.
        models: changed in place.
    """
    if not args.torch_compile:
        return
    accelerator.state.dynamo_plugin.backend = DynamoBackend.NO  # type: ignore[union-attr]
    backend, mode = args.torch_compile_backend or "inductor", args.torch_compile_mode
    for model in models:
        named = set(getattr(model, "_no_split_modules", None) or ())
        for module in model.modules() if model else ():
            if type(module).__name__ in named:
                module.compile(dynamic=True, backend=backend, mode=mode)
