"""`omnipref compare`: objectives side by side, tabled, drawn and told."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from omnipref.claims import commit
from omnipref.comparing import Job, board, run_job
from omnipref.comparing.figure import draw_traces
from omnipref.comparing.page import METRICS, arms, markdown, note, record, sentence
from omnipref.config import CompareConfig
from omnipref.config.load import write_text
from omnipref.evaluation.facts import run_facts
from omnipref.evaluation.tables import print_table
from omnipref.worlds.comparable import find_world


def compare(config: CompareConfig) -> None:
    """Run what is not yet there, and write `compare.json`, `compare.md` and `compare.png`.

    Raises:
        ConfigError: an unknown world or objective, or two equal ones.
        NeedsError: an objective reads what the world does not have.
    """
    folder = Path(config.output_dir)
    job = Job(
        objectives=config.objectives,
        world=config.world,
        seeds=config.seeds,
        steps=find_world(config.world)(0).steps if config.steps is None else config.steps,
        rate=config.rate,
        folder=folder,
        commit=commit(),
        fresh=config.fresh,
    )
    traces = run_job(job)
    found = board(traces, config.kl)
    facts = run_facts(shlex.join(["omnipref", *sys.argv[1:]]))
    draw_traces(traces, folder / "compare.png", found.kl)
    write_text(folder / "compare.json", json.dumps(record(job, traces, found, facts), indent=1) + "\n")
    write_text(folder / "compare.md", markdown(job, found, facts))
    said = [f"{row.objective}: {told}" for row in found.standings if (told := note(row, found))]
    print_table(arms(found), METRICS, caption="; ".join(["95 % over seeds", *said]))
    print(f"{sentence(job, found)}\nKept in {folder}")
