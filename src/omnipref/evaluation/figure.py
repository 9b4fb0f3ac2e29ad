"""One picture that tells the story: pictures with what was said before and after, and the numbers with intervals."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnipref.errors import DataError, nearest
from omnipref.evaluation.document import Answer, Exhibit, Metric, Report
from omnipref.evaluation.marking import Segment, segments
from omnipref.evaluation.style import INK, MUTED, RIGHT, RULE, WRONG, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_COLOURS = {"wrong": WRONG, "right": RIGHT, "": INK}
_COLUMN = 2.35
"""Inches per picture."""
_NAMES, _PANEL, _HEIGHT = 1.75, 1.55, 3.7
"""Inches for the rows' names, per panel of the chart, and of the whole."""
_FONT = 8.6
_CHARACTER = 0.602 * _FONT / 72
"""Width of a character in inches; the answers are set in a font of fixed width so that lines can be broken exactly."""
_CHARACTERS = int(0.94 * _COLUMN / _CHARACTER)
_LINE = 0.054


def summary_figure(
    report: Report,
    path: Path | str,
    *,
    before: str | None = None,
    after: Sequence[str] = (),
    metrics: Sequence[str] = (),
    pictures: int = 3,
) -> Path:
    """Draws the first pictures of the gallery with answers, and a chart of the rows; writes PNG or SVG by the ending.

    Args:
        report: where everything is taken from.
        path: file to write.
        before: row whose answer comes first; the first row by default.
        after: rows whose answers follow; the second row by default.
        metrics: keys of the chart's panels; the first two columns by default.
        pictures: how many.

    Raises:
        DataError: the report has no gallery or no such row or metric.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = [row.name for row in report.rows]
    said = [before or names[0], *(after or names[1:2])]
    shown = list(metrics) or [metric.key for metric in report.metrics[:2]]
    _known(said, names, "row")
    _known(shown, [metric.key for metric in report.metrics], "metric")
    if not report.gallery:
        raise DataError("an empty gallery", "at least one picture with answers", field="gallery")
    exhibits = report.gallery[:pictures]
    with rc_context({"svg.hashsalt": "omnipref", "font.family": "DejaVu Sans"}):
        widths = (_COLUMN * len(exhibits), _NAMES + _PANEL * len(shown))
        figure = Figure(figsize=(sum(widths), _HEIGHT), facecolor="white")
        left, right = figure.subfigures(1, 2, width_ratios=widths, squeeze=False)[0]
        _draw_exhibits(left, exhibits, said, report)
        _draw_charts(right, report, [metric for key in shown for metric in report.metrics if metric.key == key])
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=200, facecolor="white", metadata=metadata)
    return path


def _known(wanted: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in wanted:
        if name not in known:
            raise DataError(f"the {what} `{name}`", nearest(name, known))


def _draw_exhibits(figure: SubFigure, exhibits: Sequence[Exhibit], said: Sequence[str], report: Report) -> None:
    from PIL import Image

    wide = 1 / len(exhibits)
    for place, exhibit in enumerate(exhibits):
        picture = figure.add_axes((wide * (place + 0.06), 0.53, wide * 0.82, 0.43))
        picture.imshow(Image.open(io.BytesIO(base64.b64decode(exhibit.image))), interpolation="nearest")
        picture.set_anchor("W")
        picture.axis("off")
        text = figure.add_axes((wide * (place + 0.06), 0.02, wide * 0.94, 0.485))
        text.set(xlim=(0, 0.94 * _COLUMN / _CHARACTER), ylim=(0, 0.485))
        text.axis("off")
        top = 0.45
        for name in said:
            answer = next((answer for answer in exhibit.answers if answer.arm == name), Answer(name, "–"))
            top = _draw_answer(text, answer, top, colour([row.name for row in report.rows].index(name)))


def _draw_answer(axes: Axes, answer: Answer, top: float, dot: str) -> float:
    """Writes one answer below `top`; gives where the next one starts."""
    axes.plot([0.35], [top + 0.012], "o", color=dot, markersize=4.5, clip_on=False)
    axes.text(1.2, top, answer.arm, fontsize=7.6, color=MUTED)
    for line in _lines(segments(answer)):
        top -= _LINE
        column = 0
        for part in line:
            weight = "bold" if part.mark == "wrong" else "normal"
            style = {"fontsize": _FONT, "family": "DejaVu Sans Mono", "fontweight": weight}
            axes.text(column, top, part.text, color=_COLOURS[part.mark], **style)
            if part.mark == "wrong":
                axes.plot([column, column + len(part.text)], [top + 0.014] * 2, color=WRONG, linewidth=1, clip_on=False)
            column += len(part.text)
    return top - 1.45 * _LINE


def _lines(parts: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Words into lines of at most `_CHARACTERS`, marks kept."""
    line: list[Segment] = []
    used = 0
    for part in parts:
        for word in part.text.split():
            if line and used + 1 + len(word) > _CHARACTERS:
                yield line
                line, used = [], 0
            if line:
                line.append(Segment(" "))
                used += 1
            line.append(Segment(word, part.mark))
            used += len(word)
    if line:
        yield line


def _draw_charts(figure: SubFigure, report: Report, metrics: Sequence[Metric]) -> None:
    names = [row.name for row in report.rows]
    start = _NAMES / (_NAMES + _PANEL * len(metrics))
    wide = (1 - start) / len(metrics)
    for place, metric in enumerate(metrics):
        axes = figure.add_axes((start + wide * place, 0.13, wide * 0.84, 0.7))
        for row_place, row in enumerate(report.rows):
            if e := row.metrics.get(metric.key):
                axes.plot([e.low, e.high], [row_place] * 2, color=colour(row_place), linewidth=2.2, alpha=0.6)
                axes.plot([e.value], [row_place], "o", color=colour(row_place), markersize=5.5)
        direction = {"lower": ", less is better", "higher": ", more is better"}.get(metric.better, "")
        axes.set_title(metric.label, fontsize=9, color=INK, fontweight="bold", loc="left", pad=16)
        axes.text(0, 1.025, (metric.unit + direction).lstrip(", "), transform=axes.transAxes, fontsize=7.4, color=MUTED)
        axes.set(ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), yticklabels=names if place == 0 else [])
        _calm(axes, metric)


def _calm(axes: Axes, metric: Metric) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="both", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, colors=MUTED)
    axes.tick_params(axis="y", labelsize=8.4, labelcolor=INK)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * (100 if metric.share else 1):g}"))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.0) if metric.share and low < 0.15 * high else low, high)
