"""MAPL's sum of comparisons: worked numbers, start, what its weights leave out (card mapl)."""

from __future__ import annotations

import math

import pytest
import torch

from omnipref.objectives import dpo, parse_objective
from omnipref.registry import load_claim, load_method
from omnipref.scores import Cases, Scores, pair_scores

ROLES = (
    "chosen",
    "rejected",
    "chosen@obeyed",
    "chosen@disobeyed",
    "rejected@obeyed",
    "rejected@disobeyed",
    "chosen@instructed",
    "rejected@instructed",
)


def scores(*rho: float) -> Scores:
    rows = {role: torch.tensor([k]) for k, role in enumerate(ROLES)}
    none = torch.full((8,), -1)
    cases = Cases(torch.tensor([0]), rows, torch.zeros(8).long(), none, 0 * none)
    logp = torch.tensor(rho, dtype=torch.float64)[:, None]
    return Scores(logp, torch.ones(8, 1, dtype=torch.bool), cases, torch.zeros_like(logp))


def test_worked_numbers():
    """The card's reward model, with its one triple for both responses, and its DPO form."""
    reward_model = scores(1.3, 0.4, 2.0, 0.5, 2.0, 0.5, 2.1, 0.2)
    assert load_method("mapl", {"beta": 1.0}).objective(reward_model).loss_P.item() == pytest.approx(0.855829, abs=2e-6)
    policy = scores(3.0, -1.0, 4.0, -2.0, 4.0, -2.0, 3.0, -5.0)
    expected = 0.513015 + 0.437488 + 0.513015
    assert load_method("mapl").objective(policy).loss_P.item() == pytest.approx(expected, abs=2e-6)


def intra(better: float, worse: float) -> Scores:
    """One response under two prompts, with these rewards."""
    return pair_scores(*torch.tensor([[better], [worse], [0.0], [0.0]], dtype=torch.float64))


def test_one_response_under_two_prompts():
    """The card's intra term alone; whatever a response is worth in itself cancels, and equal prompts teach nothing."""
    loss = dpo(beta=1.0)(intra(2.0, 0.5)).loss_P.item()
    assert loss == pytest.approx(0.201413, rel=0, abs=5.1e-7)
    assert dpo(beta=1.0)(intra(2.0 + 7, 0.5 + 7)).loss_P.item() == pytest.approx(loss)
    logp = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    same = dpo(beta=1.0)(pair_scores(logp, logp, torch.zeros(1, 1), torch.zeros(1, 1))).loss_P
    assert same.item() == pytest.approx(math.log(2))
    assert torch.autograd.grad(same.sum(), logp)[0].abs().item() < 1e-12
    parts = {f"{role}@{name}" for role in ("chosen", "rejected") for name in ("obeyed", "disobeyed")}
    asked = load_method("mapl", {"inter_weight": 0.0}).needs.roles
    assert asked == {"chosen", "rejected"} | parts


def test_it_starts_at_three_times_log_2():
    assert load_method("mapl").objective(scores(*[0.0] * 8)).loss_P.item() == pytest.approx(3 * math.log(2))


def test_weights_leave_terms_out():
    assert str(load_method("mapl", {"intra_weight": 0.0, "inter_weight": 0.0}).objective) == str(dpo())
    intra = load_method("mapl", {"inter_weight": 0.0})
    assert not any("instructed" in role for role in intra.needs.roles) and not intra.not_pulling_because
    assert load_method("mapl").needs.roles == set(ROLES)


def test_the_claim_trains_with_this_method():
    trained = parse_objective(load_claim("mapl").options["arms"]["both"]["objective"])
    assert str(trained) == str(load_method("mapl", {"beta": 1.0}).objective)
