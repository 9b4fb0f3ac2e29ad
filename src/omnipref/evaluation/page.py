"""The page: one self-contained `report.html`, rendered from `report.json` alone."""

from __future__ import annotations

import struct
from base64 import b64decode
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from omnipref.errors import DataError
from omnipref.evaluation.curves import curve_panels
from omnipref.evaluation.document import Exhibit, Metric, Report, read_report
from omnipref.evaluation.estimates import Estimate
from omnipref.evaluation.files import write_atomic
from omnipref.evaluation.findings import findings
from omnipref.evaluation.marking import missing, segments
from omnipref.evaluation.style import DARK, LIGHT

if TYPE_CHECKING:
    from jinja2 import Template

REPORT_HTML = "report.html"
"""The page in a run folder; its data stand in `report.json` beside it."""
_SMALL_PICTURE = 160
"""Pictures narrower than this are enlarged pixel by pixel instead of being smoothed."""


@dataclass(frozen=True)
class Scale:
    """The common axis of a column: where a value stands, in percent of the column's width."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Place of a value, 4 to 96."""
        span = self.high - self.low
        return round(4 + 92 * (value - self.low) / span, 2) if span else 50.0


def write_report(report: Report, folder: Path | str) -> Path:
    """Writes `report.json` and, rendered from it, the self-contained `report.html`; gives the page's path."""
    return write_page(report, Path(folder) / REPORT_HTML)


def write_page(report: Report, path: Path | str) -> Path:
    """Writes a page under a name of one's own, and its data beside it with the ending `.json`; gives the page's path.

    Raises:
        DataError: the name ends in `.json`, which is the data's.
    """
    path = Path(path)
    if path.suffix == ".json":
        raise DataError(f"the name {path.name} for a page", "an ending such as .html", cure="change `output`")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path.with_suffix(".json"), report.to_json() + "\n")
    return write_atomic(path, render_page(report))


def render_report(folder: Path | str) -> Path:
    """Renders `report.html` anew from the folder's `report.json`; gives the page's path.

    Raises:
        DataError: no `report.json`, or not one of ours.
    """
    return write_atomic(Path(folder) / REPORT_HTML, render_page(read_report(folder)))


def render_page(report: Report) -> str:
    """The page as one HTML text: no scripts, no links to load, light and dark, fit for print and phone."""
    order = {row.name: place for place, row in enumerate(report.rows)}
    return _template().render(
        report=report,
        groups=_groups(report),
        scales={metric.key: _scale(report, metric) for metric in report.metrics},
        findings=findings(report),
        panels=curve_panels(report),
        legend=_legend(report),
        colour=lambda name: order.get(name, len(order)) % len(LIGHT),
        segments=segments,
        missing=missing,
        pixelated=_pixelated,
        light=LIGHT,
        dark=DARK,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("omnipref.evaluation", "templates")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.globals["css"] = (files("omnipref.evaluation") / "templates" / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2")


def _groups(report: Report) -> dict[str, list]:
    groups: dict[str, list] = {}
    for row in report.rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def _scale(report: Report, metric: Metric) -> Scale:
    shown: list[Estimate] = [row.metrics[metric.key] for row in report.rows if metric.key in row.metrics]
    return Scale(min((e.low for e in shown), default=0.0), max((e.high for e in shown), default=1.0))


def _legend(report: Report) -> list[str]:
    return list(dict.fromkeys(curve.arm for curve in report.curves))


def _pixelated(exhibit: Exhibit) -> bool:
    header = b64decode(exhibit.image[:64])
    return struct.unpack(">I", header[16:20])[0] < _SMALL_PICTURE
