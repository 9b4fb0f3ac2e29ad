"""One runner for every claim: arms x seeds, resumable, compared seed by seed, told as it came out."""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from omnipref.config.coerce import arguments_for
from omnipref.config.load import write_text
from omnipref.environment import devices, versions
from omnipref.errors import ConfigError, DataError, nearest
from omnipref.evaluation.estimates import Estimate, mean_interval
from omnipref.method import Claim

Arms = Mapping[str, Sequence[Mapping[str, float]]]
"""Arm to its numbers, one mapping per seed."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a claim's arms say.

    Args:
        effects: arm to `method - arm` of the deciding metric, paired by seed, with Student's 95 % interval.
        held: whether the method is better than its baseline and than every control, zero outside each interval.
        word: `held`, `did not hold` or `not expected at this scale`.
    """

    effects: Mapping[str, Estimate]
    held: bool
    word: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A claim as it is run here.

    Args:
        slug: the method.
        claim: what is claimed.
        folder: where `<slug>.json` goes; the arms' numbers lie in `.arms` below it.
        seeds: how many seeds, counted from 0.
        commit: of the code, part of what makes two runs the same.
        fresh: run every arm again.
        trial: not the claim's protocol; kept as `<slug>.trial.json`, so that the claim's own record stays.
        say: takes each line of progress.
    """

    slug: str
    claim: Claim
    folder: Path
    seeds: int
    commit: str = ""
    fresh: bool = False
    trial: bool = False
    say: Callable[[str], None] = field(default=print)

    @property
    def kept(self) -> Path:
        """The file of the result."""
        return self.folder / f"{self.slug}{'.trial' if self.trial else ''}.json"

    def cached(self, arm: str, seed: int) -> Path:
        """The file of one arm and seed; another protocol, option or commit is another file."""
        protocol = (self.claim.run, self.claim.version, dict(self.claim.options), self.commit, arm, seed)
        key = hashlib.sha256(json.dumps(protocol, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return self.folder / ".arms" / self.slug / f"{seed}-{key}.json"


def with_options(claim: Claim, options: Mapping[str, Any]) -> Claim:
    """The same claim with options of one's own; the note then says that it is not the claim's protocol.

    Raises:
        ConfigError: an option that the claim's `run` does not take, or a value of another type.
    """
    if not options:
        return claim
    function = _function(claim.run)
    known = [each.name for each in signature(function).parameters.values() if each.kind is Parameter.KEYWORD_ONLY]
    known = [name for name in known if name != "arms"]
    for name in options:
        if name not in known:
            raise ConfigError(f"found `{name}` in `options`; {nearest(name, known)}")
    given = arguments_for(function, options)
    changed = ", ".join(f"{name}={value}" for name, value in given.items())
    return replace(
        claim, options={**claim.options, **given}, note=f"Not the claim's protocol: {changed}. {claim.note}".strip()
    )


def run_arms(run: Run) -> Arms:
    """Run what is not yet there, seed after seed so that an interrupted run is balanced; every arm is kept at once.

    Raises:
        ConfigError: `run` of the claim cannot be imported, or an arm lacks the deciding metric.
    """
    function = _function(run.claim.run)
    total, done, spent, fresh = len(run.claim.arms) * run.seeds, 0, 0.0, 0
    numbers: dict[str, list[Mapping[str, float]]] = {arm: [] for arm in run.claim.arms}
    for seed in range(run.seeds):
        for arm in run.claim.arms:
            start = time.monotonic()
            result, was_cached = _one(run, function, arm, seed)
            numbers[arm].append(result)
            done, fresh = done + 1, fresh + (not was_cached)
            spent += 0.0 if was_cached else time.monotonic() - start
            left = "" if not fresh else f", about {spent / fresh * (total - done):.0f} s left"
            state = "kept from before" if was_cached else f"{time.monotonic() - start:.0f} s{left}"
            value = f"{run.claim.metric} {result[run.claim.metric]:.4g}"
            run.say(f"[{done}/{total}] seed {seed}, {arm}: {value} ({state})")
    return numbers


def _one(run: Run, function: Callable[..., Mapping[str, float]], arm: str, seed: int) -> tuple[dict[str, float], bool]:
    path = run.cached(arm, seed)
    if path.is_file() and not run.fresh:
        return json.loads(path.read_text(encoding="utf-8")), True
    result = {name: float(value) for name, value in function(arm, seed, **run.claim.options).items()}
    for name in (run.claim.metric, *run.claim.show):
        if name not in result:
            raise ConfigError(f"the arm `{arm}` of `{run.slug}` gave no `{name}`; {nearest(name, result)}")
    if result[run.claim.metric] != result[run.claim.metric]:
        raise DataError(f"`{run.claim.metric}` is NaN", "a number", source=f"arm `{arm}`, seed {seed}")
    write_text(run.folder / ".arms" / ".gitignore", "*\n")
    write_text(path, json.dumps(result))
    return result, False


def _function(target: str) -> Callable[..., Mapping[str, float]]:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the claim's `run` = {target!r} cannot be imported: {error}") from error


def judge(claim: Claim, arms: Arms) -> Verdict:
    """Compare the method with every other arm, seed by seed.

    Raises:
        DataError: fewer than two seeds.
    """
    value = {arm: [numbers[claim.metric] for numbers in arms[arm]] for arm in claim.arms}
    effects = {
        arm: mean_interval([a - b for a, b in zip(value[claim.method], value[arm], strict=True)])
        for arm in claim.arms
        if arm != claim.method
    }
    held = all(better(effects[arm], claim) for arm in (claim.baseline, *claim.controls))
    word = "held" if held else "did not hold"
    return Verdict(effects=effects, held=held, word=word if claim.expected_here else "not expected at this scale")


def better(effect: Estimate, claim: Claim) -> bool:
    """Whether the whole interval of `method - arm` lies on the claimed side of zero."""
    return effect.low > 0 if claim.direction == "up" else effect.high < 0


def commit(folder: Path | None = None) -> str:
    """Commit of the checkout that the code runs from; empty outside a checkout.

    Where files of the package differ or are new, `+changes.` and a digest of the package follow.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder or Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (f"+changes.{_digest()}" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _digest() -> str:
    """Eight digits that change with any file of the package."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:8]


def record(run: Run, arms: Arms, verdict: Verdict, command: str) -> dict[str, Any]:
    """What is kept of a claim: `<slug>.json`."""
    shown = {arm: asdict(effect) for arm, effect in verdict.effects.items()}
    main = verdict.effects[run.claim.baseline]
    return {
        "slug": run.slug,
        "claim": asdict(run.claim),
        "verdict": verdict.word,
        "held": verdict.held,
        "effect": main.value,
        "interval": [main.low, main.high],
        "seeds": run.seeds,
        "baseline": run.claim.baseline,
        "control": list(run.claim.controls),
        "effects": shown,
        "arms": {arm: [dict(numbers) for numbers in values] for arm, values in arms.items()},
        "machine": [platform.machine(), platform.system(), *devices()],
        "commit": run.commit,
        "command": command,
        "versions": versions(),
    }


def run_claim(run: Run, command: str) -> dict[str, Any]:
    """Run a claim, keep `<slug>.json` and return it."""
    arms = run_arms(run)
    result = record(run, arms, judge(run.claim, arms), command)
    write_text(run.kept, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result
