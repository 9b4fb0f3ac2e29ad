"""Scores to test objectives on: the survey card's fixture, and random log-likelihoods of real records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from omnipref.policies.cases import align
from omnipref.preferences import Case, Comparison, Preference, pair, ranked, unpaired
from omnipref.scores import Scores, pair_scores

FURTHER_ROLES = (
    "mismatched",
    "completion",
    "reference_sample",
    "sample_0",
    "sample_1",
    "rationale",
    "chosen@instructed",
    "rejected@instructed",
)
"""Cases beside a pair's two that some default objective reads."""


def card_scores(dtype: torch.dtype = torch.float64) -> Scores:
    """Card `survey-dpo`, property 5: logp −12 over 6 tokens and −15 over 8, under the reference −13 and −14.

    The columns are ours: scores 3.5 and 1, probability 0.75, age 2. Of the extras, divergences and entropy are the
    card's.
    """
    mask = torch.arange(8) < torch.tensor([[6], [8]])
    totals = torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]], dtype=dtype)
    rows = [(total * mask[i % 2] / mask[i % 2].sum()).reshape(1, 8) for i, total in enumerate(totals)]
    scores = pair_scores(*rows, mask[:1], mask[1:])
    columns = {"score": torch.tensor([3.5, 1.0]), "probability": torch.tensor([0.75]), "age": torch.tensor([2.0])}
    return replace(scores, cases=replace(scores.cases, columns=columns), extras=card_extras(scores))


def card_extras(scores: Scores) -> dict[str, Tensor]:
    """Divergences of 0.4 and 0.9 in all, an entropy of 0.3 log 32000, weights and masks of 1, and no step of β."""
    length_N1 = scores.mask.sum(1, keepdim=True)
    drift = scores.mask * torch.tensor([[0.4], [0.9]], dtype=torch.float64) / length_N1
    entropy = 0.3 * math.log(32_000) * scores.mask
    tilted = {name: scores.logp for name in ("tilted@0.01", "tilted@-0.01")}
    even = {"ref_activation": scores.mask.double(), "square_sum": scores.logp.exp() * scores.mask}
    return {"kl_ref_policy": drift, "ref_entropy": entropy, **even, **tilted}


def ratio_scores(chosen: Sequence[float], rejected: Sequence[float]) -> Scores:
    """Pairs with these log-ratios to the reference."""
    both = [torch.tensor(list(values), dtype=torch.float64) for values in (chosen, rejected)]
    return pair_scores(both[0] - 10, both[1] - 10, torch.full_like(both[0], -10), torch.full_like(both[1], -10))


def pairs(count: int) -> list[Preference]:
    return [pair(f"prompt {p}", f"good {p}", f"bad {p}", record=p) for p in range(count)]


def with_mismatched(preferences: Sequence[Preference]) -> list[Preference]:
    """The same preferences, each with a response to another prompt."""
    return [preference.with_case("mismatched", Case.raw("other", "response")) for preference in preferences]


def complete(preferences: Sequence[Preference]) -> list[Preference]:
    """The same pairs with every case that a default objective reads."""
    case = Case.raw("other", "response")
    return [replace(p, cases={**p.cases, **{role: case for role in FURTHER_ROLES}}) for p in preferences]


def with_negative_image(preferences: Sequence[Preference]) -> list[Preference]:
    """The same preferences, each with its chosen answer under another picture."""
    role = "chosen@negative_image"
    return [p.with_case(role, p.cases["chosen"], Comparison("chosen", role)) for p in preferences]


def lists(*lengths: int) -> list[Preference]:
    return [ranked(f"prompt {p}", [f"{p}.{k}" for k in range(n)], record=p) for p, n in enumerate(lengths)]


def likes(*labels: bool) -> list[Preference]:
    return [unpaired(f"prompt {p}", f"answer {p}", label, record=p) for p, label in enumerate(labels)]


