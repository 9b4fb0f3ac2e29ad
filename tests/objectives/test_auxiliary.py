"""Reasons and questions: worked numbers of the cards rationales and spo-self-supervised, identities, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from objectives.examples import complete, pairs, scored

from omnipref.objectives import Objective, choice, dpo, log_odds, orpo, rationale, sft, soft_spo
from omnipref.scores import Cases, Scores

PAIRS = scored(complete(pairs(6)), seed=7)


def with_reason(chosen: float, rejected: float, reason: float) -> Scores:
    """One preference with these log-ratios of its pair, and this log-likelihood of its reason."""
    number = torch.tensor([0])
    rows = {"chosen": number, "rejected": number + 1, "rationale": number + 2}
    cases = Cases(number, rows, torch.zeros(3).long(), torch.tensor([0, 1, -1]), torch.tensor([1, -1, 0]))
    logp = torch.tensor([[chosen - 20], [rejected - 20], [reason]], dtype=torch.float64)
    return Scores(logp, torch.ones(3, 1, dtype=torch.bool), cases, torch.full((3, 1), -20.0, dtype=torch.float64))


# Card rationales, worked example: beta .1 times a margin of 3, and a reason of -45 nats.
@pytest.mark.parametrize(
    ("gamma", "nll", "logsigmoid"),
    [(0.001, 0.599355, 1.270256), (0.01, 1.004355, 1.497604), (0.1, 5.054355, 5.065403)],
)
def test_worked_numbers(gamma: float, nll: float, logsigmoid: float):
    scores = with_reason(1.0, -2.0, -45.0)
    for form, expected in (("nll", nll), ("logsigmoid", logsigmoid)):
        loss = (dpo(beta=0.1) + rationale(gamma=gamma, form=form))(scores).loss_P.item()
        assert loss == pytest.approx(expected, rel=0, abs=1.1e-6)


@pytest.mark.parametrize(("gamma", "weight"), [(0.001, 0.000511), (0.01, 0.006106), (0.1, 0.098901)])
def test_the_pull_of_the_codes_form(gamma: float, weight: float):
    scores = with_reason(1.0, -2.0, -45.0).with_gradient()
    (slope,) = torch.autograd.grad(rationale(gamma=gamma, form="logsigmoid")(scores).loss_P.sum(), scores.logp)
    assert slope[:, 0].tolist() == pytest.approx([0, 0, -weight], rel=0, abs=5.1e-7)


def test_the_authors_orpo_is_a_sum():
    """Card rationales: means -.8, -1 and -1.5, beta .1, gamma 1."""
    scores = with_reason(0.0, 0.0, -1.5)
    scores.logp[:2, 0] = torch.tensor([-0.8, -1.0])
    odds = log_odds(scores.logp[:2, 0])
    assert (odds[0] - odds[1]).item() == pytest.approx(0.337943, abs=5.1e-7)
    assert orpo(beta=0.1)(scores).loss_P.item() == pytest.approx(0.853838, abs=1e-6)
    total = orpo(beta=0.1) + rationale(gamma=1.0, reduce="mean")
    assert total(scores).loss_P.item() == pytest.approx(2.353838, abs=1e-6)


def loss(objective: Objective) -> torch.Tensor:
    return objective(PAIRS).loss_P


def test_identities_of_reasons():
    torch.testing.assert_close(loss(rationale("rejected", gamma=1.0, reduce="mean")), loss(sft("rejected")))
    torch.testing.assert_close(loss(rationale(gamma=0.3)), 3 * loss(rationale(gamma=0.1)))
    torch.testing.assert_close(loss(dpo() + rationale(gamma=0.0)), loss(dpo()))
    torch.testing.assert_close(loss(dpo() + rationale(gamma=0.0, form="logsigmoid")), loss(dpo()) + math.log(2))
    nll, code = loss(rationale(gamma=0.2)), loss(rationale(gamma=0.2, form="logsigmoid"))
    assert ((nll < code) & (code < nll + math.log(2))).all()


@pytest.mark.parametrize("form", ["nll", "logsigmoid"])
def test_reasons_and_pairs_learn_apart(form: str):
    scores = PAIRS.with_gradient()
    assert scores.ref_logp is not None
    (slope,) = torch.autograd.grad(rationale(form=form)(scores).loss_P.sum(), scores.logp)
    reason = scores.cases.rows["rationale"]
    assert (slope[reason].sum(1) < 0).all()
    assert (slope[torch.cat([scores.cases.rows["chosen"], scores.cases.rows["rejected"]])] == 0).all()
    assert not rationale(form=form).needs.reference


def answers(*values: float) -> Scores:
    """One question with these scores of its answers, the right one first."""
    number = torch.tensor([0])
    rows = {f"answer_{k}": number + k for k in range(len(values))}
    none = torch.full((len(values),), -1)
    cases = Cases(number, rows, torch.zeros(len(values)).long(), none, 0 * none)
    logp = torch.tensor(values, dtype=torch.float64)[:, None]
    return Scores(logp, torch.ones_like(logp, dtype=torch.bool), cases)


THREE = choice(right="answer_0", wrong=("answer_1", "answer_2"))


def test_the_right_one_of_three():
    """Card spo-self-supervised: logits .2, .5, -.1 of which the second is right; with DPO at a margin of .2."""
    found = THREE(answers(0.5, 0.2, -0.1)).loss_P.item()
    assert found == pytest.approx(0.828390, abs=1e-6)
    assert 0.598139 + 0.1 * found == pytest.approx(0.680978, abs=1e-6)
    assert THREE(answers(0.0, 0.0, 0.0)).loss_P.item() == pytest.approx(math.log(3))
    assert THREE(answers(8.5, 8.2, 7.9)).loss_P.item() == pytest.approx(found)


def test_answers_take_the_gradient_of_a_cross_entropy():
    scores = answers(0.5, 0.2, -0.1).with_gradient()
    (slope,) = torch.autograd.grad(THREE(scores).loss_P.sum(), scores.logp)
    chance = torch.tensor([0.5, 0.2, -0.1], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(slope[:, 0], chance - torch.tensor([1.0, 0, 0]))


def test_two_answers_are_bradley_and_terry():
    torch.testing.assert_close(loss(choice()), loss(soft_spo(alpha=1.0)))
