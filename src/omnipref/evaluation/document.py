"""A report is plain data: it is written as `report.json`, and everything people see is rendered from that file."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnipref.errors import DataError
from omnipref.evaluation.doctor.verdict import Verdict
from omnipref.evaluation.estimates import Estimate
from omnipref.evaluation.files import read_json
from omnipref.evaluation.plain import from_plain

if TYPE_CHECKING:
    from PIL.Image import Image

REPORT_JSON = "report.json"


@dataclass(frozen=True)
class Metric:
    """A column of the results table.

    Args:
        key: name in `Arm.metrics`.
        label: as people read it.
        better: `lower`, `higher`, or empty where neither is better.
        share: whether values are shares, shown in percent.
        digits: decimals shown.
        note: one sentence of what it measures.
    """

    key: str
    label: str
    better: str = ""
    share: bool = True
    digits: int = 1
    note: str = ""

    def text(self, value: float, *, sign: bool = False) -> str:
        """The value as shown, without unit.

        Example:
            >>> Metric("chair_i", "CHAIR_i").text(0.0213), Metric("sens", "sensitivity", share=False).text(2, sign=True)
            ('2.1', '+2.0')
        """
        shown = f"{value * (100 if self.share else 1):{'+' if sign else ''}.{self.digits}f}"
        return shown.replace("-", "\N{MINUS SIGN}") if float(shown) else shown.replace("-", "")

    @property
    def unit(self) -> str:
        """`%` for shares, otherwise nothing."""
        return "%" if self.share else ""


@dataclass(frozen=True)
class Arm:
    """A row of the results table: one model.

    Args:
        name: as people read it.
        metrics: metric key to estimate; a missing one is shown as a dash.
        group: heading under which the row stands, such as `Before`, `Methods`, `Controls`.
        note: one clause of what was done.
    """

    name: str
    metrics: dict[str, Estimate]
    group: str = ""
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line in one panel of the training curves: `panel` is the metric, `arm` the name of the row."""

    panel: str
    arm: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """What one arm says about a picture.

    Args:
        arm: name of the row.
        text: the answer.
        wrong: words in it that name something absent.
        right: words in it that name something present.
    """

    arm: str
    text: str
    wrong: tuple[str, ...] = ()
    right: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exhibit:
    """A picture of the gallery with every arm's answer.

    Args:
        image: PNG in base64 (see `png_base64`).
        present: what is truly there.
        answers: in the order of the rows.
        prompt: what was asked.
    """

    image: str
    present: tuple[str, ...]
    answers: tuple[Answer, ...]
    prompt: str = ""


@dataclass(frozen=True)
class Contrast:
    """Two arms that differ in one thing, so that the difference is due to that thing.

    Args:
        cause: the one thing, as a noun: `the picture contrast`.
        arm: the row that has it.
        control: the row that lacks it.
        metrics: keys to compare; empty for all that have a better direction.
        differences: metric key to the paired estimate of arm minus control, where both were measured on the same items;
            without it the two intervals are combined.
    """

    cause: str
    arm: str
    control: str
    metrics: tuple[str, ...] = ()
    differences: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything a report shows.

    Args:
        title: of the page.
        summary: one sentence of what it means.
        metrics: columns.
        rows: rows; colours go by their order, the first is grey.
        curves: training curves.
        gallery: pictures with answers.
        findings: contrasts; their sentences are made from the numbers.
        notes: further sentences for the reader, caveats among them.
        footer: how to get the same again: command, commit, machine, versions, seed.
        interval: what the intervals are over.
        health: row name to the doctor's verdicts on its training.
    """

    title: str
    summary: str
    metrics: tuple[Metric, ...] = ()
    rows: tuple[Arm, ...] = ()
    curves: tuple[Curve, ...] = ()
    gallery: tuple[Exhibit, ...] = ()
    findings: tuple[Contrast, ...] = ()
    notes: tuple[str, ...] = ()
    footer: dict[str, str] = field(default_factory=dict)
    interval: str = "95 % bootstrap over pictures"
    health: dict[str, tuple[Verdict, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names):
            raise DataError(f"rows {', '.join(names)}", "different names", field="rows")
        for place, contrast in enumerate(self.findings):
            for name in (contrast.arm, contrast.control):
                if name not in names:
                    raise DataError(f"arm `{name}`", f"one of {', '.join(names)}", field=f"findings[{place}]")
        directions = {metric.better for metric in self.metrics} - {"lower", "higher", ""}
        if directions:
            raise DataError(f"better = {directions.pop()!r}", "`lower`, `higher` or nothing", field="metrics")

    def row(self, name: str) -> Arm:
        """The row with this name."""
        return next(row for row in self.rows if row.name == name)

    def to_json(self) -> str:
        """The report as JSON; `from_json` gives an equal report."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(value: Any, source: str = REPORT_JSON) -> Report:
        """The report that `to_json` wrote.

        Args:
            value: the parsed JSON.
            source: for error messages.

        Raises:
            DataError: a field is missing, unknown or of another type.
        """
        return from_plain(Report, value, source)


def png_base64(image: Image) -> str:
    """A picture as PNG in base64, as `Exhibit.image` wants it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def read_report(folder: Path | str) -> Report:
    """The report of a run folder.

    Raises:
        DataError: no `report.json` there, or not one of ours.
    """
    path = Path(folder) / REPORT_JSON
    return Report.from_json(read_json(path), str(path))
