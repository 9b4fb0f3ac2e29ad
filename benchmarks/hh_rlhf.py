"""DPO on real human preferences (HH-RLHF), omnipref beside TRL: same model, data and budget, measured by one scorer.

    python benchmarks/hh_rlhf.py --data ../shared/data/hh-rlhf-harmless/pairs.jsonl.gz

The data contain offensive text; nothing here prints it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from side_by_side import measure, record
from side_by_side.base_model import BaseSettings, make_base
from side_by_side.data import Pairs, cut, read_pairs, write_pairs
from side_by_side.sides import Run
from tqdm import tqdm
from transformers import AutoTokenizer

from omnipref.errors import OmniprefError

ROOT = Path(__file__).resolve().parents[1]
DATA = "../shared/data/hh-rlhf-harmless/pairs.jsonl.gz"
COMPARED = ("omnipref", "trl")
WITHOUT_SHARING = "omnipref_rows"
RECORDED = ("beta", "batch", "epochs", "learning_rate", "warmup")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run, base = Run.__dataclass_fields__, BaseSettings()
    add = parser.add_argument
    add("--data", type=Path, default=ROOT / DATA, help="pairs as HH-RLHF has them, JSONL")
    add("--output", type=Path, default=ROOT / "benchmarks/results", help="folder for hh_rlhf.json and hh_rlhf.md")
    add("--work", type=Path, default=ROOT / "outputs/benchmarks/hh_rlhf", help="folder for models and runs")
    add("--limit", type=int, help="only the first pairs")
    add("--held-out", type=float, default=400 / 1800, help="share of the pairs to hold out")
    add("--split-seed", type=int, default=0, help="seed of the split")
    add("--seeds", type=int, default=3, help="orders to train in")
    add("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch")
    add("--max-length", type=int, default=run["max_length"].default, help="longest case in tokens")
    add("--epochs", type=float, default=run["epochs"].default, help="passes of DPO over the pairs")
    add("--batch", type=int, default=run["batch"].default, help="pairs per step")
    add("--learning-rate", type=float, default=run["learning_rate"].default, help="peak learning rate of DPO")
    for name, value in asdict(base).items():
        flag = f"--base-{name.replace('_', '-')}"
        add(flag, type=type(value), default=value, help=f"of the base model (default {value})")
    args = parser.parse_args()
    if not args.data.exists():
        parser.error(f"found no file {args.data}; expected HH-RLHF's pairs as JSON lines, name them with --data")
    return args


def run_sides(template: Run, seeds: int, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Both sides with every seed, in turns; a finished run with the same settings is not repeated."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in COMPARED}
    for seed in range(seeds):
        order = COMPARED if seed % 2 == 0 else COMPARED[::-1]
        for side in order:
            strings = None if seed else template.plain_pairs
            found[side].append(run_side(replace(template, side=side, seed=seed, plain_pairs=strings), work))
    return found


def run_side(run: Run, work: Path) -> dict[str, Any]:
    """One run in a process of its own, or its result from before."""
    settings = json.dumps(asdict(run), sort_keys=True) + Path(run.pairs).read_text()
    folder = work / f"{run.side}-{run.seed}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    done = folder / "run.json"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "commit.txt").write_text(record.commit_now())
        spec = folder / "spec.json"
        spec.write_text(json.dumps(asdict(replace(run, output=str(folder)))))
        tqdm.write(f"{run.side}, seed {run.seed}", file=sys.stderr)
        script = Path(__file__).parent / "side_by_side" / "sides.py"
        command = [sys.executable, str(script), str(spec)]
        # What libraries print is left out; bars and errors come on the other stream.
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | environment(run.threads))
        if ended.returncode:
            raise OmniprefError(f"{run.side}, seed {run.seed}, ended with {ended.returncode}; its error stands above")
    commit = folder / "commit.txt"
    return {**json.loads(done.read_text()), "commit": commit.read_text() if commit.exists() else "not recorded"}


def environment(threads: int) -> dict[str, str]:
    """Variables that both sides run under."""
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return fixed | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def summarise(runs: dict[str, list[dict[str, Any]]], pairs: Pairs, base: Path, work: Path) -> dict[str, Any]:
    """Quality and cost of each side, and the sides against each other."""
    aside = work / "held_out.quarantine.jsonl"
    sides: dict[str, Any] = {}
    hits: dict[str, list[Any]] = {}
    for side, found in runs.items():
        scored = [measure.score(Path(run["output"]), base, pairs.held_out, aside) for run in found]
        hits[side] = [measure.hits(scores) for scores in scored]
        quality = [measure.quality(pairs.held_out, scores, found[0]["beta"]) for scores in scored]
        means = {name: measure.over_seeds([one[name].value for one in quality]) for name in measure.QUALITY}
        cost = (*measure.COST, "imported_mib", "load_before")
        sides[side] = {
            "over_seeds": means | {name: measure.over_seeds([run[name] for run in found]) for name in cost},
            "accuracy_over_pairs": measure.plain(measure.bootstrap(sum(hits[side]) / len(hits[side]))),
            "by_seed": [{name: measure.plain(value) for name, value in one.items()} for one in quality],
            "log": [run["log"] for run in found],
        }
    ours, theirs = runs["omnipref"], runs["trl"]
    same = [
        {
            **measure.same_training(one, other),
            "largest_weight_gap": measure.largest_weight_gap(Path(one["output"]), Path(other["output"])),
        }
        for one, other in zip(ours, theirs, strict=True)
    ]
    return {
        "sides": sides,
        "omnipref_against_trl": {
            "accuracy": measure.compare(hits["omnipref"], hits["trl"]),
            "ratio": measure.ratios(ours, theirs),
        },
        "same_training": same,
        "controls": measure.controls(pairs.held_out, measure.score(base, None, pairs.held_out, aside)),
    }


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    settings = BaseSettings(**{name: getattr(args, f"base_{name}") for name in asdict(BaseSettings())})
    pairs = read_pairs(args.data, work / "bad.jsonl", args.limit, args.held_out, args.split_seed)
    base = make_base(pairs.training, settings, work)
    pairs = cut(pairs, AutoTokenizer.from_pretrained(base), args.max_length)
    dialogues, strings = write_pairs(pairs.training, work)
    template = Run(
        side="",
        model=str(base),
        pairs=str(dialogues),
        plain_pairs=str(strings),
        output="",
        seed=0,
        threads=args.threads,
        max_length=args.max_length,
        batch=args.batch,
        epochs=args.epochs,
        learning_rate=args.learning_rate,
    )
    runs = run_sides(template, args.seeds, work)
    rows = run_side(replace(template, side=WITHOUT_SHARING, plain_pairs=None), work)
    command = "python benchmarks/hh_rlhf.py " + " ".join(sys.argv[1:])
    result = {
        "machine": record.machine(command.strip(), args.threads),
        "commits_of_runs": {
            side: [run["commit"] for run in found] for side, found in (runs | {rows["side"]: [rows]}).items()
        },
        "seeds": list(range(args.seeds)),
        "split_seed": args.split_seed,
        "data": pairs.facts,
        "base": asdict(settings) | json.loads((base / "training.json").read_text()),
        "run": {name: getattr(template, name) for name in RECORDED},
        **summarise(runs, pairs, base, work),
        "without_sharing": measure.without_sharing(rows, runs["omnipref"][0], runs["trl"][0]),
    }
    path = record.write(result, args.output, "hh_rlhf")
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
