"""From our configuration to transformers.TrainingArguments."""

from __future__ import annotations

from dataclasses import fields

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)

from omnipref.config import TrainConfig
from omnipref.errors import ConfigError, nearest


def training_arguments(config: TrainConfig, *, evaluate: bool, media: bool = False) -> TrainingArguments:
    """The arguments of the run; `config.training_arguments` has the last word.

    Args:
        config: the run's configuration.
        evaluate: whether there are evaluation data.
        media: whether the model has encoders of media, which a batch of text leaves without gradient.

    Raises:
        ConfigError: an unknown field in `training_arguments` (with the nearest known one), or values that
            transformers refuses.
    """
    same = {field.name for field in fields(TrainConfig)} & {field.name for field in fields(TrainingArguments)}
    same -= {"gradient_checkpointing"}  # transformers calls it activation_checkpointing now
    values = {name: getattr(config, name) for name in same if getattr(config, name) is not None}
    values |= {
        "warmup_steps": config.warmup_ratio,
        "report_to": config.report_to or "none",
        "eval_strategy": "steps" if evaluate and config.eval_steps else "no",
        "save_strategy": "steps",
        "use_cpu": not torch.accelerator.is_available(),
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "activation_checkpointing": config.gradient_checkpointing,
        "logging_first_step": True,
        "ddp_find_unused_parameters": media,
        # Every process reads the stream and keeps its share; batches of other shapes cannot be handed out.
        "accelerator_config": {"dispatch_batches": False},
    }
    known = {field.name for field in fields(TrainingArguments)}
    for name in config.training_arguments:
        if name not in known:
            raise ConfigError(f"found `{name}` in `training_arguments`; {nearest(name, known)}")
    values |= config.training_arguments
    try:
        trackers = [name for name in config.report_to if name not in ("all", "none")]
        get_reporting_integration_callbacks(trackers)
        if missing := [name for name in trackers if name not in get_available_reporting_integrations()]:
            raise ConfigError(
                f"`report_to` names {missing[0]}, whose package is not installed; install it or leave it away"
            )
        return TrainingArguments(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"transformers refuses these training arguments: {error}") from error
