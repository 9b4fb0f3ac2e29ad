"""Training curves as inline SVG whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from omnipref.evaluation.document import Curve, Report
from omnipref.evaluation.style import DASHES, LIGHT

PANEL_TITLES = {
    "loss": "Loss",
    "rewards/accuracies": "Reward accuracy",
    "rewards/margins": "Reward margin",
    "logps/chosen": "Log-probability of the chosen answer",
}
"""Titles of the panels every preference run has; other panels keep their metric's name."""

_INK, _GRID = "#010203", "#040506"
_VARIABLES = {_INK: "var(--muted)", _GRID: "var(--rule)"} | {hex_: f"var(--c{i})" for i, hex_ in enumerate(LIGHT)}


def curve_panels(report: Report) -> list[tuple[str, str]]:
    """`(title, svg)` of every panel, in the order the panels first appear; one line per arm in the arm's colour."""
    order = {row.name: place for place, row in enumerate(report.rows)}
    for curve in report.curves:
        order.setdefault(curve.arm, len(order))
    panels: dict[str, list[Curve]] = {}
    for curve in report.curves:
        panels.setdefault(curve.panel, []).append(curve)
    return [(PANEL_TITLES.get(name, name), _svg(name, curves, order)) for name, curves in panels.items()]


def _svg(name: str, curves: Sequence[Curve], order: dict[str, int]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9}
    ):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            place = order[curve.arm]
            style = {"color": LIGHT[place % len(LIGHT)], "linestyle": DASHES[place % len(DASHES)]}
            axes.plot(curve.x, curve.y, linewidth=1.7, solid_capstyle="round", **style)
        _calm(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue(), name)


def _calm(axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_INK, length=0, labelsize=9)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("step", color=_INK, fontsize=9)
    axes.margins(x=0.01)


def _inline(svg: str, name: str) -> str:
    """The `<svg>` element alone: no metadata, ids of its own, colours as CSS variables, as wide as its frame."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\swidth="[^"]*"', "", svg, count=1)
    svg = re.sub(r'\sheight="[^"]*"', "", svg, count=1)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for fixed, variable in _VARIABLES.items():
        svg = svg.replace(fixed, variable)
    return svg.replace("<svg", '<svg aria-hidden="true"', 1).strip()
