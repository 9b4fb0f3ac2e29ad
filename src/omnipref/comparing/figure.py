"""True reward against divergence and against steps: a thin line per seed, a bold one for their mean."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnipref.comparing.trace import Trace
from omnipref.evaluation.style import DASHES, INK, LIGHT, MUTED, RULE, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = tuple[Sequence[float], Sequence[float]]


def draw_traces(traces: Mapping[str, Sequence[Trace]], path: Path, kl: float) -> Path:
    """Draw the paths of all objectives; writes PNG or SVG by the ending.

    Args:
        traces: objective to its paths, one per seed.
        path: file to write.
        kl: the divergence at which objectives are compared, drawn as a line.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "omnipref", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(9.2, 4.0), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, sharey=True)
        left.axvline(kl, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        for place, (name, paths) in enumerate(traces.items()):
            # Colours come again after eight; another line style tells those apart.
            style = {"color": colour(place), "linestyle": DASHES[(place + place // len(LIGHT)) % len(DASHES)]}
            for axes, x in ((left, "kl"), (right, "steps")):
                for line in _lines(paths, x):
                    axes.plot(*line, linewidth=0.7, alpha=0.3, **style)
                axes.plot(*_mean(paths, x), linewidth=2.0, label=name, **style)
        _finish(left, "KL from the start (nats)", "true reward")
        _finish(right, "updates", "")
        figure.legend(
            *right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else {})
    return path


def _lines(paths: Sequence[Trace], x: str) -> Iterator[Line]:
    for path in paths:
        yield (path.steps if x == "steps" else path.values[x]), path.values["reward"]


def _mean(paths: Sequence[Trace], x: str) -> Line:
    """Means over seeds of both coordinates at each step that all of them reach."""
    lines = list(_lines(paths, x))
    count = min(len(line[0]) for line in lines)
    xs, ys = ([statistics.fmean(line[i][n] for line in lines) for n in range(count)] for i in (0, 1))
    return xs, ys


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, colors=MUTED)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
