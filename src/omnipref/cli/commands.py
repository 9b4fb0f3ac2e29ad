"""The table of commands: each is a configuration and the place of the function that takes it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omnipref import config as configs
from omnipref.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Args:
        name: as typed, such as `train` or `data inspect`.
        config: class of its values; its docstring is the help.
        target: `module:function` that takes the configuration; imported when the command runs.
        underlay: `module:function` from the configuration to values that lie under the YAML file and the flags.
        resumes: whether the same command continues an interrupted run.
    """

    name: str
    config: type[configs.Config]
    target: str
    underlay: str | None = None
    resumes: bool = False

    @property
    def summary(self) -> str:
        """First line of the help."""
        return inspect.cleandoc(self.config.__doc__ or "").partition("\n")[0]


COMMANDS = (
    Command(name="demo", config=configs.DemoConfig, target="omnipref.demo:run", resumes=True),
    Command(
        name="train",
        config=configs.TrainConfig,
        target="omnipref.cli.training:train",
        underlay="omnipref.cli.training:method_defaults",
        resumes=True,
    ),
    Command(name="data inspect", config=configs.InspectConfig, target="omnipref.cli.data:inspect"),
    Command(name="data convert", config=configs.ConvertConfig, target="omnipref.cli.data:convert"),
    Command(name="data pairs", config=configs.PairsConfig, target="omnipref.cli.data:pairs"),
    Command(name="build", config=configs.BuildConfig, target="omnipref.build:run", resumes=True),
    Command(name="sample", config=configs.SampleConfig, target="omnipref.policies.sample_files:run", resumes=True),
    Command(name="rounds", config=configs.RoundsConfig, target="omnipref.cli.training:rounds", resumes=True),
    Command(name="score", config=configs.ScoreConfig, target="omnipref.training.scoring:score", resumes=True),
    Command(name="eval", config=configs.EvalConfig, target="omnipref.evaluation.run:evaluate"),
    Command(name="report", config=configs.ReportConfig, target="omnipref.evaluation.report:report"),
    Command(name="doctor", config=configs.DoctorConfig, target="omnipref.evaluation.doctor.command:doctor"),
    Command(name="compare", config=configs.CompareConfig, target="omnipref.cli.compare:compare", resumes=True),
    Command(name="methods", config=configs.MethodsConfig, target="omnipref.cli.methods:show"),
    Command(name="reproduce", config=configs.ReproduceConfig, target="omnipref.cli.reproduce:reproduce", resumes=True),
    Command(name="env", config=configs.EnvConfig, target="omnipref.environment:show"),
)


def resolve(target: str) -> Callable[..., Any]:
    """The function behind `module:function`."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def select(words: list[str]) -> tuple[Command, list[str]]:
    """The command that a command line begins with, and what follows it.

    Raises:
        ConfigError: there is no such command; proposes the nearest.
    """
    table: Mapping[str, Command] = {command.name: command for command in COMMANDS}
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in table:
            return table[name], words[length:]
    group = [name for name in table if name.startswith(f"{words[0]} ")]
    typed = " ".join(word for word in words[:2] if not word.startswith("-")) if group else words[0]
    raise ConfigError(f"found no command `{typed}`; {nearest(typed, group or table)}")
