"""VPO: numbers, both signs, and the identity that turns a value into a likelihood (card vpo)."""

from __future__ import annotations

import pytest
import torch
from objectives.examples import card_scores, complete, pairs, scored

from omnipref.objectives import dpo, parse_objective
from omnipref.registry import load_claim, load_method
from omnipref.worlds.bandits.choices import Choices, score
from omnipref.worlds.bandits.policies import Tabular

PAIRS = scored(complete(pairs(6)), seed=4)
ONE_UNIT = scored(
    complete(pairs(6)), seed=5, units=1
)  # as in the world of the claim, where `sft` is of whole responses
ONLINE = {"online": True, "calibration": ("reference_sample",)}


def test_worked_numbers():
    """With log-ratios in place of log-likelihoods: the reference's part of the term is a constant."""
    card = card_scores()
    offline = load_method("vpo", {"beta": 0.1, "alpha": 0.5, "calibration": ("chosen",)}).objective
    constant = 0.5 * 0.1 * -13
    assert offline(card).loss_P.item() + constant == pytest.approx(0.548139, rel=0, abs=5.1e-7)
    online = load_method("vpo", {"beta": 0.1, "alpha": 0.5, "online": True, "calibration": ("rejected",)}).objective
    # The rejected response has log-ratio -1 and log-likelihood -15; the card's sample has -.7.
    moved = online(card).loss_P.item() - 0.5 * 0.1 * -15 + 0.5 * 0.1 * -0.7
    assert moved == pytest.approx(0.563139, rel=0, abs=5.1e-7)


@pytest.mark.parametrize("online", [False, True])
def test_without_a_weight_it_is_dpo(online: bool):
    made = load_method("vpo", {"alpha": 0.0, "online": online, "calibration": ("chosen",)}).objective
    torch.testing.assert_close(made(PAIRS).loss_P, dpo(beta=0.1)(PAIRS).loss_P)


def test_offline_on_chosen_responses_it_is_rpo():
    own = load_method("vpo", {"beta": 0.2, "alpha": 0.7, "calibration": ("chosen",)}).objective(PAIRS).loss_P
    rpo = load_method("rpo-overoptimization", {"beta": 0.2, "eta": 0.7}).objective(PAIRS).loss_P
    torch.testing.assert_close(own, rpo)


def test_the_sign_of_each_side():
    for arguments, role, sign in (({}, "chosen", -1), (ONLINE, "reference_sample", 1)):
        scores = PAIRS.with_gradient()
        loss = load_method("vpo", {"alpha": 0.6, **arguments}).objective(scores).loss_P.sum()
        plain = dpo(beta=0.1)(scores).loss_P.sum()
        (slope,) = torch.autograd.grad(loss - plain, scores.logp)
        share = 0.5 if role == "chosen" else 1.0
        rows = scores.cases.rows[role]
        torch.testing.assert_close(slope[rows], sign * 0.6 * 0.1 * share * scores.mask[rows].double())


def test_each_side_names_its_responses_and_their_builder():
    offline, online = load_method("vpo"), load_method("vpo", {"online": True})
    assert offline.needs.roles == {"chosen", "rejected"} and not offline.builders
    assert online.needs.roles == {"chosen", "rejected", "reference_sample_0"}
    assert online.builders == ("own_samples(n=1, role='reference_sample')",)
    assert not load_method("vpo", ONLINE).builders


def random_world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, reference and calibration distribution of 3 prompts with 5 actions."""
    draw = torch.Generator().manual_seed(0)
    reward_XA = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    reference_XA, calibration_XA = (
        torch.randn(3, 5, generator=draw, dtype=torch.float64).log_softmax(1) for _ in range(2)
    )
    return reward_XA, reference_XA, calibration_XA


def value(reward_XA: torch.Tensor, reference_XA: torch.Tensor, beta: float) -> torch.Tensor:
    """`max_π E[r − β log(π/π_ref)]`, at the policy that is best."""
    best_XA = (reference_XA + reward_XA / beta).log_softmax(1)
    return (best_XA.exp() * (reward_XA - beta * (best_XA - reference_XA))).sum(1)


@pytest.mark.parametrize("beta", [0.1, 1.7])
def test_the_value_of_a_calibrated_reward_is_a_likelihood(beta: float):
    reward_XA, reference_XA, calibration_XA = random_world()
    reward_XA = reward_XA - (calibration_XA.exp() * reward_XA).sum(1, keepdim=True)
    best_XA = (reference_XA + reward_XA / beta).log_softmax(1)
    likelihood_X = (calibration_XA.exp() * (best_XA - reference_XA)).sum(1)
    torch.testing.assert_close(value(reward_XA, reference_XA, beta), -beta * likelihood_X, rtol=1e-10, atol=1e-10)
    partition_X = beta * (reference_XA + reward_XA / beta).logsumexp(1)
    torch.testing.assert_close(partition_X, -beta * likelihood_X, rtol=1e-10, atol=1e-10)


def test_without_calibration_a_constant_of_the_reward_is_not_decided():
    """It adds to the value, and pairs do not see it."""
    reward_XA, reference_XA, _ = random_world()
    shift = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(reward_XA + shift, reference_XA, 0.5).sum(), shift)
    torch.testing.assert_close(slope, torch.ones(3, 1, dtype=torch.float64))
    assert ((reward_XA + shift)[:, 0] - (reward_XA + shift)[:, 1]).tolist() == pytest.approx(
        (reward_XA[:, 0] - reward_XA[:, 1]).tolist()
    )


def test_calibrated_on_the_reference_it_is_a_forward_divergence():
    """In expectation over samples of the reference, in gradient: `αβ ∇ KL(π_ref ‖ π)`."""
    _, reference_XA, other_XA = random_world()
    policy = Tabular(other_XA)
    number = torch.arange(15)
    same = {role: number % 5 for role in ("chosen", "rejected", "reference_sample")}
    choices = Choices(number // 5, same)
    terms = load_method("vpo", {"alpha": 0.8, "calibration": ("reference_sample",)}).objective
    loss_P = terms(score(policy(), reference_XA, choices)).loss_P
    found = torch.autograd.grad((reference_XA.exp().flatten() * loss_P).sum(), policy.logits_XA)[0]
    divergence = (reference_XA.exp() * (reference_XA - policy())).sum()
    expected = torch.autograd.grad(0.8 * 0.1 * divergence, policy.logits_XA)[0]
    torch.testing.assert_close(found, expected)


def test_the_claims_arms_are_this_method():
    arms = load_claim("vpo").options["arms"]
    own = {
        "pessimism": {"alpha": 1.0},
        "weak": {"alpha": 0.1},
        "chosen": {"alpha": 1.0, "calibration": ("chosen",)},
        "optimism": {"alpha": 0.1, "online": True, "calibration": ("chosen", "rejected")},
        "reference_calibrated": {"alpha": 1.0, "calibration": ("reference_sample",)},
    }
    for arm, arguments in own.items():
        made, trained = load_method("vpo", arguments).objective, parse_objective(arms[arm]["objective"])
        torch.testing.assert_close(made(ONE_UNIT).loss_P, trained(ONE_UNIT).loss_P)
