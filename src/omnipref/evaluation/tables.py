"""The results table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omnipref.evaluation.document import Arm, Metric

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_ARROWS = {"lower": " ↓", "higher": " ↑"}


def results_table(rows: Sequence[Arm], metrics: Sequence[Metric], caption: str = "") -> Table:
    """The rows as a rich table: value, and its interval below; groups are set apart by a line.

    Args:
        rows: the arms.
        metrics: the columns; what an arm lacks is shown as a dash.
        caption: a line below the table.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, caption=caption or None, caption_justify="left", pad_edge=False)
    table.add_column("")
    for metric in metrics:
        unit = f" {metric.unit}" if metric.unit else ""
        table.add_column(Text(f"{metric.label}{_ARROWS.get(metric.better, '')}{unit}"), justify="right")
    for place, row in enumerate(rows):
        last_of_group = place + 1 < len(rows) and rows[place + 1].group != row.group
        table.add_row(Text(row.name), *(_cell(row, metric) for metric in metrics), end_section=last_of_group)
    return table


def _cell(row: Arm, metric: Metric):
    from rich.text import Text

    estimate = row.metrics.get(metric.key)
    if estimate is None:
        return Text("–", style="dim")
    interval = f"{metric.text(estimate.low)} to {metric.text(estimate.high)}"
    return Text.assemble(metric.text(estimate.value), ("\n" + interval, "dim"))


def print_table(
    rows: Sequence[Arm], metrics: Sequence[Metric], *, caption: str = "", console: Console | None = None
) -> None:
    """Prints `results_table`, or on a narrow terminal one short table after another, each as wide as fits."""
    from rich.console import Console

    console = console or Console()
    for columns in _that_fit(rows, metrics, console.width):
        console.print(results_table(rows, columns, caption if columns[-1] is metrics[-1] else ""))


def _that_fit(rows: Sequence[Arm], metrics: Sequence[Metric], width: int) -> list[list[Metric]]:
    """The metrics in groups that fit beside the rows' names."""
    name = max((len(row.name) for row in rows), default=0)
    groups: list[list[Metric]] = [[]]
    used = name
    for metric in metrics:
        cells = [_cell(row, metric).plain.split("\n") for row in rows]
        wide = 3 + max([len(metric.label) + 4, *(len(line) for cell in cells for line in cell)])
        if groups[-1] and used + wide > width:
            groups.append([])
            used = name
        groups[-1].append(metric)
        used += wide
    return [group for group in groups if group]
