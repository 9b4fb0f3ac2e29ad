"""The configurations of the commands that look at runs and objectives; each docstring is the command's `--help`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from tyro.conf import Positional

from omnipref.config.base import Config


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Config):
    """Say whether a training run is healthy, with numbers and remedies; exit code 0 if so, 1 if something is ill.

    What the folder cannot tell is said too, with the command that would; it does not change the exit code.

    Examples:
      omnipref doctor run
      omnipref doctor run --json
      omnipref doctor run --own-scores own-scores.jsonl
    """

    run: Positional[str]
    """Output folder of `omnipref train`."""
    own_scores: str | None = None
    """What `omnipref score` wrote about the starting model's own samples; tells whether the data are off-policy."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """Train any objectives from the same start in a world whose true reward is known; rank them at equal steps and KL.

    Every objective sees the same worlds, one per seed. What was already run is taken from `output_dir`.

    Examples:
      omnipref compare "dpo(beta=0.1)" "ipo()" "simpo()" --world coverage --seeds 5 --steps 1500
      omnipref compare "dpo()" "dpo() + 0.1*sft()" --kl 0.5 --output-dir anchored
      omnipref compare "dpo()" "plackett_luce()" "pro()" --world dialogue --seeds 5 --output-dir dialogue
    """

    objectives: Positional[list[str]]
    """What is minimised, one text each: constructors added and scaled like numbers."""
    world: str = "coverage"
    """Where: `coverage` is a bandit whose pairs cover a part of the actions; in `dialogue` and `arithmetic` a small
    transformer learns from judged samples of its own."""
    seeds: int = 5
    """How many worlds, drawn with seeds from 0."""
    steps: int | None = None
    """Updates; None: the world's own."""
    rate: float | None = None
    """Learning rate of Adam; None: the world's own."""
    kl: float | None = None
    """Divergence from the start, in nats, at which to compare; None: the largest that every path reaches."""
    output_dir: str = "omnipref-compare"
    """Folder for `compare.json`, `compare.md` and `compare.png`."""
    fresh: bool = False
    """Run everything again."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "seeds": (2, 1000),
        "steps": (1, inf),
        "rate": (0, inf),
        "kl": (0, inf),
    }
