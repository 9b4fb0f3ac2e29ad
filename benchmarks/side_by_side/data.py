"""Real pairs, split by prompt, cut to a longest case, in the columns that both libraries read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from omnipref.policies.autoregressive.encode import encode
from omnipref.preferences import Preference, pair, read, split, write_trl


@dataclass(frozen=True)
class Pairs:
    """Training and held-out pairs, and what became of the others."""

    training: list[Preference]
    held_out: list[Preference]
    facts: dict[str, Any]


def read_pairs(source: Path, aside: Path, limit: int | None, fraction: float, seed: int) -> Pairs:
    """The pairs of a file, split such that no prompt is on both sides; bad records go to `aside`."""
    reading = read(source, limit=limit, quarantine=aside)
    training, held_out = split(list(reading), fraction, seed=seed)
    report = reading.report
    facts = {
        "rows": report.rows,
        "bad": report.bad,
        "equal_pairs": report.equal_pairs,
        "duplicates_dropped": report.duplicates_dropped,
    }
    return Pairs(training, held_out, facts)


def lengths(owner: PreTrainedTokenizerBase, preference: Preference) -> tuple[int, int, int]:
    """Tokens of prompt, chosen and rejected response."""
    chosen, rejected = encode(owner, preference).cases
    return len(chosen.prompt.ids), len(chosen.response), len(rejected.response)


def cut(pairs: Pairs, owner: PreTrainedTokenizerBase, max_length: int) -> Pairs:
    """Without the pairs of which a case exceeds `max_length` tokens; says how many, and what sharing can save."""
    kept: dict[str, list[Preference]] = {}
    facts: dict[str, Any] = {"max_length": max_length}
    parts: dict[str, Sequence[Preference]] = {"training": pairs.training, "held_out": pairs.held_out}
    sizes: list[tuple[int, int, int]] = []
    for name, preferences in parts.items():
        found = [(preference, lengths(owner, preference)) for preference in preferences]
        fitting = [(one, size) for one, size in found if size[0] + max(size[1:]) <= max_length]
        kept[name] = [one for one, _ in fitting]
        facts |= {name: len(fitting), f"{name}_too_long": len(found) - len(fitting)}
        sizes = sizes or [size for _, size in fitting]
    prompt, chosen, rejected = (sum(column) for column in zip(*sizes, strict=True))
    facts["training_tokens"] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    facts["rows_over_forest_tokens"] = (2 * prompt + chosen + rejected) / (prompt + chosen + rejected)
    return Pairs(kept["training"], kept["held_out"], pairs.facts | facts)


def plain(preference: Preference) -> Preference:
    """The same pair as a plain transcript without a chat template."""
    context = preference.cases["chosen"].context
    names = {"user": "Human", "assistant": "Assistant"}
    prompt = "".join(f"\n\n{names[message.role]}: {message.text}" for message in context) + "\n\nAssistant:"
    return pair(prompt, *(" " + preference.cases[role].text for role in ("chosen", "rejected")))


def write_pairs(preferences: Sequence[Preference], folder: Path) -> tuple[Path, Path]:
    """Files with the pairs as dialogues and as plain strings."""
    dialogues, strings = folder / "pairs.jsonl", folder / "plain.jsonl"
    write_trl(preferences, dialogues)
    write_trl([plain(preference) for preference in preferences], strings)
    return dialogues, strings
