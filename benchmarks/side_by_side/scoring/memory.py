"""Peak memory of one side's step, in a process of its own: `python -m side_by_side.scoring.memory SPEC.json OUT.json`.

The rise is counted from the state before the step: both models loaded, the batch laid out, libraries warmed up on a
model for trials, no gradients yet. Gradients of the weights are part of the rise, and the same for every side.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from omnipref.errors import OmniprefError
from side_by_side.record import write_atomically
from side_by_side.scoring.bench import Bench, Settings, small
from side_by_side.scoring.clock import one_step
from side_by_side.scoring.workloads import WORKLOADS
from side_by_side.sides import memory_mib

MIB = 2**20
CLEAR = Path("/proc/self/clear_refs")


def measured(settings: Settings, workload: str, side: str) -> dict[str, Any]:
    """Peak above the state before the steps, in MiB, and what of it gradients are.

    Args:
        settings: of the run.
        workload: a key of `WORKLOADS`.
        side: one of its sides.
    """
    torch.set_num_threads(settings.threads)
    if settings.device == "cpu":
        _warm_up(small(settings), workload, side)
    bench = Bench(settings)
    return peak(bench, workload, side)


def peak(bench: Bench, workload: str, side: str) -> dict[str, Any]:
    """The same with the models of a bench, in this process.

    Args:
        bench: holds the models.
        workload: a key of `WORKLOADS`.
        side: one of its sides.
    """
    chosen = WORKLOADS[workload]
    bench.load(chosen.kind)
    point = chosen.points(bench)[0]
    made = bench.sides(chosen, point.batches[0][0])[side]
    batches = [made.prepare(samples) for samples in point.batches]
    watch = _watch_process if bench.settings.device == "cpu" else _watch_device

    def steps() -> None:
        for batch in batches:
            one_step(made, batch, bench.policy, bench.settings.device)

    if bench.settings.device != "cpu":
        steps()  # what is compiled at first takes memory of its own
    bench.policy.zero_grad(set_to_none=True)
    found = watch(steps)
    gradients = sum(p.grad.nbytes for p in bench.policy.parameters() if p.grad is not None) / MIB
    return {**found, "gradients_mib": gradients}


def _warm_up(settings: Settings, workload: str, side: str) -> None:
    bench = Bench(settings)
    peak(bench, workload, side)


def _watch_process(steps: Callable[[], Any]) -> dict[str, float]:
    """Peak resident memory above what is resident before; without Linux's `/proc`, above the peak so far."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    if CLEAR.exists():
        CLEAR.write_text("5")  # forgets the peak so far
    before = memory_mib("VmHWM")
    steps()
    highest = memory_mib("VmHWM")
    return {"before_mib": before, "peak_mib": highest, "rise_mib": highest - before}


def _watch_device(steps: Callable[[], Any]) -> dict[str, float]:
    """Peak of the device's allocated memory above what is allocated before."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / MIB
    steps()
    highest = torch.cuda.max_memory_allocated() / MIB
    return {"before_mib": before, "peak_mib": highest, "rise_mib": highest - before}


def in_a_process(settings: Settings, workload: str, side: str, folder: Path) -> dict[str, Any]:
    """`measured` in a fresh process.

    Args:
        settings: of the run.
        workload: a key of `WORKLOADS`.
        side: one of its sides.
        folder: for the question and the answer.

    Raises:
        OmniprefError: the process failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec, answer = (folder / f".{workload}-{side}.{part}.json" for part in ("spec", "answer"))
    spec.write_text(json.dumps({"settings": vars(settings), "workload": workload, "side": side}))
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-m", "side_by_side.scoring.memory", str(spec), str(answer)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    spec.unlink()
    if ended.returncode:
        raise OmniprefError(f"the memory of {side} on {workload} could not be measured:\n{ended.stderr[-2000:]}")
    found = json.loads(answer.read_text())
    answer.unlink()
    return found


def main(spec: str, answer: str) -> None:
    asked = json.loads(Path(spec).read_text())
    found = measured(Settings(**asked["settings"]), asked["workload"], asked["side"])
    write_atomically(Path(answer), json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
