"""A run folder as the doctor reads it: what was asked for, what was logged, and how each number went."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omnipref.errors import ConfigError, DataError
from omnipref.evaluation.doctor.sources import Probe, probe_sources
from omnipref.evaluation.files import read_json, read_rows, read_text

STATE = "trainer_state.json"
ENOUGH = 4
"""Fewest lines of a log that show how a number went whose start is known."""
NOISY = 8
"""Fewest where start and end both scatter."""


@dataclass(frozen=True)
class Change:
    """How a number went from the start to the end of a run.

    Args:
        start: mean over the first quarter of the lines, or the first value where that is exact.
        end: mean over the last quarter.
        error: standard error of `end - start`, from the scatter within the quarters.
    """

    start: float
    end: float
    error: float

    @property
    def by(self) -> float:
        """`end - start`."""
        return self.end - self.start

    @property
    def falls(self) -> bool:
        """Whether it went down by more than twice its standard error."""
        return self.by < -self._least

    @property
    def rises(self) -> bool:
        """Whether it went up by more than twice its standard error."""
        return self.by > self._least

    @property
    def _least(self) -> float:
        return 2 * self.error + 1e-6 * max(1.0, abs(self.start))

    def text(self, digits: int = 3) -> str:
        """Such as `0.000 to -1.234`."""
        return f"{self.start:.{digits}f} to {self.end:.{digits}f}"


@dataclass(frozen=True)
class Series:
    """A logged number over the steps; what is not finite is left out.

    Example:
        >>> Series((1, 2, 3, 4), (0.0, 1.0, 2.0, 2.0)).change().by
        1.5
    """

    steps: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def last(self) -> float:
        """Mean over the last quarter of the lines."""
        return statistics.fmean(self.values[-self._quarter :])

    @property
    def last_error(self) -> float:
        """Standard error of `last`."""
        return _error(self.values[-self._quarter :])

    def change(self, *, exact_start: bool = False) -> Change:
        """From the first quarter of the lines to the last, each of two lines at least.

        Args:
            exact_start: whether the first value has no noise, as a reward has before the first update.
        """
        if exact_start:
            return Change(self.values[0], self.last, self.last_error)
        first = self.values[: self._quarter]
        return Change(statistics.fmean(first), self.last, math.hypot(_error(first), self.last_error))

    @property
    def _quarter(self) -> int:
        return max(2, len(self.values) // 4)

    def minus(self, other: Series) -> Series:
        """The difference at the steps that both have."""
        theirs = dict(zip(other.steps, other.values, strict=True))
        both = [(s, v - theirs[s]) for s, v in zip(self.steps, self.values, strict=True) if s in theirs]
        return Series(*map(tuple, zip(*both, strict=True))) if both else Series()


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Run:
    """A parsed run.

    Args:
        name: of its folder.
        config: fields of `omnipref train`; empty where the folder holds no `config.yaml`.
        log: lines of the trainer's log.
        own: mean negative log-likelihood per unit, in nats, of the reference's own samples, where it was measured.
        probe: what style tells about its data, where they were looked at.
    """

    name: str
    config: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    own: float | None = None
    probe: Probe | None = None

    def series(self, name: str) -> Series:
        """The finite values of a name of the log; empty where it was never logged."""
        points = [
            (float(line["step"]), float(line[name]))
            for line in self.log
            if isinstance(line.get(name), (int, float)) and math.isfinite(line[name])
        ]
        return Series(*map(tuple, zip(*points, strict=True))) if points else Series()

    def names(self) -> Iterator[str]:
        """Everything that was logged, in the order of its first line."""
        yield from dict.fromkeys(name for line in self.log for name in line)

    @property
    def model(self) -> str:
        """The model that the run started from, as a command names it."""
        return str(self.config.get("model_name_or_path") or "MODEL")

    @property
    def data(self) -> str:
        """The first file of the run's data, as a command names it."""
        named = self.config.get("dataset")
        return str(named[0]) if isinstance(named, list) and named else "DATA"


def read_run(folder: Path | str, own_scores: Path | str | None = None, *, look_at_data: bool = False) -> Run:
    """A run from its folder.

    Args:
        folder: `output_dir` of `omnipref train`.
        own_scores: what `omnipref score` wrote about samples that the starting model drew itself.
        look_at_data: whether to probe the data that the configuration names.

    Raises:
        ConfigError: no such folder.
        DataError: it holds no log, or a broken file.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"found no folder {path}; expected the `output_dir` of `omnipref train`")
    log = read_log(path)
    if not log:
        cure = "name the `output_dir` of a run that has logged at least once"
        raise DataError("nothing to examine", f"{STATE} with a log", cure=cure, source=str(path))
    own = own_likelihood(own_scores) if own_scores is not None else None
    config = _config(path / "config.yaml")
    return Run(path.resolve().name, config, log, own, probe_sources(config) if look_at_data else None)


def read_log(folder: Path) -> list[dict[str, Any]] | None:
    """The lines of a run's log: of the folder itself, or of its last checkpoint; None where there is neither.

    Raises:
        DataError: the file is broken, or a line has no step.
    """
    checkpoints = sorted(folder.glob(f"checkpoint-*/{STATE}"), key=lambda path: int(path.parent.name.split("-")[-1]))
    path = next((path for path in [folder / STATE, *reversed(checkpoints)] if path.exists()), None)
    if path is None:
        return None
    found = read_json(path)
    history = found.get("log_history") if isinstance(found, dict) else None
    if not isinstance(history, list):
        raise DataError("no list", "the trainer's log", field="log_history", source=str(path))
    for number, line in enumerate(history):
        if not isinstance(line, dict) or not isinstance(line.get("step"), (int, float)):
            raise DataError("a line without `step`", "one", record=number, field="log_history", source=str(path))
    return history


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DataError("something that is not YAML", "the run's configuration", source=str(path)) from error
    if not isinstance(found, dict):
        raise DataError(f"a {type(found).__name__}", "`name: value` lines", source=str(path))
    return found


def own_likelihood(path: Path | str) -> float:
    """Mean negative log-likelihood per unit over all cases of a file that `omnipref score` wrote, in nats.

    Raises:
        DataError: a line without scored cases.
    """
    nats, units = 0.0, 0
    for record, row in enumerate(read_rows(path)):
        cases = [case for case in row.values() if isinstance(case, dict) and {"logp", "units"} <= case.keys()]
        if not cases:
            cure = "write it with `omnipref score`"
            raise DataError("no scored case", "`logp` and `units`", record=record, source=str(path), cure=cure)
        nats -= sum(float(case["logp"]) for case in cases)
        units += sum(int(case["units"]) for case in cases)
    if not units:
        raise DataError("cases without units", "responses of at least one token", source=str(path))
    return nats / units
