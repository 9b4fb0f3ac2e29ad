"""`omnipref train`: what a published method adds to the configuration."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch.distributed as dist

from omnipref.config import RoundsConfig, TrainConfig
from omnipref.errors import ConfigError, NeedsError
from omnipref.method import Method
from omnipref.registry import load_method
from omnipref.training.rounds import run as run_rounds
from omnipref.training.run import train as run


def method_defaults(config: TrainConfig) -> Mapping[str, Any]:
    """The paper's hyper-parameters, to lie under the YAML file and the flags; none without a method."""
    return _method(config.method, config.method_args, config.objective).defaults if config.method else {}


def _method(slug: str, arguments: Mapping[str, Any], objective: str) -> Method:
    """A method, unless another objective than its own was asked for; `config.yaml` of its runs names its own."""
    method = load_method(slug, arguments)
    if objective not in (TrainConfig.objective, str(method.objective)):
        raise ConfigError(
            f"`method: {slug}` brings its own objective, `{method.objective}`, and `objective` asks for "
            f"`{objective}`; leave `objective` away, or the method"
        )
    return method


def rounds(config: RoundsConfig) -> None:
    """Rounds with the objective in `train`, or with the method's objective and, under what is given, its defaults.

    Raises:
        ConfigError: as `omnipref train`, of what stands in `train`.
    """
    given = {name.replace("-", "_"): value for name, value in config.train.items()}
    if not given.get("method"):
        run_rounds(config)
        return
    asked = str(given.get("objective", TrainConfig.objective))
    method = _method(str(given["method"]), given.get("method_args") or {}, asked)
    with _data_of(method):
        train = {**method.defaults, **given, "objective": str(method.objective)}
        run_rounds(replace(config, train=train), method.objective)


def train(config: TrainConfig) -> None:
    """Train with the configuration's objective, or the method's.

    Raises:
        ConfigError: a method beside another objective than its own.
        NeedsError: the data lack what is read; with a method, says which builders make it.
    """
    if config.method:
        method = _method(config.method, config.method_args, config.objective)
        with _data_of(method):
            run(replace(config, objective=str(method.objective)), objective=method.objective)
    else:
        run(config)
    if dist.is_available() and dist.is_initialized():
        # A process that leaves first takes the others down while they still write.
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def _data_of(method: Method) -> Iterator[None]:
    """Names the method's builders where data lack what it reads."""
    try:
        yield
    except NeedsError as error:
        if not method.builders:
            raise
        made = f"omnipref build FILE --builders {shlex.join(method.builders)} --output OUT"
        raise NeedsError(f"{error}. The method's own way: {made}") from error
