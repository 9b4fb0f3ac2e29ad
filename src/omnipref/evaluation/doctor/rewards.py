"""What the rewards of a log mean: measured against a reference or not, and how both responses' likelihoods went."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from omnipref.errors import ConfigError
from omnipref.evaluation.doctor.run import ENOUGH, NOISY, Change, Run


def against_reference(run: Run) -> bool | None:
    """Whether the rewards are log-ratios to a reference; None where the objective cannot be told.

    The objective is the configuration's; of a method, the terms whose losses were logged.
    """
    from omnipref.objectives import constructors, parse_objective

    text = str(run.config.get("objective") or "")
    if run.config.get("method") or not text:
        named = (term_name(key, constructors()) for key in run.names())
        text = " + ".join(f"{name}()" for name in dict.fromkeys(filter(None, named)))
    try:
        needs = [term.needs for term in parse_objective(text).terms]
    except ConfigError:
        return None
    comparing = [need for need in needs if len(need.roles) > 1 or need.lists or need.labels]
    return any(need.reference for need in needs) and all(need.reference for need in comparing)


def term_name(key: str, known: Mapping[str, object]) -> str | None:
    """The constructor behind the name of a term's loss in a log; None for other names.

    Args:
        key: as it was logged.
        known: the constructors by name.

    Example:
        >>> term_name("dpo_2/loss", {"dpo": None}), term_name("rewards/chosen", {"dpo": None})
        ('dpo', None)
    """
    stem, _, last = key.rpartition("/")
    names = (stem, re.sub(r"_\d+$", "", stem))
    return next((name for name in names if name in known), None) if last == "loss" else None


@dataclass(frozen=True)
class Moves:
    """How far both responses of a pair went, and the margin between them.

    Args:
        chosen: of the chosen response.
        rejected: of the rejected one.
        margin: chosen minus rejected.
        evidence: the three in words.
    """

    chosen: Change
    rejected: Change
    margin: Change
    evidence: str


def moves(run: Run) -> Moves | None:
    """How the likelihoods went; None where the log does not tell.

    Against a reference it is the rewards, which say of each response how its likelihood changed since the start, and
    are exact there. Otherwise it is the log-probabilities, which differ from batch to batch as well.
    """
    rewarded = run.series("rewards/chosen"), run.series("rewards/rejected")
    exact = against_reference(run) is True and len(rewarded[0]) > 0
    chosen, rejected = rewarded if exact else (run.series("logps/chosen"), run.series("logps/rejected"))
    margin = chosen.minus(rejected)
    if len(margin) < (ENOUGH if exact else NOISY):
        return None
    parts = {"chosen": chosen, "rejected": rejected, "margin": margin}
    changes = {name: series.change(exact_start=exact) for name, series in parts.items()}
    words = [f"{name} {change.text()}" for name, change in changes.items()]
    unit = "reward" if exact else "log-probability"
    evidence = f"Mean {unit}, first to last lines of the log: {', '.join(words)}."
    logps = run.series("logps/chosen")
    if exact and len(logps) >= ENOUGH:
        evidence += f" Log-probability of the chosen: {logps.change().text(1)} nats (over different batches)."
    return Moves(**changes, evidence=evidence)
