"""The file of RankList: what its arguments become (card ranklist)."""

from __future__ import annotations

from omnipref.objectives import parse_objective, ranklist
from omnipref.registry import load_claim, load_method


def test_arguments_become_distances():
    assert str(load_method("ranklist").objective) == str(ranklist())
    assert str(load_method("ranklist", {"farthest": 1}).objective) == str(ranklist(skips=(1,)))
    made = load_method("ranklist", {"farthest": 2, "form": "exact", "margin": 0.3})
    assert made.needs.columns == {"score"} and made.needs.lists


def test_the_claim_trains_with_this_method():
    claim = load_claim("ranklist")
    trained = parse_objective(claim.options["arms"][claim.method]["objective"])
    assert str(trained) == str(load_method("ranklist").objective)
