"""The settings of a run, the models it measures, and its sides by name."""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from omnipref.objectives import Objective
from omnipref.policies.autoregressive.backbone import positions_of
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from side_by_side.scoring.costs import Meter, unrolled
from side_by_side.scoring.ours import Ours
from side_by_side.scoring.peers import Loop, Loss, Side, Unrolled, likelihood
from side_by_side.scoring.samples import Draw, Sample
from side_by_side.scoring.shapes import SHAPES, Shape, built, encoders
from side_by_side.scoring.trl_side import Trl


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a measurement.

    Args:
        shape: size of the models, a key of `SHAPES`.
        device: `cpu` or `cuda`.
        dtype: `float32` or `bfloat16`.
        threads: of torch.
        rounds: measured rounds.
        batch: preferences of a step; 0 takes the shape's own.
        max_batch_tokens: most tokens that our forest shows the model at once; 0 for no limit.
        seed: of weights and data.
        data: HH-RLHF's pairs.
    """

    shape: str = "6x512"
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 2
    rounds: int = 5
    batch: int = 0
    max_batch_tokens: int = 0
    seed: int = 0
    data: str = ""

    @property
    def key(self) -> str:
        """A folder's name for results of these settings."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.shape}-{self.device}-{self.dtype}-{digest}"


@dataclass(frozen=True)
class Point:
    """One setting of a workload.

    Args:
        label: for tables.
        draws: for each round its batches of samples, the warm-up's first; a single draw serves all rounds.
        facts: what is known about the samples.
        x: the quantity that a sweep varies.
    """

    label: str
    draws: Sequence[Sequence[Sequence[Sample]]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    x: float = 0.0

    @property
    def batches(self) -> Sequence[Sequence[Sample]]:
        """Those of one round."""
        return self.draws[0]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is measured in turns.

    Args:
        title: heading of its table.
        sides: keys of `SIDES`, in their order of turns.
        objective: of our sides.
        loss: the hand-written same.
        points: draws the samples.
        kind: `text` or `vision`, the model that it takes.
        needs_data: whether it reads HH-RLHF's pairs.
        axis: the quantity that its points vary; empty for a single point.
        linear: whether the cost should be linear in that quantity.
    """

    title: str
    sides: tuple[str, ...]
    objective: Callable[[], Objective]
    loss: Loss
    points: Callable[[Bench], Sequence[Point]]
    kind: str = "text"
    needs_data: bool = False
    axis: str = ""
    linear: bool = False


class Bench:
    """Models and sides of a run; holds one pair of models at a time.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings):
        self.settings, self.kind = settings, ""
        self.policy: Any = None
        self.reference: Any = None
        self.folder = Path(tempfile.mkdtemp(prefix="omnipref-scoring-"))

    @property
    def shape(self) -> Shape:
        """Size of the models."""
        return SHAPES[self.settings.shape]

    @property
    def batch(self) -> int:
        """Preferences of a step."""
        return self.settings.batch or self.shape.batch

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return getattr(torch, self.settings.dtype)

    def load(self, kind: str) -> None:
        """Have the policy and the reference of a kind at hand: the same sizes, weights of two seeds.

        Encoders of pictures are frozen in both and equal, as they are when a reference is the policy before training.

        Args:
            kind: `text` or `vision`.
        """
        if kind == self.kind:
            return
        self.policy = self.reference = None
        gc.collect()
        make = self.shape.vision if kind == "vision" else self.shape.text
        assert make is not None, f"{self.settings.shape} has no {kind} model"
        device, seed = self.settings.device, self.settings.seed
        self.policy = built(make(), kind, device, self.dtype, seed)
        self.reference = built(make(), kind, device, self.dtype, seed + 1).eval().requires_grad_(False)
        for name, part in encoders(self.reference).items():
            part.load_state_dict(getattr(self.policy.model, name).state_dict())
        self.kind, self.owner = kind, self.shape.owner(kind)

    def draw(self) -> Draw:
        """Draws samples for the models at hand."""
        shape, policy = self.shape, AutoregressivePolicy(self.owner, positions=positions_of(self.policy))
        return Draw(policy, shape.vocabulary, shape.picture, shape.shrink, self.settings.seed)

    def meter(self) -> Meter:
        """FLOPs of the model at hand."""
        return Meter.of(self.policy, (self.shape.picture // 14) ** 2)

    def sides(self, workload: Workload, example: Sample) -> dict[str, Side]:
        """The workload's sides, without those whose library is not installed."""
        return {name: SIDES[name](self, workload, example) for name in workload.sides if name not in self.missing()}

    def missing(self) -> dict[str, str]:
        """Sides that cannot run here, and why."""
        return {} if find_spec("trl") else {"trl": "TRL is not installed"}

    def loop(self, loss: Loss) -> Loop:
        """The hand-written loop with a loss."""
        return Loop(self.policy, self.reference, loss, self.settings.device)

    def ours(self, workload: Workload, layout: str, *, cached: bool = False) -> Ours:
        """Our trainer in a layout."""
        return Ours.built(
            self.policy,
            self.reference,
            self.owner,
            workload.objective(),
            self.settings.device,
            self.folder,
            layout=layout,
            cached=cached,
            max_batch_tokens=self.settings.max_batch_tokens or None,
        )


def _trl(bench: Bench, workload: Workload, example: Sample) -> Side:
    del workload
    device = bench.settings.device
    return Trl.built(bench.policy, bench.reference, bench.owner, example.peer, device, bench.folder)


def _loop(bench: Bench, workload: Workload, example: Sample) -> Side:
    del example
    return bench.loop(workload.loss)


def _sequence(bench: Bench, workload: Workload, example: Sample) -> Side:
    del workload, example
    return Unrolled(bench.loop(likelihood), unrolled)


def _rows(bench: Bench, workload: Workload, example: Sample) -> Side:
    del example
    return bench.ours(workload, "rows")


def _forest(bench: Bench, workload: Workload, example: Sample) -> Side:
    del example
    return bench.ours(workload, "forest")


def _cached(bench: Bench, workload: Workload, example: Sample) -> Side:
    del example
    return bench.ours(workload, "forest", cached=True)


SIDES: Mapping[str, Callable[[Bench, Workload, Sample], Side]] = {
    "trl": _trl,
    "loop": _loop,
    "rows": _rows,
    "forest": _forest,
    "forest_cached": _cached,
    "sequence": _sequence,
}
NAMES: Mapping[str, str] = {
    "trl": "TRL's DPOTrainer",
    "loop": "a hand-written padded loop",
    "rows": "omnipref, one row per case",
    "forest": "omnipref, forest",
    "forest_cached": "omnipref, forest, cached reference",
    "sequence": "a plain sequence of as many tokens",
}
APART = ("sequence",)
"""Sides that compute another loss, at a comparable cost."""


def small(settings: Settings) -> Settings:
    """The same on a model for trials."""
    return replace(settings, shape="tiny", rounds=min(settings.rounds, 2))
