"""`omnipref reproduce`: claims run, tabled, and told plainly."""

from __future__ import annotations

import json
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
                trial=bool(config.options) or seeds < _kept_seeds(config, card.slug),
            )
            show(console, claim, run_claim(run, shlex.join(["omnipref", *sys.argv[1:]])))
            print(f"Kept in {run.kept}\n")
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
    """The tables of a claim and what they mean."""
    main = Table("arm", "role", claim.metric, "method - arm", box=None, pad_edge=False, header_style="bold")
    also = Table("arm", *claim.show, box=None, pad_edge=False, header_style="bold")
    for arm in claim.arms:
        numbers = result["arms"][arm]
        effect = result["effects"].get(arm)
        value = spread([one[claim.metric] for one in numbers])
        main.add_row(arm, role(claim, arm), value, interval(effect) if effect else "")
        also.add_row(arm, *(spread([one[name] for one in numbers]) for name in claim.show))
    console.print(main)
    if claim.show:
        console.print("\nAlso measured, deciding nothing:")
        console.print(also)
    console.print(f"\n{sentence(claim, result)}", markup=False, highlight=False)


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


def _kept_seeds(config: ReproduceConfig, slug: str) -> int:
    """Seeds of the record that is there; one of fewer does not replace it."""
    path = Path(config.output_dir) / f"{slug}.json"
    return json.loads(path.read_text(encoding="utf-8"))["seeds"] if path.exists() else 0
