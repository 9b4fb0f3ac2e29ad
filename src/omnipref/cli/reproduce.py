"""`omnipref reproduce`: claims run, tabled, and told plainly."""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from omnipref.claims import Run, better, commit, run_claim, with_options
from omnipref.config import ReproduceConfig
from omnipref.errors import ConfigError, OmniprefError
from omnipref.evaluation.estimates import Estimate
from omnipref.method import Claim
from omnipref.registry import Card, discover, find, load_claim


def reproduce(config: ReproduceConfig) -> None:
    """Run the claims that were asked for; one that fails does not end the others.

    Raises:
        ConfigError: a claim could not be run; names each.
    """
    console, failures = Console(), []
    for card in chosen(config):
        try:
            claim = with_options(load_claim(card.slug), config.options)
            seeds = config.seeds or claim.seeds
            print(
                f"{card.slug}: {claim.statement}\n{len(claim.arms)} arms x {seeds} seeds in the world of {claim.world}."
            )
            run = Run(
                slug=card.slug,
                claim=claim,
                folder=Path(config.output_dir),
                seeds=seeds,
                commit=commit(),
                fresh=config.fresh,
            )
            show(console, claim, run_claim(run, shlex.join(["omnipref", *sys.argv[1:]])))
            print(f"Kept in {Path(config.output_dir) / f'{card.slug}.json'}\n")
        except OmniprefError as error:
            failures.append(f"{card.slug}: {error}")
    if failures:
        raise ConfigError("; ".join(failures))


def chosen(config: ReproduceConfig) -> list[Card]:
    """The cards of the methods whose claims are to be run.

    Raises:
        ConfigError: an unknown method, or none of this modality makes a claim.
    """
    if config.slug != "all":
        return [find(config.slug)]
    cards = [card for card in discover() if card.has_claim and config.modality in (None, card.modality)]
    if not cards:
        raise ConfigError(f"found no method with a claim for the modality {config.modality!r}; see `omnipref methods`")
    return cards


def show(console: Console, claim: Claim, result: Mapping[str, Any]) -> None:
    """The table of a claim and what it means."""
    names = (claim.metric, *claim.show)
    table = Table("arm", *names, f"method - arm ({claim.metric})", box=None, pad_edge=False, header_style="bold")
    for arm in claim.arms:
        cells = [spread([numbers[name] for numbers in result["arms"][arm]]) for name in names]
        effect = result["effects"].get(arm)
        table.add_row(f"{arm} ({role(claim, arm)})", *cells, interval(effect) if effect else "")
    console.print(table)
    console.print(sentence(claim, result), markup=False, highlight=False)


def role(claim: Claim, arm: str) -> str:
    """What an arm is for."""
    roles = {claim.method: "method", claim.baseline: "baseline"} | dict.fromkeys(claim.controls, "control")
    return roles.get(arm, "shown")


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g}"


def interval(effect: Mapping[str, float]) -> str:
    """An effect with its interval."""
    return f"{effect['value']:+.3g} [{effect['low']:+.3g}, {effect['high']:+.3g}]"


def sentence(claim: Claim, result: Mapping[str, Any]) -> str:
    """What the numbers mean, in words."""
    good = "higher" if claim.direction == "up" else "lower"
    effect = interval(result["effects"][claim.baseline])
    lines = [
        f"The claim {result['verdict']}." if claim.expected_here else f"The effect is {result['verdict']}.",
        f"{claim.metric}: {claim.method} - {claim.baseline} = {effect}",
        f"over {result['seeds']} seeds, with the 95 % interval; {good} is better.",
    ]
    if not claim.expected_here:
        lines[0] += " It was seen here." if result["held"] else " It was not seen here."
    kept = [arm for arm in claim.controls if not better(Estimate(**result["effects"][arm]), claim)]
    if kept:
        lines.append(f"Not separable from the method, so its key part is not shown to matter: {', '.join(kept)}.")
    if claim.expected is not None:
        lines.append(f"Expected: about {claim.expected:+.3g}.")
    return "\n".join([*lines, *([claim.note] if claim.note else [])])
