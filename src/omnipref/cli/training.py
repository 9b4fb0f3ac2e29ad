"""`omnipref train`: what a published method adds to the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch.distributed as dist

from omnipref.config import RoundsConfig, TrainConfig
from omnipref.registry import load_method
from omnipref.training.rounds import run as run_rounds
from omnipref.training.run import train as run


def method_defaults(config: TrainConfig) -> Mapping[str, Any]:
    """The paper's hyper-parameters, to lie under the YAML file and the flags; none without a method."""
    return load_method(config.method, config.method_args).defaults if config.method else {}


def rounds(config: RoundsConfig) -> None:
    """Rounds with the objective in `train`, or with the method's objective and, under what is given, its defaults."""
    given = {name.replace("-", "_"): value for name, value in config.train.items()}
    method = load_method(given["method"], given.get("method_args")) if given.get("method") else None
    defaults = method.defaults if method else {}
    run_rounds(replace(config, train={**defaults, **given}), method.objective if method else None)


def train(config: TrainConfig) -> None:
    """Train with the configuration's objective, or the method's."""
    objective = load_method(config.method, config.method_args).objective if config.method else None
    run(config, objective=objective)
    if dist.is_available() and dist.is_initialized():
        # A process that leaves first takes the others down while they still write.
        dist.barrier()
        dist.destroy_process_group()
