"""RPO: both released forms, their gradients and limits (card rpo-overoptimization)."""

from __future__ import annotations

import math

import pytest
import torch
from objectives.examples import card_scores, pairs, ratio_scores, scored

from omnipref.objectives import dpo
from omnipref.registry import load_method
from omnipref.worlds.bandits.choices import Choices, score
from omnipref.worlds.bandits.policies import Tabular

PAIRS = scored(pairs(6), seed=4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"beta": 0.1, "eta": 0.005}, 0.604139),
        ({"beta": 0.1, "eta": 0.2, "form": "mean"}, 0.998139),
        ({"beta": 0.01, "eta": 1.0}, 0.803197),
    ],
)
def test_worked_numbers(arguments: dict[str, object], expected: float):
    objective = load_method("rpo-overoptimization", arguments).objective
    assert objective(card_scores()).loss_P.item() == pytest.approx(expected, rel=0, abs=5.1e-7)


@pytest.mark.parametrize("form", ["total", "mean"])
def test_a_weight_below_a_millionth_is_none(form: str):
    for eta, plain in ((0.0, True), (9e-7, True), (2e-6, False)):
        made = load_method("rpo-overoptimization", {"eta": eta, "form": form}).objective
        assert (str(made) == str(dpo(beta=0.01))) == plain


@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_imitation_pulls_the_chosen_case_alone(eta: float):
    scores = ratio_scores([1.0], [-1.0]).with_gradient()
    objective = load_method("rpo-overoptimization", {"beta": 0.1, "eta": eta}).objective
    (slope,) = torch.autograd.grad(objective(scores).loss_P.sum(), scores.logp)
    push = 0.1 / (1 + math.exp(0.2))
    assert slope.flatten().tolist() == pytest.approx([-push - eta * 0.1, push])


def test_it_starts_at_the_likelihood_of_the_chosen_response():
    start = PAIRS.with_reference(PAIRS.logp)
    likelihood_P = start.at("chosen", PAIRS.logp.sum(1))
    loss_P = load_method("rpo-overoptimization", {"beta": 0.1, "eta": 0.3}).objective(start).loss_P
    torch.testing.assert_close(loss_P, math.log(2) - 0.3 * 0.1 * likelihood_P)


def test_both_forms_agree_on_one_length():
    length, card = 6, card_scores()
    total = load_method("rpo-overoptimization", {"beta": 0.1, "eta": 0.3}).objective(card).loss_P
    per_token = {"beta": 0.1, "eta": 0.3 * 0.1 * length, "form": "mean"}
    torch.testing.assert_close(load_method("rpo-overoptimization", per_token).objective(card).loss_P, total)
    other = load_method("rpo-overoptimization", {**per_token, "anchor": "rejected"}).objective(card).loss_P
    assert (other - total).item() == pytest.approx(0.18 * (1.875 - 2.0))


def test_a_large_weight_asks_for_the_shares_of_the_chosen_responses():
    """At the shares of what was chosen imitation has no slope, so only DPO's part moves the policy."""
    reference_XA = torch.zeros(1, 3, dtype=torch.float64).log_softmax(1)
    choices = Choices(
        torch.zeros(10, dtype=torch.long),
        {"chosen": torch.tensor([0] * 5 + [1] * 3 + [2] * 2), "rejected": torch.tensor([1] * 5 + [2] * 3 + [0] * 2)},
    )
    policy = Tabular(reference_XA)
    with torch.no_grad():
        policy.logits_XA.copy_(torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log())
    slopes = []
    for eta in (0.0, 1000.0):
        objective = load_method("rpo-overoptimization", {"beta": 0.1, "eta": eta}).objective
        loss = objective(score(policy(), reference_XA, choices)).loss_P.mean()
        slopes.append(torch.autograd.grad(loss, policy.logits_XA)[0])
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-12, rtol=0)
    assert slopes[0].abs().max() > 1e-3
