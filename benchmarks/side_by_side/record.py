"""The result as JSON and as a table, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from operator import truediv
from pathlib import Path
from typing import Any

import torch

from omnipref.environment import installed
from omnipref.evaluation import run_facts

ROWS = (
    ("held-out reward accuracy", "accuracy", "{:.1%}"),
    ("reward margin", "margin", "{:.3f}"),
    ("displaced (chosen became less likely)", "displaced", "{:.1%}"),
    ("seconds of training", "train_s", "{:.1f}"),
    ("seconds with loading and tokenising", "whole_s", "{:.1f}"),
    ("CPU seconds with loading and tokenising", "cpu_s", "{:.1f}"),
    ("peak resident memory, MiB", "peak_mib", "{:.0f}"),
    ("the same above what imports took, MiB", "grown_mib", "{:.0f}"),
)
"""Heading, key and format of the table's rows."""


def commit_now() -> str:
    """The commit of this checkout, with a word if the package or the benchmarks were changed since."""
    folder = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") or "no checkout"
    return f"{commit} with changes" if git("status", "--porcelain", "--", "src", "benchmarks/*.py") else commit


def machine(command: str, threads: int) -> dict[str, Any]:
    """Where, with what and at which commit this was written."""
    torch.set_num_threads(threads)
    return {
        **run_facts(command),
        "commit": commit_now(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "trl": installed("trl"),
        "accelerate": installed("accelerate"),
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write(result: Mapping[str, Any], folder: Path, name: str) -> Path:
    """`<name>.json` with all numbers and `<name>.md` with the table; returns the first."""
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
    write_atomically(path.with_suffix(".md"), table(result))
    return path


def with_interval(estimate: Mapping[str, Any], form: str) -> str:
    """`value (low to high)`; the value alone where there is no interval."""
    value = form.format(estimate["value"])
    if estimate["low"] is None:
        return value
    return f"{value} ({form.format(estimate['low'])} to {form.format(estimate['high'])})"


def table(result: Mapping[str, Any]) -> str:
    """The comparison as markdown, with what it rests on."""
    lines = ["| mean over seeds (95 % interval) | omnipref | TRL | omnipref against TRL |", "| --- | --- | --- | --- |"]
    sides, versus = result["sides"], result["omnipref_against_trl"]
    for heading, key, form in ROWS:
        cells = [with_interval(sides[side]["over_seeds"][key], form) for side in ("omnipref", "trl")]
        relation = f"{with_interval(versus['ratio'][key], '{:.2f}')} ×" if key in versus["ratio"] else ""
        if key == "accuracy":
            points = versus["accuracy"]["over_pairs"]
            relation = f"{with_interval(points, '{:+.1%}')}, over pairs"
        lines.append(f"| {heading} | {cells[0]} | {cells[1]} | {relation} |")
    return "\n".join([*_about(result), "", *lines, "", *_notes(result), ""])


def _about(result: Mapping[str, Any]) -> list[str]:
    commits = sorted({commit for side in result["commits_of_runs"].values() for commit in side})
    facts, data, run, base = (result[name] for name in ("machine", "data", "run", "base"))
    return [
        "# DPO on real human preferences, beside TRL",
        "",
        f"{data['training']} training and {data['held_out']} held-out pairs of HH-RLHF (harmless), split by prompt; "
        f"{data['training_too_long']} and {data['held_out_too_long']} pairs over {data['max_length']} tokens and "
        f"{data['bad']} bad records were left out for both. A Llama of {base['parameters']:,} parameters, trained "
        f"from scratch on the chosen training dialogues; DPO (beta {run['beta']}) of all weights, float32, "
        f"{run['epochs']:g} epoch(s), {run['batch']} pairs a step, learning rate {run['learning_rate']:g}, "
        f"{len(result['seeds'])} seed(s) of the order.",
        "",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} thread(s); "
        f"commit of the runs: {', '.join(commits)}; {facts['versions']}, TRL {facts['trl']}. `{facts['command']}`",
    ]


def _notes(result: Mapping[str, Any]) -> list[str]:
    facts, rows = result["machine"], result["without_sharing"]
    controls, same = result["controls"], result["same_training"]
    pooled = [result["sides"][side]["accuracy_over_pairs"] for side in ("omnipref", "trl")]
    waiting = {
        side: max(map(truediv, *(found["over_seeds"][name]["values"] for name in ("whole_s", "cpu_s"))))
        for side, found in result["sides"].items()
    }
    tokens = {form: f"{count['identical']} of {count['pairs']}" for form, count in same[0]["same_tokens"].items()}
    return [
        f"- Accuracy over pairs (mean of the seeds): omnipref {with_interval(pooled[0], '{:.1%}')}, "
        f"TRL {with_interval(pooled[1], '{:.1%}')}.",
        f"- Without training: the likelier response under the base model is the chosen one in "
        f"{with_interval(controls['likelier_under_base'], '{:.1%}')}, the shorter one in "
        f"{with_interval(controls['shorter_response'], '{:.1%}')}.",
        f"- Pairs with identical token ids on both sides: {tokens['chat']} as dialogues (trained on), "
        f"{tokens['plain']} as plain strings (tokenised only).",
        f"- Largest difference of a logged training loss: {max(s['largest_loss_gap'] for s in same):.1e}; "
        f"of a trained weight: {max(s['largest_weight_gap'] for s in same):.1e}; "
        f"first losses minus log 2: {', '.join(f'{v:.0e}' for s in same for v in s['first_loss_minus_log_2'])}.",
        f"- One row per response has {result['data']['rows_over_forest_tokens']:.2f} times the tokens of a forest "
        f"with shared prompts, before padding. In CPU seconds of seed {rows['seed']}, omnipref's rows took "
        f"{rows['rows_over_trl']['cpu_s']:.2f} × TRL's, and its forest {rows['forest_over_rows']['cpu_s']:.2f} × that. "
        f"From its source, TRL {facts['trl']} runs its head over prompts and padding too without Triton, as on "
        "a CPU, and computes more metrics; in so small a model the head is much of the work, so that part of the ratio "
        "need not hold on a GPU or for a large model.",
        f"- Largest seconds over CPU seconds of a run: omnipref {waiting['omnipref']:.2f}, TRL {waiting['trl']:.2f}. "
        "With one thread, more than about 1.05 means that other work held the machine; then the CPU seconds compare, "
        "the seconds do not.",
        "- Seconds of training are transformers' own `train_runtime` on both sides; runs alternate, each in a process "
        "of its own. Memory is the peak of that process, libraries included "
        f"(after imports: omnipref {result['sides']['omnipref']['over_seeds']['imported_mib']['value']:.0f} MiB, "
        f"TRL {result['sides']['trl']['over_seeds']['imported_mib']['value']:.0f} MiB).",
    ]
