"""`omnipref train`: what a published method adds to the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnipref.config import TrainConfig
from omnipref.registry import load_method
from omnipref.training.run import train as run


def method_defaults(config: TrainConfig) -> Mapping[str, Any]:
    """The paper's hyper-parameters, to lie under the YAML file and the flags; none without a method."""
    return load_method(config.method, config.method_args).defaults if config.method else {}


def train(config: TrainConfig) -> None:
    """Train with the configuration's objective, or the method's."""
    if config.method:
        run(config, objective=load_method(config.method, config.method_args).objective)
    else:
        run(config)
