"""What exact preference scoring costs: TRL, a hand-written padded loop, our rows and our forest, side by side.

    python benchmarks/scoring.py                               # everything, about 25 minutes on 2 cores
    python benchmarks/scoring.py --cases text_pairs,hh         # two of the questions
    python benchmarks/scoring.py --quick                       # a smoke run of everything on a model for trials
    python benchmarks/scoring.py --device cuda --dtype bfloat16 --shape llama-7b --minutes 10

Each question's result is kept as soon as it is there; a run that was stopped goes on with the next question.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from side_by_side import record
from side_by_side.scoring import memory, page, run, targets
from side_by_side.scoring.bench import Bench, Settings
from side_by_side.scoring.clock import Deadline
from side_by_side.scoring.shapes import SHAPES
from side_by_side.scoring.workloads import MAIN, WORKLOADS
from tqdm import tqdm

from omnipref.errors import OmniprefError

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "../shared/data/hh-rlhf-harmless/pairs.jsonl.gz"
MEMORY = "memory"
TEXT = tuple(name for name, workload in WORKLOADS.items() if workload.kind == "text")
CASES = (*TEXT, run.DATA_SIZE, *(name for name in WORKLOADS if name not in TEXT), MEMORY)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, usual = parser.add_argument, Settings()
    add("--cases", help=f"questions to answer, with commas between (default: all of {', '.join(CASES)})")
    add("--shape", choices=SHAPES, default=usual.shape, help="size of the models (default %(default)s)")
    add("--device", choices=("cpu", "cuda"), default=usual.device, help="where (default %(default)s)")
    add("--dtype", choices=("float32", "bfloat16"), default=usual.dtype, help="of the weights (default %(default)s)")
    add("--threads", type=int, default=usual.threads, help="threads of torch (default %(default)s)")
    add("--rounds", type=int, default=usual.rounds, help="measured rounds after a warm-up (default %(default)s)")
    add("--batch", type=int, default=usual.batch, help="preferences of a step (default: as the shape says)")
    add("--max-batch-tokens", type=int, default=0, help="of our forest, as of `omnipref train`; 0 for no limit")
    add("--minutes", type=float, help="time box: what is not begun by then is left out")
    add("--quick", action="store_true", help="a model for trials, one round; its numbers mean nothing")
    add("--again", action="store_true", help="measure anew what was measured before with the same settings")
    add("--data", type=Path, default=DATA, help="HH-RLHF's pairs; without the file that question is left out")
    add("--output", type=Path, help="folder for scoring.json and scoring.md (default benchmarks/results)")
    add("--work", type=Path, default=ROOT / "outputs/benchmarks/scoring", help="folder for what is done so far")
    args = parser.parse_args(words)
    args.cases = [name.strip() for name in args.cases.split(",")] if args.cases else list(CASES)
    if unknown := sorted(set(args.cases) - set(CASES)):
        parser.error(f"found the cases {', '.join(unknown)}; expected some of {', '.join(CASES)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("found no CUDA device that torch sees; expected one, or --device cpu")
    if args.quick:
        args.shape, args.rounds = "tiny", 1
    if args.output is None:
        args.output = args.work / "quick" if args.quick else ROOT / "benchmarks/results"
    return args


def settings_of(args: argparse.Namespace) -> Settings:
    names = ("shape", "device", "dtype", "threads", "rounds", "batch", "max_batch_tokens")
    return Settings(**{name: getattr(args, name) for name in names}, data=str(args.data))


def why_not(name: str, settings: Settings) -> str:
    """Why a question cannot be answered here; empty if it can."""
    workload = WORKLOADS.get(name)
    if workload is None:
        return ""
    if workload.kind == "vision" and SHAPES[settings.shape].vision is None:
        return f"{settings.shape} reads no pictures"
    return f"no file {settings.data}" if workload.needs_data and not Path(settings.data).exists() else ""


def answer(bench: Bench, name: str, deadline: Deadline) -> dict[str, Any]:
    """Measure one question."""
    with tqdm(desc=name, unit="turn", leave=False, file=sys.stderr) as bar:

        def tick(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        return run.answer(bench, name, deadline, tick) | {"commit": record.commit_now()}


def answer_all(bench: Bench, names: list[str], folder: Path, deadline: Deadline, again: bool) -> None:
    """Measure what is not there yet, and keep each result at once."""
    longest = 0.0
    for name in names:
        path = folder / f"{name}.json"
        if path.exists() and not again:
            tqdm.write(f"{name}: measured before", file=sys.stderr)
            continue
        if reason := why_not(name, bench.settings):
            tqdm.write(f"{name}: left out, {reason}", file=sys.stderr)
            continue
        if deadline.left < longest / 2:
            tqdm.write(f"{name}: left out, {deadline.left:.0f} s are left", file=sys.stderr)
            continue
        found = answer(bench, name, deadline)
        longest = max(longest, found["took_s"])
        record.write_atomically(path, json.dumps(found, indent=1))
        tqdm.write(f"{name}: {brief(found)}, {found['took_s']:.0f} s", file=sys.stderr)


def brief(question: dict[str, Any]) -> str:
    """A question's result in a line: how many times the forest's seconds each side took."""
    said = []
    for point in question["points"]:
        seconds = point["seconds"]
        others = [side for side in seconds if side != "forest" and seconds[side] and seconds.get("forest")]
        ratios = [f"{side} {page.ratio(seconds, side, 'forest')['median']:.2f}" for side in others]
        said.append(f"{point['label']}: {' '.join(ratios)}".rstrip(": "))
    return "; ".join(said)


def weigh_all(bench: Bench, names: list[str], folder: Path, deadline: Deadline, again: bool) -> None:
    """Peak memory of every side of the main questions: a process for each on the CPU, in turns on a device."""
    cells = [(name, side) for name in MAIN if name in names for side in WORKLOADS[name].sides]
    cells = [(name, side) for name, side in cells if side not in bench.missing() and not why_not(name, bench.settings)]
    for name, side in tqdm(cells, desc=MEMORY, unit="side", leave=False, file=sys.stderr):
        path = folder / f"{MEMORY}-{name}-{side}.json"
        if (path.exists() and not again) or deadline.left < 0:
            continue
        found = _weighed(bench, name, side, folder)
        record.write_atomically(path, json.dumps(found))
        tqdm.write(f"{MEMORY}: {name}, {side}: {found}", file=sys.stderr)


def _weighed(bench: Bench, name: str, side: str, folder: Path) -> dict[str, Any]:
    if bench.settings.device == "cpu":
        return memory.in_a_process(bench.settings, name, side, folder)
    try:
        return memory.peak(bench, name, side)
    except torch.OutOfMemoryError as error:
        return {"failed": str(error)}


def collected(folder: Path, settings: Settings, command: str) -> dict[str, Any]:
    """All that was measured with these settings so far."""
    questions = {name: folder / f"{name}.json" for name in CASES}
    weights: dict[str, dict[str, Any]] = {}
    for name in MAIN:
        for side in WORKLOADS[name].sides:
            path = folder / f"{MEMORY}-{name}-{side}.json"
            if path.exists() and "rise_mib" in (found := json.loads(path.read_text())):
                weights.setdefault(name, {})[side] = found
    machine = record.machine(command, settings.threads)
    if settings.device == "cuda":
        machine["device"] = torch.cuda.get_device_name()
    result: dict[str, Any] = {
        "machine": machine,
        "settings": {**asdict(settings), "data": Path(settings.data).name},
        "questions": {name: json.loads(path.read_text()) for name, path in questions.items() if path.exists()},
        "memory": weights,
    }
    return result | {"targets": targets.judged(result)}


def written(result: dict[str, Any], folder: Path, name: str) -> Path:
    """`<name>.json` and `<name>.md`; returns the second."""
    record.write_atomically(folder / f"{name}.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    record.write_atomically(folder / f"{name}.md", page.page(result))
    return folder / f"{name}.md"


def main(words: list[str] | None = None) -> Path:
    args = arguments(words)
    settings = settings_of(args)
    torch.set_num_threads(settings.threads)
    bench, folder = Bench(settings), args.work / settings.key
    folder.mkdir(parents=True, exist_ok=True)
    deadline = Deadline(args.minutes * 60 if args.minutes else None)
    answer_all(bench, [name for name in args.cases if name != MEMORY], folder, deadline, args.again)
    if MEMORY in args.cases:
        weigh_all(bench, args.cases, folder, deadline, args.again)
    command = "python benchmarks/scoring.py " + " ".join(sys.argv[1:] if words is None else words)
    name = "scoring" if settings.shape in (Settings().shape, "tiny") else f"scoring_{settings.shape}"
    return written(collected(folder, settings, command.strip()), args.output, name)


if __name__ == "__main__":
    try:
        print(main().read_text())
    except OmniprefError as error:
        sys.exit(str(error))
