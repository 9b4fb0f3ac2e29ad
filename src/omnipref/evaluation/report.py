"""A report of any run folder of `train`, `eval` or `demo`, or of several side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnipref.errors import ConfigError, DataError
from omnipref.evaluation.curves import PANEL_TITLES
from omnipref.evaluation.doctor import examine, read_log, read_run
from omnipref.evaluation.doctor.run import STATE
from omnipref.evaluation.document import REPORT_JSON, Arm, Curve, Metric, Report, read_report
from omnipref.evaluation.estimates import Estimate
from omnipref.evaluation.files import read_json, read_text
from omnipref.evaluation.held_out import EVAL_JSON, HELD_OUT_METRICS
from omnipref.evaluation.page import write_page
from omnipref.evaluation.plain import from_plain

if TYPE_CHECKING:
    from omnipref.config import ReportConfig

_NOT_CURVES = re.compile(r"epoch|step|total_flos|train_.*|eval_(runtime|.*_per_second|.*jit.*)|num_.*")


def report(config: ReportConfig) -> Path:
    """`omnipref report`: writes one page about the named run folders, and its data beside it; gives the page's path.

    A folder with a `report.json` is rendered from it; other folders give their training curves, the numbers of
    `eval.json` and their configuration.

    Raises:
        ConfigError: no folder, or a `report.json` among several.
        DataError: a folder that holds nothing to report on, or a broken file.
    """
    folders = [Path(folder) for folder in config.runs]
    if not folders:
        raise ConfigError("found no `runs`; expected one or several run folders")
    finished = [folder for folder in folders if (folder / REPORT_JSON).exists()]
    if finished and len(folders) > 1:
        alone = f"expected it alone: `omnipref report {finished[0]}`"
        raise ConfigError(f"found a finished report in {finished[0]} among several runs; {alone}")
    made = read_report(finished[0]) if finished else run_report(folders)
    page = write_page(replace(made, title=config.title) if config.title else made, config.output)
    print(f"Report: {page}")
    return page


def run_report(folders: Sequence[Path | str]) -> Report:
    """A report of training and evaluation folders, one row and one curve per folder.

    Raises:
        DataError: a folder has neither `trainer_state.json` nor `eval.json`.
    """
    paths = [Path(folder) for folder in folders]
    names = _names(paths)
    rows = tuple(Arm(name, _evaluated(path)) for name, path in zip(names, paths, strict=True))
    curves, notes, health = [], [], {}
    for name, path, row in zip(names, paths, rows, strict=True):
        log = read_log(path)
        if log is None and not row.metrics:
            cure = "name the `output_dir` of a run that has logged at least once"
            raise DataError("nothing to report on", f"{STATE} or {EVAL_JSON}", cure=cure, source=str(path))
        drawn, note = _curves(name, log or [])
        curves += drawn
        notes += note
        health |= {name: examine(read_run(path))} if log else {}
    metrics = tuple(metric for metric in HELD_OUT_METRICS if any(metric.key in row.metrics for row in rows))
    summary = " ".join(_sentence(row, [c for c in curves if c.arm == row.name], metrics) for row in rows)
    return Report(
        title=" and ".join(names),
        summary=summary,
        metrics=metrics,
        rows=rows,
        curves=tuple(_in_order(curves)),
        notes=tuple(notes),
        health=health,
        footer={name: _config(path) for name, path in zip(names, paths, strict=True)},
        interval="95 %, bootstrap over records",
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of their parents as tells them apart."""
    parts = [path.resolve().parts[1:] or (str(path),) for path in paths]
    if len(set(parts)) != len(parts):
        raise ConfigError(f"found the same folder twice in {', '.join(map(str, paths))}; expected different ones")
    depth = next(n for n in range(1, 1 + max(map(len, parts))) if len({part[-n:] for part in parts}) == len(parts))
    return ["/".join(part[-depth:]) for part in parts]


def _evaluated(folder: Path) -> dict[str, Estimate]:
    path = folder / EVAL_JSON
    if not path.exists():
        return {}
    found = read_json(path)
    values = found.get("metrics") if isinstance(found, dict) else None
    return from_plain(dict[str, Estimate], values, str(path), "metrics")


def _curves(name: str, history: Iterable[dict[str, Any]]) -> tuple[list[Curve], list[str]]:
    points: dict[str, list[tuple[float, float]]] = {}
    lost: dict[str, int] = {}
    for line in history:
        for key, value in line.items():
            if not isinstance(value, (int, float)) or _NOT_CURVES.fullmatch(key):
                continue
            if math.isfinite(value):
                points.setdefault(key, []).append((float(line["step"]), float(value)))
            else:
                lost[key] = lost.get(key, 0) + 1
    drawn = [Curve(key, name, *map(tuple, zip(*line, strict=True))) for key, line in points.items() if len(line) > 1]
    notes = [f"{name}: {n} logged values of {key} are not finite and not drawn." for key, n in lost.items()]
    return drawn, notes


def _in_order(curves: Sequence[Curve]) -> list[Curve]:
    """The panels that every preference run has first, the others in the order they were logged."""
    known = list(PANEL_TITLES)
    return sorted(curves, key=lambda curve: known.index(curve.panel) if curve.panel in known else len(known))


def _sentence(row: Arm, curves: Sequence[Curve], metrics: Sequence[Metric]) -> str:
    """What happened, from the numbers alone."""
    loss = next((curve for curve in curves if curve.panel == "loss"), None)
    said = [f"{loss.x[-1]:.0f} steps, loss {loss.y[0]:.3g} to {loss.y[-1]:.3g}"] if loss else []
    said += [
        f"{metric.label} {metric.text(e.value)} {metric.unit} ({metric.text(e.low)} to {metric.text(e.high)})"
        for metric in metrics[:1]
        if (e := row.metrics.get(metric.key))
    ]
    return f"{row.name}: {'; '.join(said) or 'nothing logged yet'}."


def _config(folder: Path) -> str:
    path = folder / "config.yaml"
    return read_text(path).strip() if path.exists() else "no config.yaml in this folder"
