"""SPO by degrees: its sum, its start, and what gamma leaves out (card spo-self-supervised)."""

from __future__ import annotations

import math

import pytest
import torch

from omnipref.objectives import dpo, parse_objective
from omnipref.registry import load_claim, load_method
from omnipref.scores import Cases, Scores

ROLES = ("chosen", "rejected", "degree", "wrong_degree_1", "wrong_degree_2")


def scores(*value: float) -> Scores:
    rows = {role: torch.tensor([k]) for k, role in enumerate(ROLES)}
    none = torch.full((5,), -1)
    cases = Cases(torch.tensor([0]), rows, torch.zeros(5).long(), none, 0 * none)
    logp = torch.tensor(value, dtype=torch.float64)[:, None]
    return Scores(logp, torch.ones(5, 1, dtype=torch.bool), cases, torch.zeros_like(logp))


def value(*of: float, **arguments: float) -> float:
    return load_method("spo-self-supervised", arguments).objective(scores(*of)).loss_P.item()


def test_worked_numbers():
    assert value(1.0, -1.0, 0.5, 0.2, -0.1) == pytest.approx(0.680978, abs=1e-6)  # a margin of .2, the second of three
    assert value(0, 0, 0, 0, 0) == pytest.approx(0.803008, abs=1e-6)
    assert value(0, 0, 0, 0, 0, gamma=0.7) == pytest.approx(math.log(2) + 0.7 * math.log(3))


def test_gamma_0_is_dpo_without_a_builder():
    plain = load_method("spo-self-supervised", {"gamma": 0.0})
    assert str(plain.objective) == str(dpo()) and plain.builders == ()


def test_levels_are_roles():
    more = load_method("spo-self-supervised", {"levels": 4})
    assert more.needs.roles == {*ROLES, "wrong_degree_3"}
    assert more.builders == ("remove_key_content(levels=4, most=0.8)",)


def test_the_claim_trains_with_this_method():
    claim = load_claim("spo-self-supervised")
    trained = parse_objective(claim.options["arms"][claim.method]["objective"])
    assert str(trained) == str(load_method("spo-self-supervised", {"gamma": 0.5}).objective)
