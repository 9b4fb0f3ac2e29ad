"""Both sides measured with one scorer on the same held-out pairs, and their differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnipref.evaluation import Estimate, bootstrap, held_out, mean_interval, share_interval
from omnipref.preferences import Preference
from omnipref.training.models import load
from omnipref.training.scoring import ScoredCase, score_preferences

Scored = list[dict[str, ScoredCase]]
QUALITY = ("accuracy", "margin", "chosen_shift", "rejected_shift", "displaced")
COST = ("train_s", "whole_s", "cpu_s", "peak_mib", "grown_mib")


def score(trained: Path, base: Path | None, preferences: Sequence[Preference], aside: Path, batch: int = 16) -> Scored:
    """Log-likelihoods of both responses of each pair, one row per case, under the trained model and its base."""
    loaded = load(str(trained), layout="rows", dtype="float32")
    reference = load(str(base), layout="rows", dtype="float32").model.eval() if base else None
    found = score_preferences(loaded.policy, loaded.model, preferences, reference, batch_size=batch, aside=aside)
    return [{case.role: case for case in cases} for cases in found]


def hits(scored: Scored) -> np.ndarray:
    """Per pair, 1 where the chosen response has the greater reward; a tie is wrong."""
    ratios = [[scores[role].log_ratio for role in ("chosen", "rejected")] for scores in scored]
    values = np.array(ratios, dtype=np.float64)
    return (values[:, 0] > values[:, 1]).astype(np.float64)


def quality(preferences: Sequence[Preference], scored: Scored, beta: float) -> dict[str, Estimate]:
    """Accuracy, margin, shifts and displaced share of one run, with intervals over pairs."""
    return held_out(preferences, scored, beta=beta, metrics=QUALITY)


def controls(preferences: Sequence[Preference], base: Scored) -> dict[str, Any]:
    """What needs no training: preferring the likelier response under the base model, or the shorter one."""
    tokens = np.array([[scores[role].units for role in ("chosen", "rejected")] for scores in base])
    nats = sum(scores["chosen"].logp for scores in base) / tokens[:, 0].sum()
    return {
        "likelier_under_base": plain(held_out(preferences, base, beta=1.0, metrics=["accuracy"])["accuracy"]),
        "shorter_response": plain(share_interval(int((tokens[:, 0] < tokens[:, 1]).sum()), len(tokens))),
        "base_nats_per_chosen_token": -float(nats),
    }


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and t interval over seeds, with the least and the greatest; one seed has no interval."""
    spread = {"values": list(values), "least": min(values), "most": max(values)}
    if len(values) < 2:
        return {"value": values[0], "low": None, "high": None, "n": 1, **spread}
    return plain(mean_interval(values)) | spread


def plain(estimate: Estimate) -> dict[str, Any]:
    """An estimate as a mapping."""
    return asdict(estimate)


def compare(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> dict[str, Any]:
    """Accuracy of the first side minus that of the second, over pairs (mean of the seeds) and over seeds.

    Args:
        first: per seed, hits of each pair.
        second: the same of the other side, in the same order.
    """
    difference = np.stack(first) - np.stack(second)
    return {
        "over_pairs": plain(bootstrap(difference.mean(0))),
        "over_seeds": over_seeds([float(line.mean()) for line in difference]),
        "pairs_that_differ": float((difference != 0).mean()),
    }


def ratios(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cost of the first side over that of the second, seed by seed."""
    return {
        name: over_seeds([one[name] / other[name] for one, other in zip(first, second, strict=True)]) for name in COST
    }


def same_training(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How far two runs of one seed agree: tokens, arguments, first loss, and the loss along the way."""
    lines = list(zip(one["log"], other["log"], strict=True))
    gaps = [abs(mine["loss"] - theirs["loss"]) for mine, theirs in lines]
    return {
        "same_tokens": {
            form: {"pairs": len(mine), "identical": sum(map(str.__eq__, mine, other["tokens"][form]))}
            for form, mine in one["tokens"].items()
        },
        "different_arguments": {
            name: [value, other["arguments"].get(name)]
            for name, value in one["arguments"].items()
            if value != other["arguments"].get(name)
        },
        "steps": [one["steps"], other["steps"]],
        "first_loss": [run["log"][0]["loss"] for run in (one, other)],
        "first_loss_minus_log_2": [run["log"][0]["loss"] - math.log(2) for run in (one, other)],
        "first_chosen_logp": [run["log"][0]["logps/chosen"] for run in (one, other)],
        "last_loss": [run["log"][-1]["loss"] for run in (one, other)],
        "largest_loss_gap": max(gaps),
        "mean_loss_gap": float(np.mean([mine["loss"] - theirs["loss"] for mine, theirs in lines])),
    }


def without_sharing(rows: Mapping[str, Any], forest: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How much of the difference is the forest: the same run with one row per response.

    Args:
        rows: a run without shared prompts.
        forest: the same with them.
        other: the other side's, of the same seed.
    """
    return {
        "seed": rows["seed"],
        **{name: rows[name] for name in (*COST, "load_before")},
        "forest_over_rows": {name: forest[name] / rows[name] for name in COST},
        "rows_over_trl": {name: rows[name] / other[name] for name in COST},
        "largest_weight_gap": largest_weight_gap(Path(rows["output"]), Path(forest["output"])),
    }


def largest_weight_gap(one: Path, other: Path) -> float:
    """Largest difference of a weight between two trained models."""
    models = [load(str(folder), layout="rows", dtype="float32").model for folder in (one, other)]
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    with torch.no_grad():
        return max(float((a - b).abs().max()) for a, b in pairs)
