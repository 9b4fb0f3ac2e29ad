"""The file of 3D-Properties: what its arguments leave and add (card 3d-properties)."""

from __future__ import annotations

import torch

from omnipref.objectives import dpo, flex_dpo, parse_objective, sft
from omnipref.registry import load_claim, load_method
from omnipref.scores import pair_scores


def test_fine_tuning_is_added_when_asked_for():
    assert str(load_method("3d-properties").objective) == str(flex_dpo())
    assert str(load_method("3d-properties", {"sft_weight": 0.05}).objective) == str(flex_dpo() + 0.05 * sft())


def test_equal_betas_are_dpo():
    scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
    method = load_method("3d-properties", {"beta_chosen": 0.2, "beta_rejected": 0.2})
    torch.testing.assert_close(method.objective(scores).loss_P, dpo(beta=0.2)(scores).loss_P)


def test_the_claim_trains_with_this_method():
    claim = load_claim("3d-properties")
    trained = parse_objective(claim.options["arms"][claim.method]["objective"])
    assert str(trained) == str(load_method("3d-properties").objective)
