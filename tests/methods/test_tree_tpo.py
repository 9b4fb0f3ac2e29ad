"""The file of Tree-TPO: with and without step weights (card tree-tpo, arXiv 2410.12854)."""

from __future__ import annotations

import torch
from objectives.examples import lists, scored

from omnipref.objectives import lipo, parse_objective
from omnipref.registry import load_claim, load_method
from omnipref.scores import Scores


def weighted(factor: float) -> Scores:
    scores = scored(lists(4, 2, 3), seed=5)
    scores.extras["step_weight"] = torch.full_like(scores.logp, factor)  # type: ignore[index]: a dictionary
    return scores


def test_weights_of_one_change_nothing_and_of_two_are_twice_beta():
    plain, steps = (load_method("tree-tpo", {"step_weights": flag}) for flag in (False, True))
    assert not plain.needs.extras and steps.needs.extras == {"step_weight"}
    torch.testing.assert_close(steps.objective(weighted(1.0)).loss_P, plain.objective(weighted(1.0)).loss_P)
    twice = load_method("tree-tpo", {"beta": 1.0}).objective(weighted(2.0)).loss_P
    torch.testing.assert_close(steps.objective(weighted(2.0)).loss_P, twice)


def test_the_claim_trains_with_this_objective():
    arms = load_claim("tree-tpo").options["arms"]
    assert str(parse_objective(arms["tree"]["objective"])) == str(
        load_method("tree-tpo", {"step_weights": True}).objective
    )
    assert str(parse_objective(arms["plain_list"]["objective"])) == str(lipo(beta=0.5))
