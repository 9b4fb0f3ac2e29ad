"""Scores to test objectives on: the survey card's fixture, and random log-likelihoods of real records."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omnipref.policies.cases import align
from omnipref.preferences import Case, Comparison, Preference, pair, ranked, unpaired
from omnipref.scores import Scores, pair_scores


def card_scores(dtype: torch.dtype = torch.float64) -> Scores:
    """Card `survey-dpo`, property 5: logp −12 over 6 tokens and −15 over 8, under the reference −13 and −14."""
    mask = torch.arange(8) < torch.tensor([[6], [8]])
    totals = torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]], dtype=dtype)
    rows = [(total * mask[i % 2] / mask[i % 2].sum()).reshape(1, 8) for i, total in enumerate(totals)]
    return pair_scores(*rows, mask[:1], mask[1:])


def ratio_scores(chosen: Sequence[float], rejected: Sequence[float]) -> Scores:
    """Pairs with these log-ratios to the reference."""
    both = [torch.tensor(list(values), dtype=torch.float64) for values in (chosen, rejected)]
    return pair_scores(both[0] - 10, both[1] - 10, torch.full_like(both[0], -10), torch.full_like(both[1], -10))


def pairs(count: int) -> list[Preference]:
    return [pair(f"prompt {p}", f"good {p}", f"bad {p}", record=p) for p in range(count)]


def with_mismatched(preferences: Sequence[Preference]) -> list[Preference]:
    """The same preferences, each with a response to another prompt."""
    return [preference.with_case("mismatched", Case.raw("other", "response")) for preference in preferences]


def with_negative_image(preferences: Sequence[Preference]) -> list[Preference]:
    """The same preferences, each with its chosen answer under another picture."""
    role = "chosen@negative_image"
    return [p.with_case(role, p.cases["chosen"], Comparison("chosen", role)) for p in preferences]


def lists(*lengths: int) -> list[Preference]:
    return [ranked(f"prompt {p}", [f"{p}.{k}" for k in range(n)], record=p) for p, n in enumerate(lengths)]


def likes(*labels: bool) -> list[Preference]:
    return [unpaired(f"prompt {p}", f"answer {p}", label, record=p) for p, label in enumerate(labels)]


def scored(preferences: Sequence[Preference], seed: int = 0, units: int = 5) -> Scores:
    """Random float64 log-likelihoods and lengths (1 to `units`) for real records."""
    cases = align(preferences)
    random = torch.Generator().manual_seed(seed)
    shape = (len(cases.preference_N), units)
    length = torch.randint(1, units + 1, shape[:1], generator=random)
    mask = torch.arange(units) < length[:, None]
    logp, ref_logp = (-0.05 - 2 * torch.rand(shape, generator=random, dtype=torch.float64) for _ in range(2))
    return Scores(logp * mask, mask, cases, ref_logp * mask)


def totals(scores: Scores) -> tuple[Tensor, Tensor]:
    """Log-ratio and number of units of every case, computed without the library's stages."""
    assert scores.ref_logp is not None
    rho = [float(sum(row[m] - ref[m])) for row, ref, m in zip(scores.logp, scores.ref_logp, scores.mask, strict=True)]
    return torch.tensor(rho, dtype=torch.float64), scores.mask.sum(1)
