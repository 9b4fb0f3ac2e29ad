"""Configurations as typed values: one dataclass per command, read from YAML and flags alike. Imports no torch."""

from omnipref.config.base import Config
from omnipref.config.commands import (
    BuildConfig,
    ConvertConfig,
    DemoConfig,
    EnvConfig,
    EvalConfig,
    InspectConfig,
    MethodsConfig,
    PairsConfig,
    ReportConfig,
    ReproduceConfig,
    SampleConfig,
    ScoreConfig,
)
from omnipref.config.examining import CompareConfig, DoctorConfig
from omnipref.config.load import load_config, read_values, save_config, validate
from omnipref.config.rounds import RoundsConfig
from omnipref.config.train import TrainConfig

__all__ = [
    "BuildConfig",
    "CompareConfig",
    "Config",
    "ConvertConfig",
    "DemoConfig",
    "DoctorConfig",
    "EnvConfig",
    "EvalConfig",
    "InspectConfig",
    "MethodsConfig",
    "PairsConfig",
    "ReportConfig",
    "ReproduceConfig",
    "RoundsConfig",
    "SampleConfig",
    "ScoreConfig",
    "TrainConfig",
    "load_config",
    "read_values",
    "save_config",
    "validate",
]
