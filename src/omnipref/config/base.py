"""What configurations share: bounds of their numbers, conflicts between their fields, and groups of fields."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Layout = Literal["forest", "rows"]


@dataclass(frozen=True, kw_only=True)
class Config(ABC):
    """A command's values: frozen, typed, printable, saved beside what the command wrote.

    A subclass's docstring and the strings below its fields are the command's `--help`.
    """

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Smallest and largest allowed value, by field."""

    def conflicts(self) -> Iterator[str]:
        """Sentences that say which fields cannot be used together, and what to do; none by default."""
        return iter(())


@dataclass(frozen=True, kw_only=True)
class Records(Config, ABC):
    """How records are read."""

    dataset_split: str = "train"
    """Split of a `datasets` data set."""
    dataset_format: str | None = None
    """Format of the records; found from the columns when not given."""


@dataclass(frozen=True, kw_only=True)
class Model(Records, ABC):
    """A model and how it is loaded, on the first records of some data."""

    model_name_or_path: str
    """Model: a folder, or a name on the Hugging Face hub."""
    adapter: str | None = None
    """PEFT adapter on the model."""
    dtype: Dtype = "auto"
    """Type of the weights; `auto` keeps the checkpoint's."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    limit: int | None = None
    """Read only the first records."""
    batch_size: int = 8
    """Records at once."""
    seed: int = 0
    """Draws whatever is random, together with the record's number."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"batch_size": (1, inf), "limit": (1, inf)}


@dataclass(frozen=True, kw_only=True)
class Scoring(Model, ABC):
    """How cases are scored, and what their rewards are measured against."""

    ref_model: str | None = None
    """Reference of log-ratios and rewards; none by default."""
    ref_adapter: str | None = None
    """PEFT adapter of the reference, on the same weights."""
    beta: float = 0.1
    """Scale of the reward."""
    layout: Layout = "forest"
    """`forest` shares the tokens and pictures that cases have in common; `rows` scores each case alone."""
    max_length: int | None = None
    """Longest case in tokens, media included; None: the model's context."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {**Model.bounds, "max_length": (1, inf)}

    def conflicts(self) -> Iterator[str]:
        """One reference at most."""
        if self.ref_model and self.ref_adapter:
            yield "`ref_model` and `ref_adapter` both name the reference; keep one"