def listed(strength: Sequence[float], reward: Sequence[float], record: int = 0) -> Scores:
    """One list of scored cases, best first, of ten equal units with these means; without a reference."""
    columns = {f"score/response_{k}": value for k, value in enumerate(reward)}
    made = ranked("q", [f"answer {k}" for k in range(len(reward))], columns=columns, record=record)
    logp = torch.tensor(strength, dtype=torch.float64)[:, None].expand(-1, 10).clone()
    return Scores(logp.requires_grad_(), torch.ones_like(logp, dtype=torch.bool), align([made]))


def with_columns(preferences: Sequence[Preference]) -> list[Preference]:
    """The same preferences with every column that a default objective reads."""
    return [replace(p, columns={**_columns(p), **p.columns}) for p in preferences]


def _columns(preference: Preference) -> dict[str, float]:
    better = {"chosen": 3.0 + preference.record % 3, "completion": 0.95 - 0.3 * (preference.record % 3)}
    better |= {f"response_{k}": 1 / (1 + k) for k in range(len(preference.roles))}
    scores = {f"score/{role}": better.get(role, 0.5) for role in preference.roles}
    return {**scores, "probability": 0.9, "age": float(preference.record % 3)}


def scored(preferences: Sequence[Preference], seed: int = 0, units: int = 5) -> Scores:
    """Random float64 log-likelihoods and lengths (1 to `units`) for real records."""
    cases = align(with_columns(preferences))
    random = torch.Generator().manual_seed(seed)
    shape = (len(cases.preference_N), units)
    length = torch.randint(1, units + 1, shape[:1], generator=random)
    mask = torch.arange(units) < length[:, None]
    logp, ref_logp = (-0.05 - 2 * torch.rand(shape, generator=random, dtype=torch.float64) for _ in range(2))
    return Scores(logp * mask, mask, cases, ref_logp * mask, extras=_extras(logp, mask, seed))


def _extras(logp: Tensor, mask: Tensor, seed: int) -> dict[str, Tensor]:
    """Random values in the range of every extra that a default objective reads."""
    random = torch.Generator().manual_seed(1000 + seed)
    below_one = {name: torch.rand(logp.shape, generator=random, dtype=torch.float64) for name in "abcdef"}
    extras = {
        "kl_ref_policy": 0.5 * below_one["a"],
        "ref_entropy": 0.5 + 2 * below_one["b"],
        "ref_activation": below_one["f"],
        "square_sum": 0.1 + 0.8 * below_one["c"],
        "tilted@0.01": logp + 0.1 * (below_one["d"] - 0.5),
        "tilted@-0.01": logp + 0.1 * (below_one["e"] - 0.5),
    }
    return {name: value * mask for name, value in extras.items()}


def taken(scores: Scores, preferences: Sequence[Preference], which: Sequence[int]) -> Scores:
    """Some preferences of a batch, as a batch of their own."""
    rows = torch.tensor([n for p in which for n in (scores.cases.preference_N == p).nonzero()[:, 0].tolist()])
    part = scored([preferences[p] for p in which])
    extras = {name: value[rows] for name, value in scores.extras.items()}
    assert scores.ref_logp is not None
    return Scores(scores.logp[rows], scores.mask[rows], part.cases, scores.ref_logp[rows], extras=extras)


def at_reference(scores: Scores) -> Scores:
    """The same policy beside a reference that is the policy."""
    same = {name: scores.logp for name in ("tilted@0.01", "tilted@-0.01")}
    extras = {**scores.extras, **same, "kl_ref_policy": torch.zeros_like(scores.logp)}
    return replace(scores, ref_logp=scores.logp, extras=extras)


def totals(scores: Scores) -> tuple[Tensor, Tensor]:
    """Log-ratio and number of units of every case, computed without the library's stages."""
    assert scores.ref_logp is not None
    rho = [float(sum(row[m] - ref[m])) for row, ref, m in zip(scores.logp, scores.ref_logp, scores.mask, strict=True)]
    return torch.tensor(rho, dtype=torch.float64), scores.mask.sum(1)
