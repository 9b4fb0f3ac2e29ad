"""Sides in turns: warm up, check that they compute the same, then rounds of A B C A B C, with medians and spread."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from omnipref.errors import OmniprefError
from side_by_side.scoring.peers import Side

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""By how much losses of the sides may differ, and their gradients' norms relative to each other."""


@dataclass(frozen=True)
class Deadline:
    """A time to stop at.

    Args:
        seconds: from now; None for never.
        clock: what tells the time.
    """

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "started", self.clock())

    @property
    def left(self) -> float:
        """Seconds that remain; infinite without a limit."""
        return float("inf") if self.seconds is None else self.seconds - (self.clock() - self.started)


@dataclass
class Timed:
    """Seconds of each side on the wall and of the CPU, round by round, and what the warm-up found."""

    seconds: dict[str, list[float]]
    cpu_seconds: dict[str, list[float]]
    losses: dict[str, list[float]]
    gradients: dict[str, list[float]]
    pushed: dict[str, int]
    failed: dict[str, str]


def one_step(side: Side, batch: Any, model: nn.Module, device: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds and loss of a step that starts without gradients."""
    model.zero_grad(set_to_none=True)
    side.ready()
    synchronise(device)
    started, cpu = time.perf_counter(), time.process_time()
    loss = side.step(batch)
    synchronise(device)
    return time.perf_counter() - started, time.process_time() - cpu, float(loss)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def gradient_norm(model: nn.Module) -> float:
    """Norm of all gradients together."""
    found = [parameter.grad.float().norm() for parameter in model.parameters() if parameter.grad is not None]
    return float(torch.stack(found).norm())


def alternate(
    sides: Mapping[str, Side],
    draws: Mapping[str, Sequence[Sequence[Any]]],
    model: nn.Module,
    device: str,
    rounds: int,
    deadline: Deadline,
    tick: Callable[[str], None] = lambda _: None,
) -> Timed:
    """One warm-up of every side, then rounds in which every side does all batches of the round.

    A side that runs out of the device's memory while warming up is left out.

    Args:
        sides: by name.
        draws: of each side, the batches of each round, the warm-up's first; taken in a circle where there are fewer.
        model: the policy, whose gradients are cleared before each step.
        device: `cpu` or `cuda`.
        rounds: to measure.
        deadline: no further round starts after it, once there are two.
        tick: called with the side's name after each of its turns.
    """
    found = Timed({}, {}, {}, {}, {}, {})
    for name, side in sides.items():
        try:
            steps = [(one_step(side, batch, model, device)[2], gradient_norm(model)) for batch in draws[name][0]]
        except torch.OutOfMemoryError:
            found.failed[name] = "out of memory"
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            continue
        found.losses[name], found.gradients[name] = ([step[i] for step in steps] for i in (0, 1))
        found.pushed[name] = sum(side.pushed(batch) for batch in draws[name][0])
        found.seconds[name], found.cpu_seconds[name] = [], []
        tick(name)
    for number in range(rounds):
        if number >= 2 and deadline.left < 0:
            break
        for name in found.seconds:
            gc.collect()
            batches = draws[name][(number + 1) % len(draws[name])]
            steps = [one_step(sides[name], batch, model, device) for batch in batches]
            found.seconds[name].append(sum(step[0] for step in steps))
            found.cpu_seconds[name].append(sum(step[1] for step in steps))
            tick(name)
    model.zero_grad(set_to_none=True)
    return found


def check_equal(timed: Timed, tolerance: float, apart: Sequence[str] = ()) -> dict[str, float]:
    """Largest difference of losses and of gradient norms (relative) between the sides.

    Args:
        timed: what was found.
        tolerance: the largest that is let through.
        apart: sides that compute something else.

    Raises:
        OmniprefError: the sides do not compute the same.
    """
    names = [name for name in timed.losses if name not in apart]
    losses, gradients = (np.array([part[name] for name in names]) for part in (timed.losses, timed.gradients))
    gaps = {
        "loss_gap": float(np.ptp(losses, axis=0).max()),
        "gradient_gap": float((np.ptp(gradients, axis=0) / gradients.max(0)).max()),
    }
    if not max(gaps.values()) <= tolerance:
        raise OmniprefError(f"the sides compute different things: {gaps}, of losses {timed.losses}")
    return gaps


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles.

    Example:
        >>> spread([1.0, 2.0, 4.0])
        {'median': 2.0, 'low': 1.5, 'high': 3.0, 'n': 3}
    """
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high), "n": len(values)}


def ratio(seconds: Mapping[str, Sequence[float]], over: str, under: str) -> dict[str, Any]:
    """Median and quartiles of one side's seconds over another's of the same round."""
    return spread([a / b for a, b in zip(seconds[over], seconds[under], strict=True)])


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """How linear a cost is: the least-squares line, the largest deviation from it, and the exponent of a power law.

    Example:
        >>> line([1, 2, 4], [3.0, 5.0, 9.0])["deviation"] < 1e-12
        True
    """
    slope, start = np.polyfit(x, y, 1)
    fitted = start + slope * np.asarray(x)
    return {
        "slope": float(slope),
        "start": float(start),
        "deviation": float(np.abs(np.asarray(y) / fitted - 1).max()),
        "exponent": float(np.polyfit(np.log(x), np.log(y), 1)[0]),
    }
