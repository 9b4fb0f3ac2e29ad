"""What is kept of a comparison: `compare.json`, and `compare.md` to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from omnipref.comparing.board import Board, Standing
from omnipref.comparing.job import Job
from omnipref.comparing.trace import Trace
from omnipref.evaluation.document import Arm, Metric
from omnipref.evaluation.estimates import Estimate

METRICS = (
    Metric("at_kl", "reward at equal KL", "higher", False, 3, "True reward where the path first gets this far."),
    Metric("end", "reward at equal steps", "higher", False, 3, "True reward after all steps."),
    Metric("kl", "final KL", "", False, 3, "Divergence from the start after all steps, in nats."),
)


def record(job: Job, traces: Mapping[str, Sequence[Trace]], found: Board, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a comparison found, as plain data.

    Args:
        job: what was asked for.
        traces: objective to its paths.
        found: the leaderboard.
        facts: how to get the same again.
    """
    return {
        "world": job.world,
        "steps": job.steps,
        "rate": job.rate,
        "seeds": job.seeds,
        "kl": found.kl,
        "limited_by": found.limited_by,
        "standings": [asdict(row) for row in found.standings],
        "paths": {name: [asdict(path) for path in paths] for name, paths in traces.items()},
        **facts,
    }


def arms(found: Board) -> list[Arm]:
    """The rows of the table for the terminal."""
    return [
        Arm(row.objective, {m.key: value for m in METRICS if (value := getattr(row, m.key)) is not None})
        for row in found.standings
    ]


def markdown(job: Job, found: Board, facts: Mapping[str, str]) -> str:
    """The page.

    Args:
        job: what was asked for.
        found: the leaderboard.
        facts: how to get the same again.
    """
    head = ["objective", *(metric.label for metric in METRICS), "behind, equal KL", "behind, equal steps", ""]
    rows = [
        [
            f"`{row.objective}`",
            *(_text(getattr(row, m.key)) for m in METRICS),
            *map(_text, _behind(row)),
            note(row, found),
        ]
        for row in found.standings
    ]
    lines = [
        f"# Objectives in the world `{job.world}`",
        "",
        sentence(job, found),
        "",
        *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)),
        "",
        "True reward, mean over seeds with Student's 95 % interval. *Behind*: reward minus that of the best, paired by "
        "seed; an interval that holds 0 is not separable from it.",
        "",
        "![True reward against KL and against updates](compare.png)",
        "",
        *(f"- {name}: `{value}`" for name, value in facts.items()),
    ]
    return "\n".join(lines) + "\n"


def sentence(job: Job, found: Board) -> str:
    """What was done and what it means, from the numbers alone.

    Args:
        job: what was asked for.
        found: the leaderboard.
    """
    first, *others = found.standings
    said = f"{job.steps} updates from the same start on {job.seeds} seeds; equal KL is {found.kl:.3g} nats"
    farther = sorted(row.furthest for row in found.standings)[1:2]
    if found.limited_by and farther:
        said += f", the farthest that `{found.limited_by}` gets on every seed (without it `--kl {farther[0]:.2g}`)"
    said += "."
    if first.at_kl is None:
        return f"{said} No objective gets that far on every seed."
    close = [f"`{row.objective}`" for row in others if row.behind and not row.behind.separable_from(0)]
    tail = f", not separable from it: {', '.join(close)}" if close else ""
    return f"{said} Best at equal KL: `{first.objective}`{tail}."


def note(row: Standing, found: Board) -> str:
    """Why a number is missing.

    Args:
        row: of the leaderboard.
        found: the leaderboard.
    """
    if row.broke:
        return f"not finite on {row.broke} seeds: lower `--rate`"
    return f"reaches only {row.furthest:.3g}" if row.furthest < found.kl else ""


def _behind(row: Standing) -> tuple[Estimate | None, Estimate | None]:
    return row.behind, row.behind_end


def _text(value: Estimate | None) -> str:
    return "–" if value is None else f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
