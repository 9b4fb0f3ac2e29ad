"""One question after the other: its samples, its sides in turns, and what came out, as plain data."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from omnipref.objectives import dpo
from omnipref.preferences import read, write_jsonl
from omnipref.training.data import prepare
from side_by_side.scoring import costs
from side_by_side.scoring.bench import APART, Bench, Point
from side_by_side.scoring.clock import TOLERANCE, Deadline, alternate, check_equal
from side_by_side.scoring.peers import Side
from side_by_side.scoring.samples import text_preferences
from side_by_side.scoring.workloads import WORKLOADS

DATA_SIZE = "data_size"
DATA_SIZES = (8, 16, 32)
DATA_PROMPT, DATA_RESPONSE, DATA_BATCH = 96, 24, 4


def answer(bench: Bench, name: str, deadline: Deadline, tick: Callable[[str], None]) -> dict[str, Any]:
    """The answer to a question: a key of `WORKLOADS`, or `data_size`."""
    return data_size(bench, deadline, tick) if name == DATA_SIZE else question(bench, name, deadline, tick)


def question(bench: Bench, name: str, deadline: Deadline, tick: Callable[[str], None]) -> dict[str, Any]:
    """Everything that was measured for one workload."""
    workload = WORKLOADS[name]
    load, started = os.getloadavg()[0], time.monotonic()
    bench.load(workload.kind)
    drawn = workload.points(bench)
    sides = bench.sides(workload, drawn[0].batches[0][0])
    points = []
    for point in drawn:
        points.append(_point(bench, sides, point, deadline, lambda side, p=point: tick(f"{p.label}: {side}")))
        if deadline.left < 0:
            break
    return {
        "title": workload.title,
        "axis": workload.axis,
        "linear": workload.linear,
        "sides": list(workload.sides),
        "points": points,
        "missing": {side: why for side, why in bench.missing().items() if side in workload.sides},
        "load_before": load,
        "took_s": time.monotonic() - started,
    }


def _point(
    bench: Bench, sides: Mapping[str, Side], point: Point, deadline: Deadline, tick: Callable[[str], None]
) -> dict[str, Any]:
    settings = bench.settings
    draws = {
        name: [[side.prepare(samples) for samples in batches] for batches in point.draws]
        for name, side in sides.items()
    }
    timed = alternate(sides, draws, bench.policy, settings.device, settings.rounds, deadline, tick)
    samples = [sample for batch in point.batches for sample in batch]
    least, padded, meter = costs.distinct(samples), costs.padded(point.batches), bench.meter()
    return {
        "label": point.label,
        "x": point.x,
        "facts": dict(point.facts),
        "preferences": len(samples),
        "steps": len(point.batches),
        "seconds": timed.seconds,
        "cpu_seconds": timed.cpu_seconds,
        "pushed": timed.pushed,
        "failed": timed.failed,
        "losses": timed.losses,
        "distinct": asdict(least),
        "padded": asdict(padded),
        "flops": {
            "distinct": meter.step(least, shared=True),
            "padded": meter.step(padded),
            "distinct_cached": meter.step(least, reference=False),
        },
        "peak_flops": costs.peak_flops(settings.device, bench.dtype),
        **check_equal(timed, TOLERANCE[bench.dtype], APART),
    }


def data_size(bench: Bench, deadline: Deadline, tick: Callable[[str], None]) -> dict[str, Any]:
    """From a file of pairs to gradients: reading, checking, encoding, laying out and all steps, for growing files."""
    load, started = os.getloadavg()[0], time.monotonic()
    bench.load("text")
    workload = WORKLOADS["batch_size"]
    side: Any = bench.sides(workload, workload.points(bench)[0].batches[0][0])["forest"]
    files = {}
    for size in DATA_SIZES:
        files[size] = bench.folder / f"pairs-{size}.jsonl"
        write_jsonl(text_preferences(bench.draw(), size, DATA_PROMPT, DATA_RESPONSE), files[size])
    seconds: dict[int, list[float]] = {size: [] for size in DATA_SIZES}
    for number in range(bench.settings.rounds + 1):
        if number > 2 and deadline.left < 0:
            break
        for size, path in files.items():
            began = time.perf_counter()
            _epoch(bench, side, path)
            if number:
                seconds[size].append(time.perf_counter() - began)
            tick(f"{size}: forest")
    points = [
        {"label": str(size), "x": size, "preferences": size, "seconds": {"forest": values}}
        for size, values in seconds.items()
    ]
    title = (
        f"Pairs in a file: prompt {DATA_PROMPT}, responses {DATA_RESPONSE}, {DATA_BATCH} in a step, from reading the "
        "file to the last gradient"
    )
    return {
        "title": title,
        "axis": "pairs",
        "linear": True,
        "sides": ["forest"],
        "points": points,
        "missing": {},
        "load_before": load,
        "took_s": time.monotonic() - started,
    }


def _epoch(bench: Bench, side: Any, path: Path) -> None:
    policy = side.trainer.policy
    data = prepare(policy, list(read(path)), dpo().needs, path.with_suffix(".aside"), progress=False)
    for start in range(0, len(data), DATA_BATCH):
        encoded = [data[i] for i in range(start, min(start + DATA_BATCH, len(data)))]
        bench.policy.zero_grad(set_to_none=True)
        side.ready()
        side.step(side.laid_out(encoded))
    if bench.settings.device != "cpu":
        torch.cuda.synchronize()
