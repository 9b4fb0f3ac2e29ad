"""An inspection as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from omnipref.preferences.inspect import Inspection

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def _warning(inspection: Inspection) -> str:
    """What a gap means, unless pairs are balanced."""
    share, gap = inspection.chosen_longer, inspection.gap
    if share is None or gap is None or (abs(share - 0.5) < 0.05 and abs(gap.mean) < 0.5):
        return ""
    return ": a policy trained on these pairs will tend to follow"


def render(inspection: Inspection) -> Group:
    """The inspection as tables for a terminal, with one sentence on the length gap."""
    from rich.console import Group

    pieces: list[Any] = [_overview(inspection), _lengths(inspection)]
    if inspection.gap is not None and inspection.chosen_longer is not None:
        pieces.append(
            f"Chosen responses are longer in {inspection.chosen_longer:.0%} of the pairs, "
            f"by {inspection.gap.mean:+.1f} {inspection.unit} on average{_warning(inspection)}."
        )
    if inspection.first_bad:
        pieces += [f"First {len(inspection.first_bad)} of {inspection.bad} bad records:"]
        pieces += [f"  {message}" for message in inspection.first_bad]
    return Group(*pieces)


def _overview(inspection: Inspection) -> Table:
    from rich.table import Table

    report = inspection.report
    table = Table(title=report.source if report else "preferences", title_justify="left", show_header=False)
    rows: list[tuple[str, Any]] = [("preferences", inspection.count)]
    if report:
        rows += [("format", f"{report.format}: {report.note}"), ("rows", report.rows)]
        rows += [("equal pairs", report.equal_pairs), ("rows without label", report.unlabelled.total())]
    rows += [(name, _listed(counter)) for name, counter in _counters(inspection) if counter]
    rows += [
        ("tied comparisons", inspection.ties),
        ("duplicates", inspection.duplicates),
        ("bad records", inspection.bad),
    ]
    if report and report.quarantine:
        rows.append(("put aside in", report.quarantine))
    for name, value in rows:
        table.add_row(name, str(value))
    return table


def _counters(inspection: Inspection) -> list[tuple[str, Counter[str]]]:
    return [("kinds", inspection.kinds), ("cases", inspection.roles), ("media", inspection.media)]


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common(8))


def _lengths(inspection: Inspection) -> Table:
    from rich.table import Table

    table = Table(title=f"Lengths (texts in {inspection.unit}, pictures in pixels)", title_justify="left")
    for column in ("", "count", "mean", "least", "5 %", "median", "95 %", "most"):
        table.add_column(column, justify="left" if not column else "right")
    gap = {} if inspection.gap is None else {"better − worse": inspection.gap}
    for name, q in {**inspection.lengths, **gap}.items():
        numbers = (q.mean, q.least, q.q05, q.median, q.q95, q.most)
        table.add_row(name, str(q.count), *(f"{number:.1f}".removesuffix(".0") for number in numbers))
    return table
