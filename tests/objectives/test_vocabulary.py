"""Objectives over whole next-token distributions, on distributions that are written out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from objectives.examples import at_reference, card_scores, complete, pairs, scored
from torch import Tensor

from omnipref.errors import NeedsError
from omnipref.objectives import (
    Objective,
    difference,
    dpo,
    epsilon_dpo,
    ipo,
    log_ratio,
    logistic,
    mallows_dpo,
    mallows_ipo,
    tdpo1,
    tdpo2,
    wpo,
)
from omnipref.scores import Scores

EPSILON = 0.2
TOKENS = 7
PAIRS = scored(pairs(6), seed=5)
RANDOM = torch.Generator().manual_seed(0)
TARGET = torch.randint(0, TOKENS, PAIRS.mask.shape, generator=RANDOM)
LOGITS, REF_LOGITS = (torch.randn(*PAIRS.mask.shape, TOKENS, generator=RANDOM, dtype=torch.float64) for _ in range(2))


def told(logits: Tensor, ref_logits: Tensor = REF_LOGITS) -> Scores:
    """Scores of the pairs under these logits `[N, U, V]`, with every extra computed from its definition."""

    def at_target(value: Tensor) -> Tensor:
        return value.log_softmax(-1).gather(-1, TARGET[..., None])[..., 0] * PAIRS.mask

    p, q = logits.softmax(-1), ref_logits.softmax(-1)
    extras = {
        "kl_ref_policy": (q * (q.log() - p.log())).sum(-1),
        "square_sum": (p * p).sum(-1),
        "ref_entropy": -(q * q.log()).sum(-1),
        f"tilted@{EPSILON}": at_target((1 + EPSILON) * logits - EPSILON * ref_logits),
        f"tilted@{-EPSILON}": at_target((1 - EPSILON) * logits + EPSILON * ref_logits),
    }
    extras = {name: value * PAIRS.mask for name, value in extras.items()}
    return Scores(at_target(logits), PAIRS.mask, PAIRS.cases, at_target(ref_logits), extras=extras)


SCORES = told(LOGITS)


def at(value_N: Tensor) -> tuple[Tensor, Tensor]:
    return SCORES.at("chosen", value_N), SCORES.at("rejected", value_N)


def slope(objective: Callable[[Scores], Tensor], logits: Tensor = LOGITS) -> Tensor:
    """Gradient to the logits, through log-likelihoods and extras alike."""
    logits = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(told(logits)).sum(), logits)
    return found


def loss_of(objective: Objective) -> Callable[[Scores], Tensor]:
    return lambda scores: objective(scores).loss_P


# Card survey-dpo, property 5: K_w = 0.4, K_l = 0.9, H = 0.3; by hand where the card has no number.
SURVEY = [
    (tdpo1(), 0.620957),
    (tdpo2(), 0.609470),
    (mallows_dpo(), 0.658841),
    (mallows_ipo(), 18.504586),  # (2 phi - 5)^2 with phi = -0.29 log 0.3
    (wpo(beta=0.1), 0.598139),  # weights of 1: DPO
    (epsilon_dpo(beta=0.1), 0.598139),  # no step: DPO
]


@pytest.mark.parametrize(("objective", "expected"), SURVEY, ids=str)
def test_survey_fixture(objective: Objective, expected: float):
    assert objective(card_scores()).loss_P.item() == pytest.approx(expected, rel=1e-7, abs=5.1e-7)


def test_token_level_dpo_is_its_formula():
    drift_w, drift_l = at(SCORES.extras["kl_ref_policy"].sum(1))
    gap = difference(SCORES, log_ratio(SCORES), "chosen", "rejected")
    assert (drift_w - drift_l).abs().min() > 0.01
    torch.testing.assert_close(tdpo1(beta=0.3)(SCORES).loss_P, logistic(0.3 * (gap - (drift_l - drift_w))))
    expected = logistic(0.3 * (gap - 0.7 * (drift_l - drift_w)))
    torch.testing.assert_close(tdpo2(beta=0.3, alpha=0.7)(SCORES).loss_P, expected)
    torch.testing.assert_close(tdpo2(alpha=1.0)(SCORES).loss_P, tdpo1()(SCORES).loss_P)
    torch.testing.assert_close(tdpo2(alpha=0.0)(SCORES).loss_P, dpo()(SCORES).loss_P)


def test_first_form_differentiates_both_divergences():
    def loss(logits: Tensor) -> Tensor:
        return tdpo1()(told(logits)).loss_P

    assert torch.autograd.gradcheck(loss, LOGITS.clone().requires_grad_())


def test_second_form_differentiates_the_rejected_divergence_only():
    still = SCORES.extras["kl_ref_policy"].sum(1)

    def held(scores: Scores) -> Tensor:
        gap = difference(scores, log_ratio(scores), "chosen", "rejected")
        drift_l = scores.at("rejected", scores.extras["kl_ref_policy"].sum(1))
        return logistic(0.1 * (gap - 0.5 * (drift_l - scores.at("chosen", still))))

    torch.testing.assert_close(slope(loss_of(tdpo2())), slope(held))
    assert not torch.allclose(slope(loss_of(tdpo2(alpha=1.0))), slope(loss_of(tdpo1())))


def test_weights_are_constant_and_are_one_for_the_likeliest_of_even_choices():
    log_weight_N = (SCORES.logp - SCORES.extras["square_sum"].clamp(min=1e-30).log() * SCORES.mask).sum(1)
    weight_w, weight_l = at((log_weight_N / SCORES.mask.sum(1)).exp())
    weight = weight_w * weight_l
    torch.testing.assert_close(wpo(beta=0.3)(SCORES).loss_P, weight * dpo(beta=0.3)(SCORES).loss_P)
    held = slope(lambda scores: weight * dpo(beta=0.3)(scores).loss_P)
    torch.testing.assert_close(slope(loss_of(wpo(beta=0.3))), held)
    assert wpo()(SCORES).metrics["wpo/weight"].item() == pytest.approx(weight.mean().item())
    uniform = told(torch.zeros_like(LOGITS))
    torch.testing.assert_close(wpo()(uniform).loss_P, dpo(beta=0.01)(uniform).loss_P)


def test_agreement_scales_beta():
    vocabulary, scale = TOKENS, 0.4
    entropy_N = SCORES.extras["ref_entropy"].sum(1) / SCORES.mask.sum(1) / math.log(vocabulary)
    phi = -scale * (sum(at(entropy_N)) / 2).log()
    assert (phi > 0.01).all() and phi.std() > 0.01
    expected = torch.stack([dpo(beta=0.3 * f)(SCORES).loss_P[p] for p, f in enumerate(phi.tolist())])
    settings = {"beta": 0.3, "scale": scale, "vocabulary": vocabulary}
    torch.testing.assert_close(mallows_dpo(**settings)(SCORES).loss_P, expected)
    squares = [f**2 * ipo(beta=0.3 * f, reduce="total")(SCORES).loss_P[p] for p, f in enumerate(phi.tolist())]
    torch.testing.assert_close(mallows_ipo(**settings)(SCORES).loss_P, torch.stack(squares))


def test_a_reference_without_opinion_says_nothing():
    flat = told(LOGITS, torch.zeros_like(LOGITS))
    for vocabulary in (TOKENS, 3):  # a vocabulary stated too small must not turn the preference round
        logits = LOGITS.clone().requires_grad_()
        loss_P = mallows_dpo(vocabulary=vocabulary)(told(logits, torch.zeros_like(LOGITS))).loss_P
        torch.testing.assert_close(loss_P, torch.full_like(loss_P, math.log(2)))
        assert (torch.autograd.grad(loss_P.sum(), logits)[0].abs() < 1e-12).all()
    torch.testing.assert_close(mallows_ipo(vocabulary=TOKENS)(flat).loss_P, torch.full((6,), 25.0).double())


def steps() -> list[int]:
    """Which way each pair is moved, by comparing log-probabilities one by one."""
    apart = [
        at(value.sum(1))
        for value in (SCORES.extras[f"tilted@{EPSILON}"], SCORES.logp, SCORES.extras[f"tilted@{-EPSILON}"])
    ]
    up, now, down = ((better - worse).tolist() for better, worse in apart)
    return [(u > n > d) - (d > n > u) for u, n, d in zip(up, now, down, strict=True)]


def test_epsilon_dpo_moves_beta_pair_by_pair_and_for_good():
    objective = epsilon_dpo(beta=0.3, epsilon=EPSILON)
    outcome, which = objective(SCORES), steps()
    assert {1, -1} <= set(which)
    expected = [dpo(beta=0.3 / (1 + EPSILON * s))(SCORES).loss_P[p] for p, s in enumerate(which)]
    torch.testing.assert_close(outcome.loss_P, torch.stack(expected), rtol=1e-6, atol=1e-7)
    average = sum(which) / len(which)
    assert outcome.metrics["epsilon_dpo/step"].item() == pytest.approx(average)
    assert outcome.state["epsilon_dpo/beta"].item() == pytest.approx(0.3 / (1 + EPSILON * average))
    again = objective(SCORES, outcome.state)
    assert again.state["epsilon_dpo/beta"].item() == pytest.approx(0.3 / (1 + EPSILON * average) ** 2)
    assert again.metrics["epsilon_dpo/beta"].item() == pytest.approx(outcome.state["epsilon_dpo/beta"].item())


def test_epsilon_dpo_rewards_with_the_beta_of_the_pair():
    reward_N = epsilon_dpo(beta=0.3, epsilon=EPSILON)(SCORES).reward_N
    assert reward_N is not None
    beta_P = torch.tensor([0.3 / (1 + EPSILON * s) for s in steps()], dtype=torch.float64)
    torch.testing.assert_close(reward_N, beta_P[SCORES.cases.preference_N] * log_ratio(SCORES), rtol=1e-6, atol=1e-7)


def test_epsilon_dpo_holds_its_beta_constant():
    beta_P = torch.tensor([0.3 / (1 + EPSILON * s) for s in steps()], dtype=torch.float64)

    def held(scores: Scores) -> Tensor:
        return logistic(beta_P * difference(scores, log_ratio(scores), "chosen", "rejected"))

    found = slope(loss_of(epsilon_dpo(beta=0.3, epsilon=EPSILON)))
    torch.testing.assert_close(found, slope(held), rtol=1e-6, atol=1e-7)


def test_epsilon_dpo_without_epsilon_is_dpo():
    still = {"tilted@0.0": SCORES.logp, "tilted@-0.0": SCORES.logp}
    outcome = epsilon_dpo(beta=0.3, epsilon=0.0)(replace(SCORES, extras=still))
    torch.testing.assert_close(outcome.loss_P, dpo(beta=0.3)(SCORES).loss_P, rtol=1e-6, atol=1e-7)
    assert outcome.state["epsilon_dpo/beta"].item() == pytest.approx(0.3)


def test_names_of_extras_are_read_by_policies():
    assert epsilon_dpo(epsilon=0.01).needs.extras == {"tilted@0.01", "tilted@-0.01"}
    assert tdpo1().needs.extras == tdpo2().needs.extras == {"kl_ref_policy"}
    assert wpo().needs.extras == {"square_sum"}
    assert mallows_dpo().needs.extras == mallows_ipo().needs.extras == {"ref_entropy"}


@pytest.mark.parametrize("objective", [tdpo1(), wpo(), mallows_dpo(), epsilon_dpo()], ids=str)
def test_scores_without_the_extra_are_refused(objective: Objective):
    with pytest.raises(NeedsError, match="without extra"):
        objective(replace(scored(complete(pairs(2))), extras={}))


def test_weights_stay_where_policy_is_reference():
    same = at_reference(SCORES)
    ratio = wpo()(same).loss_P / math.log(2)
    torch.testing.assert_close(ratio, wpo()(SCORES).loss_P / dpo(beta=0.01)(SCORES).loss_P)
