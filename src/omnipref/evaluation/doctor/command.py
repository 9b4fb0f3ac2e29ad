"""`omnipref doctor`: the verdicts of one run, for people or as JSON, and an exit code for scripts."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from omnipref.evaluation.doctor.examine import examine
from omnipref.evaluation.doctor.run import read_run
from omnipref.evaluation.doctor.verdict import STATES, Verdict

if TYPE_CHECKING:
    from omnipref.config import DoctorConfig


def doctor(config: DoctorConfig) -> int:
    """Print what is ill, unknown and fine about a run; gives the exit code: 1 if something is ill, else 0.

    Raises:
        ConfigError: no such folder.
        DataError: it holds no log, or a broken file.
    """
    run = read_run(config.run, config.own_scores, look_at_data=True)
    verdicts = examine(run)
    ill = any(verdict.ill for verdict in verdicts)
    if config.json:
        print(json.dumps({"run": config.run, "ill": ill, "verdicts": [asdict(v) for v in verdicts]}, indent=2))
    else:
        print(told(run.name, verdicts))
    return int(ill)


def told(name: str, verdicts: Sequence[Verdict], width: int = 100) -> str:
    """The verdicts as text: a line of counts, then what is ill, what is unknown, and what is fine.

    Args:
        name: of the run.
        verdicts: in any order.
        width: of the lines.

    Example:
        >>> print(told("run", [Verdict("length drift", "fine", "Lengths stay.")]))
        run: 0 ill, 0 unknown, 1 fine
        <BLANKLINE>
        fine     length drift
                 Lengths stay.
    """
    counts = [f"{sum(v.state == state for v in verdicts)} {state}" for state in STATES]
    lines = [f"{name}: {', '.join(counts)}"]
    wrap = textwrap.TextWrapper(width, " " * 9, " " * 9, break_long_words=False, break_on_hyphens=False)
    for verdict in sorted(verdicts, key=lambda v: STATES.index(v.state)):
        lines += ["", f"{verdict.state:<9}{verdict.name}"]
        said = [verdict.evidence, *([f"To do: {verdict.remedy}."] if verdict.remedy else [])]
        for sentence in said:
            lines += wrap.wrap(sentence)
    return "\n".join(lines)
