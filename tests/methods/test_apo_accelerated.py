"""Accelerated rounds: how steps add up in a world where every fit is exact (card apo-accelerated)."""

from __future__ import annotations

import pytest
import torch

from omnipref.registry import load_claim, load_method
from omnipref.training.extrapolation import extrapolated
from omnipref.worlds.bandits import rounds

REWARD = torch.rand(1, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BETA = 2.0


def fits(momentum: float, count: int) -> list[torch.Tensor]:
    """Logits at the end of each fit, `β log π̂ / r` up to constants: an exact fit adds `r/β` to where it starts."""
    start = before = torch.zeros_like(REWARD)
    found = []
    for _ in range(count):
        fitted = start + REWARD / BETA
        found.append(fitted)
        start = extrapolated({"logits": fitted}, {"logits": before}, momentum)["logits"]
        before = fitted
    return found


def multiples(momentum: float) -> list[float]:
    return [(logits * BETA / REWARD)[0, 0].item() for logits in fits(momentum, 5)]


def test_increments_of_the_fits():
    total = multiples(0.3)
    steps = [after - before for before, after in zip([0.0, *total], total, strict=False)]
    assert steps == pytest.approx([1, 1.3, 1.39, 1.417, 1.4251], abs=1e-9)
    assert total[-1] == pytest.approx(6.5321, abs=1e-9)
    assert multiples(0.0) == pytest.approx([1, 2, 3, 4, 5])


def test_gaps_shrink_faster_with_more_momentum():
    """The card's exact world has another draw of rewards; the order is the same at every round."""
    gaps = []
    for momentum in (0.0, 0.3, 0.6, 0.8):
        best = REWARD.max().item()
        gaps.append([best - (logits.softmax(1) * REWARD).sum().item() for logits in fits(momentum, 30)])
    for number in range(1, 30):
        assert gaps[0][number] > gaps[1][number] > gaps[2][number] > gaps[3][number] > 0
    reached = [next(k for k, gap in enumerate(row) if gap < gaps[0][-1] * 1.0001) + 1 for row in gaps]
    assert reached[0] == 30 and reached[1] <= 23 and reached[2] <= 15


def test_the_first_fit_does_not_depend_on_momentum():
    assert torch.equal(fits(0.0, 1)[0], fits(0.8, 1)[0])
    arms = {name: {"objective": "dpo(beta=1.0)", "momentum": value} for name, value in (("a", 0.0), ("b", 0.3))}
    plain, further = (rounds.run(arm, 0, arms=arms, rounds=1, steps=20) for arm in ("a", "b"))
    assert further["reward_1"] > plain["reward_1"]  # what is returned lies past the same fit


def test_a_round_is_dpo_against_its_start():
    assert str(load_method("apo-accelerated").objective) == "dpo()"
    arms = load_claim("apo-accelerated").options["arms"]
    assert arms["longer_step"]["objective"] == f"dpo(beta={1 / 1.3})" and "momentum" not in arms["longer_step"]
