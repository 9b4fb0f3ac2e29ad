"""What a loss costs beside the step that it steers: every objective on given scores, and a step of a small model.

    python benchmarks/losses.py            # a few minutes; writes results/losses.{json,md}
    python benchmarks/losses.py --quick    # a smoke run

The step is scoring 8 pairs (prompts of 64 tokens, responses of 64) with policy and reference, backward and AdamW, on a
Llama of 1.8 million weights, the size that `hh_rlhf.py` trains; a loss is its forward and backward pass on scores of
that size, with the metrics that the trainer logs. Steps and losses take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from side_by_side import record
from side_by_side.scoring.shapes import word_tokenizer
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from omnipref.objectives import Needs, constructors, dpo, preference_metrics, reduce_loss
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import pair
from omnipref.scores import Cases, Scores

PAIRS, TOKENS, VOCABULARY = 8, 64, 2048
ROOT = Path(__file__).resolve().parents[1]


def model_and_batch() -> tuple[Any, Any, Any]:
    """The model, its policy, and a batch of pairs of exact lengths."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    policy = build_policy(model, word_tokenizer(VOCABULARY))
    words = [f"w{i}" for i in range(200)]
    texts = [
        [" ".join(words[(i + j) % 200] for j in range(TOKENS)) + " " for i in (k, k + 50, k + 100)]
        for k in range(PAIRS)
    ]
    return model, policy, policy.collate([policy.encode(pair(*each)) for each in texts])


def stepper(model: Any, policy: Any, batch: Any) -> Callable[[], None]:
    """One step of training, as a function."""
    reference, objective = frozen_copy(model), dpo()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        scores = policy.score(model, batch, reference=reference)
        reduce_loss(objective(scores).loss_P, scores.cases).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def scores_for(needs: Needs) -> Scores:
    """Random scores with every role, column and extra that an objective reads; six ranked cases for a list."""
    draw = torch.Generator().manual_seed(0)
    roles = ["chosen", "rejected", *sorted(needs.roles - {"chosen", "rejected"})]
    roles += [f"response_{i}" for i in range(4)] if needs.lists else []
    n, number = PAIRS * len(roles), torch.arange(PAIRS)
    rows = {role: number + PAIRS * i for i, role in enumerate(roles)}
    rank = torch.arange(len(roles)).repeat_interleave(PAIRS)
    label = torch.where(rank == 0, 1, -1)

    def random() -> Tensor:
        return -3 * torch.rand(n, TOKENS, generator=draw)

    columns = {name: torch.rand(n if name == "score" else PAIRS, generator=draw) for name in needs.columns}
    if "score" in columns:
        columns["score"] = 1 - rank / (2 * len(roles))
    cases = Cases(number, rows, number.repeat(len(roles)), rank if needs.lists else rank.clamp(max=1), label, columns)
    extras = {name: random().abs() for name in needs.extras}
    return Scores(random(), torch.ones(n, TOKENS, dtype=torch.bool), cases, random(), extras=extras)


def loss_of(name: str) -> Callable[[], None]:
    """Forward, metrics and backward of an objective at its defaults, as a function."""
    objective = constructors()[name]()
    scores = scores_for(objective.needs)
    state = objective.initial_state()

    def once() -> None:
        own = replace(scores, logp=scores.logp.clone().requires_grad_())
        outcome = objective(own, state)
        preference_metrics(own, outcome)
        reduce_loss(outcome.loss_P, own.cases).backward()

    return once


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round; its numbers mean nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the result")
    args = parser.parse_args()
    facts = record.machine(f"python benchmarks/losses.py{' --quick' if args.quick else ''}", args.threads)
    step, losses = stepper(*model_and_batch()), {name: loss_of(name) for name in constructors()}
    times: dict[str, list[float]] = {name: [] for name in ("step", *losses)}
    for warm in (True, *[False] * (1 if args.quick else args.rounds)):
        for name, function in tqdm({"step": step, **losses}.items(), leave=False):
            spent = statistics.median(seconds(function) for _ in range(3))
            if not warm:
                times[name].append(spent)
    result = {"facts": facts, "seconds": times}
    folder = ROOT / "outputs/benchmarks" if args.quick else args.output
    record.write_atomically(folder / "losses.json", json.dumps(result, indent=1) + "\n")
    record.write_atomically(folder / "losses.md", page(facts, times))
    print(folder / "losses.md")


def page(facts: dict[str, Any], times: dict[str, list[float]]) -> str:
    """The result as a table, the dearest loss first."""
    step = statistics.median(times["step"])
    share = {
        name: [t / s for t, s in zip(ts, times["step"], strict=True)] for name, ts in times.items() if name != "step"
    }
    order = sorted(share, key=lambda name: -statistics.median(share[name]))
    worst = statistics.median(share[order[0]])
    lines = [
        "# What a loss costs beside the step that it steers",
        "",
        *(__doc__ or "").split("\n\n")[-1].splitlines(),
        "",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads; commit {facts['commit']}; "
        f"`{facts['command']}`.",
        "",
        f"A step takes {1000 * step:.0f} ms. The dearest loss takes {worst:.1%} of it, the median loss "
        f"{statistics.median(statistics.median(s) for s in share.values()):.1%}.",
        "",
        "| objective | milliseconds | of a step (quartiles over rounds) |",
        "|---|---|---|",
    ]
    for name in order:
        low, middle, high = statistics.quantiles([*share[name], *share[name][:1]], n=4)
        lines.append(
            f"| `{name}` | {1000 * statistics.median(times[name]):.2f} | {middle:.2%} ({low:.2%} to {high:.2%}) |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
