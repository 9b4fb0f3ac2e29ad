"""`omnipref score`: log-likelihoods of every case under a model, and rewards against a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from tqdm.auto import tqdm

from omnipref.config import ScoreConfig
from omnipref.config.base import Scoring
from omnipref.errors import DataError
from omnipref.objectives.objective import Needs
from omnipref.policies.caching.place import cache_directory
from omnipref.policies.parts import Part, aside_of, run_in_parts
from omnipref.policies.policy import Batch, Policy
from omnipref.policies.prompt_files import refusal
from omnipref.preferences import Preference, read
from omnipref.preferences.sources import check_source
from omnipref.training.caches import with_kept_features
from omnipref.training.data import prepare
from omnipref.training.models import from_pretrained_options, load
from omnipref.training.reference_scores import ScoreCache, by_case, stacked


@dataclass(frozen=True)
class ScoredCase:
    """One case of one preference.

    Args:
        record: number of the preference.
        role: the case's name.
        logp: sum of log-likelihoods in nats.
        units: tokens or denoising steps that were summed.
        ref_logp: the same under the reference; None without one.
    """

    record: int
    role: str
    logp: float
    units: int
    ref_logp: float | None = None

    @property
    def log_ratio(self) -> float | None:
        """`logp - ref_logp` in nats; None without a reference."""
        return None if self.ref_logp is None else self.logp - self.ref_logp


@torch.no_grad()
def score_preferences(
    policy: Policy,
    model: nn.Module,
    preferences: Sequence[Preference],
    reference: nn.Module | None = None,
    *,
    batch_size: int = 8,
    seed: int = 0,
    aside: Path = Path("score.quarantine.jsonl"),
    cache: ScoreCache | None = None,
    progress: bool = True,
) -> list[list[ScoredCase]]:
    """Score the cases of many preferences, in their order; records that cannot be encoded are set aside.

    Args:
        policy: encodes and scores.
        model: the model.
        preferences: what to score.
        reference: a second model to score with.
        batch_size: preferences at once.
        seed: for policies that draw noise.
        aside: file for records that cannot be encoded.
        cache: scores that are there are taken, others are added.
        progress: whether to show bars.
    """
    data = prepare(policy, preferences, Needs(), aside, progress=progress)
    starts = range(0, len(data), batch_size)
    found: list[list[ScoredCase]] = []
    for start in tqdm(starts, desc="scoring", unit="batch", leave=False, disable=not progress):
        encoded = [data[i] for i in range(start, min(start + batch_size, len(data)))]
        found += _scored_batch(policy, model, reference, encoded, seed, cache)
    return found


@torch.no_grad()
def _scored_batch(
    policy: Policy,
    model: nn.Module,
    reference: nn.Module | None,
    encoded: Sequence[Any],
    seed: int,
    cache: ScoreCache | None,
) -> list[list[ScoredCase]]:
    """The cases of each preference of a batch."""
    model.eval()
    batch = policy.collate(encoded).to(next(model.parameters()).device)
    logp, units = _sums(policy, model, batch, seed, cache)
    under_reference = _sums(policy, reference, batch, seed, cache)[0] if reference else None
    names = [role for role, _ in sorted(_places(batch.cases.rows), key=lambda place: place[1])]
    found = []
    for p, record in enumerate(batch.cases.record_P.tolist()):
        own = (batch.cases.preference_N == p).nonzero()[:, 0].tolist()
        beside = {n: under_reference[n] for n in own} if under_reference else {}
        found.append([ScoredCase(record, names[n], logp[n], units[n], beside.get(n)) for n in own])
    return found


def _sums(
    policy: Policy, model: nn.Module, batch: Batch, seed: int, cache: ScoreCache | None
) -> tuple[list[float], list[int]]:
    """Sum of log-likelihoods and number of units of each case of a batch."""
    keys = batch.inputs.get("case_keys", ())
    weights = cache.weights(model) if cache and keys else ""
    found = cache.find(weights, keys) if cache else {}
    if keys and found.keys() >= set(keys):
        logp_NU, mask_NU = (stacked([found[key][name] for key in keys]) for name in ("logp", "mask"))
    else:
        scores = policy.score(model, batch, seed=seed)
        logp_NU, mask_NU = scores.logp, scores.mask
        if cache:
            cache.add(weights, by_case(batch, logp_NU, mask_NU))
    return logp_NU.double().sum(1).tolist(), mask_NU.sum(1).tolist()


def _places(rows: Any) -> Iterator[tuple[str, int]]:
    for role, index in rows.items():
        yield from ((role, int(n)) for n in index.tolist() if n >= 0)


@dataclass(frozen=True)
class Scorer:
    """A policy with its model and reference, ready to score."""

    policy: Policy
    model: nn.Module
    reference: nn.Module | None


def load_scorer(config: Scoring) -> Scorer:
    """Load what a scoring configuration names."""
    options = {"layout": config.layout, "max_length": config.max_length, **from_pretrained_options(config)}
    loaded = load(config.model_name_or_path, **options)
    model = PeftModel.from_pretrained(loaded.model, config.adapter) if config.adapter else loaded.model  # type: ignore[arg-type]
    reference = load(config.ref_model, **options).model if config.ref_model else None
    if config.ref_adapter:
        reference = PeftModel.from_pretrained(load(config.model_name_or_path, **options).model, config.ref_adapter)  # type: ignore[arg-type]
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")

    def frozen(module: nn.Module) -> nn.Module:
        return module.to(device).eval().requires_grad_(False)

    return Scorer(loaded.policy, frozen(model), frozen(reference) if reference else None)


BATCHES = 16
"""Batches per part: what an interruption loses at most."""
_WITHOUT_EFFECT = {"output", "cache_dir", "batch_size"}
"""Settings that do not change what is written."""


def score(config: ScoreConfig) -> Path:
    """Write a line per preference: `record`, `source`, per role `logp` and `units`, against a reference `reward`.

    It works in parts, and an interrupted run goes on with the first that is missing.

    Raises:
        ConfigError: the output is there already or belongs to an interrupted run of other settings, or a cache that is
            to be filled cannot be written.
        DataError: no such file, or no record in it that can be scored.
        OSError: the output's folder cannot be written.
    """
    output = Path(config.output)
    for source in config.dataset:
        check_source(source, split=config.dataset_split)
    preferences = [
        preference
        for source in config.dataset
        for preference in read(source, format=config.dataset_format, split=config.dataset_split, limit=config.limit)
    ]
    settings = {name: value for name, value in asdict(config).items() if name not in _WITHOUT_EFFECT}
    scored = cache(lambda: _scoring(config))  # loads a model, so only when a part is missing

    def work(part: Sequence[Preference]) -> Part:
        return scored()(part)

    size, models = config.batch_size * BATCHES, (config.adapter, config.ref_model, config.ref_adapter)
    made_of = [*config.dataset, config.model_name_or_path, *models]
    written, dropped = run_in_parts(output, settings, preferences, size, work, "scoring", made_of=made_of)
    if not written:
        output.unlink()
        cure = f"look at the reasons in {aside_of(output)}" if dropped else "look at `omnipref data inspect`"
        raise DataError("no record that can be scored", "at least one", cure=cure)
    left = f", {dropped} put aside" if dropped else ""
    print(f"{written} of {len(preferences)} records scored{left}: {output}")
    return output


def _scoring(config: ScoreConfig) -> Callable[[Sequence[Preference]], Part]:
    """Scores the records of a part with what a configuration names; those that cannot be encoded are put aside."""
    scorer, directory = load_scorer(config), cache_directory(config.cache_dir)
    policy = (
        with_kept_features(scorer.policy, directory, strict=True) if config.cache_vision_features else scorer.policy
    )
    kept = ScoreCache(directory, strict=True) if config.fill_cache else None
    device = next(scorer.model.parameters()).device.type

    def work(part: Sequence[Preference]) -> Part:
        encoded, dropped = [], []
        for preference in part:
            try:
                encoded.append((preference, policy.encode(preference)))
            except DataError as error:
                dropped.append(refusal(error.at(record=preference.record, source=preference.source or None)))
        lines = []
        with torch.autocast(device, torch.bfloat16, enabled=config.bf16):
            for start in range(0, len(encoded), config.batch_size):
                sources, items = zip(*encoded[start : start + config.batch_size], strict=True)
                scored = _scored_batch(policy, scorer.model, scorer.reference, items, config.seed, kept)
                for preference, cases in zip(sources, scored, strict=True):
                    try:
                        lines.append(_line(preference, cases, config.beta))
                    except DataError as error:
                        dropped.append(refusal(error))
        return Part(lines, dropped)

    return work


def _line(preference: Preference, cases: Sequence[ScoredCase], beta: float) -> dict[str, Any]:
    """A line of the output.

    Raises:
        DataError: a log-likelihood is NaN or infinite.
    """
    for case in cases:
        if not math.isfinite(case.logp + (case.ref_logp or 0.0)):
            raise DataError(
                f"a log-likelihood of {case.logp} under the model, {case.ref_logp} under the reference",
                "finite numbers",
                cure="score in another precision (--dtype float32), or look for NaN in the weights",
                record=preference.record,
                field=case.role,
                source=preference.source or None,
            )
    line: dict[str, Any] = {"record": preference.record, "source": preference.source}
    for case in cases:
        line[case.role] = {"logp": case.logp, "units": case.units}
        if case.log_ratio is not None:
            line[case.role] |= {"ref_logp": case.ref_logp, "reward": beta * case.log_ratio}
    return line
