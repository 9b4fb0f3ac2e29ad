"""Two strengths: worked numbers and gradients of the card 3d-properties, and the claims it makes about DPO."""

from __future__ import annotations

import math

import pytest
import torch
from objectives.examples import card_scores, pairs, ratio_scores, scored

from omnipref.objectives import Objective, dpo, flex_dpo, sft, soft_spo
from omnipref.scores import pair_scores

PAIRS = scored(pairs(6), seed=7)


# Card 3d-properties, property 6: log-ratios of 1 and -1; the chosen response has -12 nats in 6 tokens.
@pytest.mark.parametrize(
    ("objective", "expected"),
    [(flex_dpo(), 0.607192), (flex_dpo() + 0.05 * sft(), 0.707192), (flex_dpo(beta_rejected=0.1), 0.598139)],
    ids=str,
)
def test_worked_numbers(objective: Objective, expected: float):
    assert objective(card_scores()).loss_P.item() == pytest.approx(expected, rel=0, abs=5.1e-7)


def test_gradient_coefficients_of_the_card():
    scores = ratio_scores([1.0], [-1.0]).with_gradient()
    (slope,) = torch.autograd.grad(flex_dpo()(scores).loss_P.sum(), scores.logp)
    assert slope[:, 0].tolist() == pytest.approx([-0.045512, 0.036410], abs=5.1e-7)


@pytest.mark.parametrize("beta", [0.03, 0.5])
def test_equal_strengths_are_dpo(beta: float):
    flexible = flex_dpo(beta_chosen=beta, beta_rejected=beta)(PAIRS)
    plain = dpo(beta=beta)(PAIRS)
    torch.testing.assert_close(flexible.loss_P, plain.loss_P)
    torch.testing.assert_close(flexible.reward_N, plain.reward_N)


def test_without_a_push_the_rejected_case_takes_no_gradient():
    scores = PAIRS.with_gradient()
    (slope,) = torch.autograd.grad(flex_dpo(beta_rejected=0.0)(scores).loss_P.sum(), scores.logp)
    assert (slope[scores.cases.rows["rejected"]] == 0).all()
    assert (slope[scores.cases.rows["chosen"]].sum(1) < 0).all()


@pytest.mark.parametrize(("up", "down"), [(0.1, 0.08), (0.3, 0.0), (0.02, 0.7)])
def test_it_starts_at_log_2(up: float, down: float):
    start = PAIRS.with_reference(PAIRS.logp)
    loss_P = flex_dpo(beta_chosen=up, beta_rejected=down)(start).loss_P
    assert loss_P.tolist() == pytest.approx([math.log(2)] * 6)


@pytest.mark.parametrize("beta", [0.1, 0.7, 2.0])
def test_in_probabilities_the_rejected_response_is_pushed_harder(beta: float):
    """Card 3d-properties, property 2: the ratio of the two slopes is minus that of the probabilities."""
    chance = torch.tensor([[0.4, 0.2], [0.05, 0.3]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64).log()
    (slope,) = torch.autograd.grad(dpo(beta=beta)(pair_scores(*chance.log(), *reference)).loss_P.sum(), chance)
    torch.testing.assert_close(slope[1] / slope[0], -chance[0] / chance[1])


def test_a_reward_model_pushes_both_responses_alike():
    """Card 3d-properties, property 5: slopes of Bradley and Terry's loss on scores sum to 0 and never exceed 1."""
    score = torch.tensor([[2.0, -30.0, 0.3], [1.5, 40.0, 0.3]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(soft_spo(alpha=1.0)(pair_scores(*score)).loss_P.sum(), score)
    torch.testing.assert_close(slope[0], -torch.sigmoid(score[1] - score[0]))
    torch.testing.assert_close(slope.sum(0), torch.zeros(3, dtype=torch.float64))
    assert slope.abs().max() <= 1
