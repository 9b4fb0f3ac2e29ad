"""The file of PRO: its switches and its claim's arms (card pro, arXiv 2306.17492)."""

from __future__ import annotations

import pytest
import torch
from objectives.examples import listed

from omnipref.objectives import parse_objective, pro
from omnipref.registry import load_claim, load_method

EXAMPLE = ([-0.9, -1.1, -1.0], [2.0, 1.0, -0.5])
"""Worked example A of the card: mean log-likelihoods per unit, and rewards."""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 4.167714),
        ({"weight": 0.0}, 2.367714),
        ({"weight": 0.0, "temperature": False}, 1.746340),
        ({"weight": 0.0, "first_only": True}, 1.596757),
        ({"sft_reduction": "mean"}, 2.547714),
    ],
)
def test_every_switch_reaches_the_objective(arguments: dict[str, object], expected: float):
    objective = load_method("pro", arguments).objective
    assert objective(listed(*EXAMPLE)).loss_P.item() == pytest.approx(expected, abs=1e-6)


def test_the_reference_is_never_called():
    method = load_method("pro")
    scores = listed(*EXAMPLE)
    assert scores.ref_logp is None and not method.needs.reference
    assert torch.isfinite(method.objective(scores).loss_P).all()


def test_the_claim_trains_with_this_objective():
    arms = load_claim("pro").options["arms"]
    assert str(parse_objective(arms["pro_5"]["objective"])) == str(load_method("pro").objective) == str(pro())
