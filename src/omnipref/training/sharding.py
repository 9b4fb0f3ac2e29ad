"""Frozen weights beside trained ones: on the same device, or in shards over the same processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, fsdp2_prepare_model
from torch import nn

from omnipref.errors import ConfigError


def place_frozen(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Put a model that is not trained where `accelerator` puts the one that is.

    Under FSDP2 and DeepSpeed ZeRO-3 each process then holds its share of the weights, as of the trained ones; otherwise
    a process holds all of them, on its device.

    Args:
        accelerator: the trainer's.
        model: frozen.

    Returns:
        What to run: the same module, or DeepSpeed's engine around it.

    Raises:
        ConfigError: the run is sharded by FSDP's first version.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return _by_deepspeed(accelerator, model)
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise ConfigError(
                "found FSDP version 1, which a frozen reference cannot share; set `fsdp_version: 2` in accelerate's "
                "configuration, or `version: 2` in `fsdp_config`"
            )
        with _own_layers(accelerator, model):
            return fsdp2_prepare_model(accelerator, model).eval()
    return model.to(accelerator.device)


def settle_sharding(accelerator: Accelerator, model: nn.Module) -> None:
    """Fill in what FSDP's configuration leaves open for a model: which layers are shards, and how bfloat16 is used.

    Accelerate would take all names of layers that `transformers` lists for the model, and stop at those of parts it
    lacks; and it would round what modules return, log-probabilities too, and sums of gradients to bfloat16.

    Args:
        accelerator: the trainer's.
        model: about to be sharded.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None or not accelerator.is_fsdp2:
        return
    if plugin.transformer_cls_names_to_wrap is None:
        present = {type(module).__name__ for module in model.modules()}
        named = getattr(model, "_no_split_modules", None) or ()
        plugin.transformer_cls_names_to_wrap = sorted(present.intersection(named))
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32
        )


@contextmanager
def _own_layers(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """FSDP's settings for another model than the trained one."""
    plugin = accelerator.state.fsdp_plugin
    accelerator.state.fsdp_plugin = copy.copy(plugin)
    try:
        settle_sharding(accelerator, model)
        yield
    finally:
        accelerator.state.fsdp_plugin = plugin


def _by_deepspeed(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """An engine without optimiser; below stage 3, where weights are whole everywhere, the model as it is."""
    settings = copy.deepcopy(accelerator.deepspeed_plugin.deepspeed_config)  # type: ignore[union-attr]
    zero = settings.get("zero_optimization", {})
    if zero.get("stage", 0) < 3:
        return model.to(accelerator.device)
    import deepspeed  # type: ignore[import-not-found]

    # Without these the engine has no optimiser; sizes that transformers fills in for the trained model have defaults.
    without = {"optimizer", "scheduler"}
    zero = {name: value for name, value in zero.items() if name != "offload_optimizer" and value != "auto"}
    settings = {name: value for name, value in settings.items() if name not in without} | {"zero_optimization": zero}
    engine, *_ = deepspeed.initialize(model=model, config=settings)
    engine.eval()  # returns nothing, unlike a module's
    return engine
