"""Fine-tuning under divergences: the card's numbers, and what an offset of rewards does (card implicit-reward-sft)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objectives.examples import pairs, scored
from objectives.test_gradients import gradient

from omnipref.objectives import IMITATION, f_sft, sft
from omnipref.registry import load_claim, load_method
from omnipref.scores import Scores, pair_scores

HALF = pair_scores(*torch.tensor([[-1.0], [-2.0], [-1.5], [-2.0]], dtype=torch.float64))
"""A demonstration with a log-ratio of one half."""


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("total_variation", -0.5),
        ("chi_square", -0.4375),
        ("squared_hellinger", -0.333333),
        ("reverse_kl", 0.223130 * 2.718282),  # the card's, brought to slope 1 at 0
        ("jensen_shannon", -0.331797),
    ],
)
def test_worked_numbers(divergence: str, expected: float):
    loss = load_method("implicit-reward-sft", {"divergence": divergence}).objective(HALF).loss_P
    assert loss.item() == pytest.approx(expected, rel=0, abs=2e-6)


def lower(scores: Scores, by: float) -> Scores:
    """The same policy where rewards have an offset: `βρ + V`, as if the reference were that much lower."""
    assert scores.ref_logp is not None
    return replace(scores, ref_logp=scores.ref_logp - by * scores.mask.double())


@pytest.mark.parametrize("divergence", IMITATION)
def test_an_offset_of_rewards_matters_to_all_but_the_total_variation(divergence: str):
    start = scored(pairs(4), seed=2)
    start = start.with_reference(start.logp)
    here, there = (gradient(f_sft(divergence=divergence), lower(start, by)) for by in (0.1, 0.4))
    blind = torch.allclose(here, there)
    assert blind == (IMITATION[divergence](torch.tensor(0.5)) == 0.5)
    if blind:
        torch.testing.assert_close(here, gradient(sft(), start))


def test_the_pull_of_the_chi_square_ends_at_two_and_is_never_turned_round():
    for ratio, share in ((0.0, 1.0), (1.0, 0.5), (1.9, 0.05), (2.0, 0.0), (5.0, 0.0)):
        scores = lower(HALF.with_reference(HALF.logp), ratio)
        slope = gradient(load_method("implicit-reward-sft").objective, scores)[0]
        assert slope.item() == pytest.approx(-share, abs=1e-9)


def test_the_value_is_the_logarithm_of_the_partition():
    """The derivation's `V`: with `r = β log(π/π_0) + V`, a policy is best for `r` where `e^{V/β}` is its partition."""
    draw = torch.Generator().manual_seed(0)
    reward, logits = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    beta, first = 0.7, logits.log_softmax(0)
    value = beta * (first + reward / beta).logsumexp(0)
    best = (first + reward / beta).log_softmax(0)
    torch.testing.assert_close(beta * (best - first) + value, reward)
    torch.testing.assert_close((best.exp() * (reward - beta * (best - first))).sum(), value)


def test_the_claims_arms_are_divergences_of_this_method():
    arms = load_claim("implicit-reward-sft").options["arms"]
    for arm, divergence in (("chi_square", "chi_square"), ("hellinger", "squared_hellinger"), ("reverse_kl",) * 2):
        assert arms[arm]["objective"] == str(load_method("implicit-reward-sft", {"divergence": divergence}).objective)
        assert arms[arm]["rate"] == arms["plain"]["rate"] == 10 * arms["small_rate"]["rate"]
