"""The file of More is Less: its objective and its builders (card more-is-less)."""

from __future__ import annotations

import math

import pytest
import torch

from omnipref.objectives import dpo, parse_objective
from omnipref.registry import load_claim, load_method
from omnipref.scores import pair_scores


def test_worked_number_and_start():
    rho = torch.tensor([[2.0], [-3.0], [0.0], [0.0]])
    method = load_method("more-is-less")
    assert method.objective(pair_scores(*rho)).loss_P.item() == pytest.approx(0.474077, abs=1e-6)
    assert method.objective(pair_scores(*rho[2:], *rho[2:])).loss_P.item() == pytest.approx(math.log(2))


def test_builders_name_the_author_where_one_is_asked_for():
    assert load_method("more-is-less").builders == ("from_samples(n=5)", "best_worst_of_n")
    asked = load_method("more-is-less", {"samples": 3, "source": "self"}).builders
    assert asked == ("from_samples(n=3)", "best_worst_of_n(source='self')")


def test_the_claim_trains_with_this_objective():
    trained = parse_objective(load_claim("more-is-less").options["objective"])
    assert str(trained) == str(load_method("more-is-less").objective) == str(dpo(beta=0.1))
