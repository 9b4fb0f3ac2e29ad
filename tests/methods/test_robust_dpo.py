"""Robust DPO: exactness at no flips, slopes, and where each loss is least (card robust-dpo)."""

from __future__ import annotations

import math

import pytest
import torch
from objectives.examples import card_scores, pairs, ratio_scores, scored

from omnipref.errors import ConfigError
from omnipref.objectives import Objective, dpo
from omnipref.registry import load_method

PAIRS = scored(pairs(8), seed=6)


def robust(rate: float, beta: float = 0.1) -> Objective:
    return load_method("robust-dpo", {"flip_rate": rate, "beta": beta}).objective


def test_without_flips_it_is_dpo_to_the_last_bit():
    scores, plain = PAIRS.with_gradient(), PAIRS.with_gradient()
    ours, theirs = robust(0.0)(scores).loss_P, dpo(beta=0.1)(plain).loss_P
    assert torch.equal(ours, theirs)
    slopes = [torch.autograd.grad(loss.sum(), s.logp)[0] for loss, s in ((ours, scores), (theirs, plain))]
    assert torch.equal(*slopes)


@pytest.mark.parametrize(("rate", "expected"), [(0.1, 0.573139), (0.3, 0.448139)])
def test_worked_numbers(rate: float, expected: float):
    assert robust(rate)(card_scores()).loss_P.item() == pytest.approx(expected, rel=0, abs=5.1e-7)


def slope(objective: Objective, margin: float) -> float:
    """`−dL/dh` at `h = βΔ`, by central differences."""
    step = 1e-4
    above, below = (objective(ratio_scores([10 * (margin + s)], [0.0])).loss_P.item() for s in (step, -step))
    return (below - above) / (2 * step)


@pytest.mark.parametrize("margin", [-3.0, 0.2, 2.0])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_every_pair_is_pushed_harder_than_by_dpo_and_less_by_smoothing(rate: float, margin: float):
    plain = 1 / (1 + math.exp(margin))
    assert slope(robust(rate), margin) == pytest.approx(plain + rate / (1 - 2 * rate), abs=1e-7)
    assert slope(dpo(beta=0.1, label_smoothing=rate), margin) == pytest.approx(plain - rate, abs=1e-7)


def test_smoothing_stops_and_this_does_not():
    target = math.log(0.9 / 0.1)
    assert slope(dpo(beta=0.1, label_smoothing=0.1), target) == pytest.approx(0, abs=1e-7)
    assert slope(dpo(beta=0.1, label_smoothing=0.1), target + 0.1) < -1e-3
    assert slope(robust(0.1), 30.0) == pytest.approx(0.1 / 0.8, abs=1e-7)


@pytest.mark.parametrize("rate", [0.5, 0.7, -0.1])
def test_rates_from_one_half_on_are_refused(rate: float):
    with pytest.raises(ConfigError, match="flip_rate"):
        robust(rate)
