"""Ties between the two cases of a pair: two models of them, which objectives take them, and which refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import card_scores, pairs, ratio_scores, scored
from torch import Tensor

from omnipref.errors import NeedsError
from omnipref.objectives import Needs, Objective, anchor, constructors, davidson_dpo, dpo, kto, rao_kupper_dpo, sft
from omnipref.preferences import Comparison, Preference, pair
from omnipref.scores import Scores
from omnipref.training.data import check_needs, narrowed

BOTH = pytest.mark.parametrize("objective", [rao_kupper_dpo(), davidson_dpo()], ids=str)


def tie(preference: Preference) -> Preference:
    return replace(preference, comparisons=tuple(replace(c, tie=True) for c in preference.comparisons))


def some_tied(*which: int) -> Scores:
    return scored([tie(p) if p.record in which else p for p in pairs(6)], seed=7)


def as_ties(scores: Scores) -> Scores:
    return replace(scores, cases=replace(scores.cases, rank_N=torch.zeros_like(scores.cases.rank_N)))


@pytest.mark.parametrize(
    ("objective", "win", "drawn"),
    [
        # d = 0.2: log(1 + 3 e^-0.2); log(1 + 3 e^-0.2) + log(1 + 3 e^0.2) - log 8
        (rao_kupper_dpo(), 1.240167, 0.700644),
        # d = 0.2: log(1 + e^-0.2 + 2 e^-0.1); the same less log 2 - 0.1
        (davidson_dpo(), 1.288793, 0.695646),
        (rao_kupper_dpo(nu=1.5), 0.801147, 1.619024),
        (davidson_dpo(nu=0.5), 1.001943, 1.101943),
    ],
    ids=str,
)
def test_survey_fixture(objective: Objective, win: float, drawn: float):
    assert objective(card_scores()).loss_P.item() == pytest.approx(win, abs=5.1e-7)
    assert objective(as_ties(card_scores())).loss_P.item() == pytest.approx(drawn, abs=5.1e-7)


@BOTH
def test_win_loss_and_tie_are_all_that_can_happen(objective: Objective):
    for rho in (-7.0, -0.3, 0.0, 2.0, 30.0):
        won, lost = ratio_scores([rho], [0.0]), ratio_scores([0.0], [rho])
        chances = [math.exp(-objective(scores).loss_P.item()) for scores in (won, lost, as_ties(won))]
        assert sum(chances) == pytest.approx(1.0)


@BOTH
def test_which_case_of_a_tie_is_called_chosen_does_not_matter(objective: Objective):
    one, other = as_ties(ratio_scores([1.5], [-0.5])), as_ties(ratio_scores([-0.5], [1.5]))
    torch.testing.assert_close(objective(one).loss_P, objective(other).loss_P)


def test_where_policy_is_reference():
    scores = some_tied(1, 4)
    same = scores.with_reference(scores.logp)
    for nu in (1.5, 4.0):
        win, drawn = math.log(1 + nu), math.log((nu + 1) / (nu - 1))
        expected = [win, drawn, win, win, drawn, win]
        assert rao_kupper_dpo(nu=nu)(same).loss_P.tolist() == pytest.approx(expected)
        win, drawn = math.log(2 + 2 * nu), math.log((1 + nu) / nu)
        expected = [win, drawn, win, win, drawn, win]
        assert davidson_dpo(nu=nu)(same).loss_P.tolist() == pytest.approx(expected)


def test_wins_are_those_of_dpo_where_ties_are_impossible():
    scores = some_tied()
    for objective in (rao_kupper_dpo(nu=1 + 1e-12, beta=0.3), davidson_dpo(nu=1e-12, beta=0.3)):
        torch.testing.assert_close(objective(scores).loss_P, dpo(beta=0.3)(scores).loss_P)


@BOTH
def test_a_tie_draws_the_margin_to_zero(objective: Objective):
    for rho, sign in ((2.0, 1), (-2.0, -1), (0.0, 0)):
        scores = as_ties(ratio_scores([rho], [0.0]))
        logp = scores.logp.clone().requires_grad_()
        (slope,) = torch.autograd.grad(objective(replace(scores, logp=logp)).loss_P.sum(), logp)
        assert torch.sign(slope).flatten().tolist() == [sign, -sign]


@BOTH
def test_finite_differences(objective: Objective):
    scores = some_tied(0, 3, 4)

    def loss(logp: Tensor) -> Tensor:
        return objective(replace(scores, logp=logp)).loss_P

    assert torch.autograd.gradcheck(loss, scores.logp.clone().requires_grad_())


@BOTH
def test_share_of_ties_is_reported(objective: Objective):
    name = objective.terms[0].name
    assert objective(some_tied(1, 4)).metrics[f"{name}/ties"].item() == pytest.approx(1 / 3)


def test_cases_that_are_not_compared_are_no_tie():
    scores = scored([replace(p, comparisons=()) for p in pairs(2)])
    assert (scores.cases.rank_N == -1).all()
    assert rao_kupper_dpo()(scores).metrics["rao_kupper_dpo/ties"].item() == 0


def test_data_with_ties_are_for_objectives_that_know_them():
    record = tie(pair("a", "b", "c", record=4))
    for objective in (
        rao_kupper_dpo(),
        davidson_dpo(),
        davidson_dpo() + sft(),
        sft() + anchor("rejected") + davidson_dpo(),
    ):
        check_needs(objective.needs, record)
        assert narrowed(record, objective.needs).comparisons == record.comparisons
    for objective in (dpo(), davidson_dpo() + dpo(), dpo() + davidson_dpo(), sft() + dpo()):
        with pytest.raises(NeedsError, match=r"record 4: the objective prefers `chosen`, but the record says .* a tie"):
            check_needs(objective.needs, record)


def test_every_pair_objective_but_these_refuses_ties():
    record = tie(pair("a", "b", "c"))
    two = {name for name, make in constructors().items() if {"chosen", "rejected"} <= make().needs.roles}
    knowing = {name for name in two if make_needs(name).ties}
    assert knowing == {"rao_kupper_dpo", "davidson_dpo"}
    for name in two - knowing:
        with pytest.raises(NeedsError, match="it is a tie"):
            check_needs(make_needs(name), record)


def test_a_tie_labels_neither_case():
    record = tie(pair("a", "b", "c", record=4))
    with pytest.raises(NeedsError, match="record 4: the objective needs liked and disliked cases"):
        check_needs(kto(baseline="batch").needs, record)
    with pytest.raises(NeedsError, match=r"records \[4\] without a labelled case"):
        kto(baseline="batch")(scored([record]))


def make_needs(name: str) -> Needs:
    return constructors()[name]().needs


def test_a_tie_between_other_cases_is_nothing_to_a_pair():
    record = pair("a", "b", "c").with_case(
        "other", pair("a", "b", "c").cases["chosen"], Comparison("chosen", "other", tie=True)
    )
    check_needs(dpo().needs, record)
