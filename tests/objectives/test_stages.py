"""The stages of the kernel, each alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objectives.examples import pairs, scored

from omnipref.errors import NeedsError
from omnipref.objectives import (
    LINKS,
    batch_mean,
    debias,
    difference,
    log_likelihood,
    log_odds,
    log_ratio,
    logistic,
    mean,
    reduce_loss,
    running_mean,
    smooth,
    token_weighted,
    total,
)
from omnipref.scores import Scores, pair_scores

VALUE = torch.tensor([[-1.0, -2.0, torch.nan], [-4.0, torch.inf, torch.nan]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_reductions_ignore_what_the_mask_hides():
    assert total(VALUE, MASK).tolist() == [-3.0, -4.0]
    assert mean(VALUE, MASK).tolist() == [-1.5, -4.0]
    assert token_weighted(VALUE, MASK, torch.tensor([[1.0, 0.5, 7.0], [2.0, 7.0, 7.0]])).tolist() == [-2.0, -8.0]


def test_mean_without_units_is_zero():
    assert mean(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [0.0]


@pytest.mark.parametrize(("given_type", "expected"), [("bfloat16", "float32"), ("float64", "float64")])
def test_reductions_are_float32_or_wider(given_type: str, expected: str):
    value = torch.full((1, 1000), -0.1, dtype=getattr(torch, given_type))
    mask = torch.ones_like(value, dtype=torch.bool)
    for result in (total(value, mask), mean(value, mask), token_weighted(value, mask, torch.ones(1, 1000))):
        assert result.dtype == getattr(torch, expected)
    assert total(value, mask).item() == pytest.approx(1000 * value[0, 0].item(), rel=1e-5)


def test_token_weights_carry_no_gradient():
    value, weight = torch.ones(1, 2, requires_grad=True), torch.tensor([[1.0, 3.0]], requires_grad=True)
    token_weighted(value, torch.ones(1, 2, dtype=torch.bool), weight).sum().backward()
    assert value.grad is not None and value.grad.tolist() == [[1.0, 3.0]]
    assert weight.grad is None


def test_hidden_units_get_no_gradient():
    value = torch.tensor([[-1.0, torch.nan]], requires_grad=True)
    mean(value, torch.tensor([[True, False]])).sum().backward()
    assert value.grad is not None and value.grad.tolist() == [[1.0, 0.0]]


def test_log_ratio_reads_policy_minus_reference_and_differentiates_the_policy_only():
    logp = torch.tensor([[-1.0], [-2.0]], requires_grad=True)
    ref = torch.tensor([[-3.0], [-2.5]], requires_grad=True)
    scores = Scores(logp, torch.ones(2, 1, dtype=torch.bool), pair_scores(logp[:1], logp[1:]).cases, ref)
    rho = log_ratio(scores)
    assert rho.tolist() == [2.0, 0.5]
    assert log_likelihood(scores).tolist() == [-1.0, -2.0]
    difference(scores, rho, "chosen", "rejected").sum().backward()
    assert logp.grad is not None and logp.grad.tolist() == [[1.0], [-1.0]]
    assert ref.grad is None


def test_log_ratio_without_reference_is_refused():
    with pytest.raises(NeedsError, match="ref_logp"):
        log_ratio(pair_scores(torch.zeros(1), torch.zeros(1)))


@pytest.mark.parametrize("name", sorted(LINKS))
def test_links_fall_through_the_origin_and_have_exact_gradients(name: str):
    link = LINKS[name]
    at = torch.tensor([-0.3, 0.0, 0.4], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(link(at).sum(), at)
    assert (slope < 0).all()
    assert torch.autograd.gradcheck(link, at)


def test_links_at_one_half():
    at = torch.tensor(0.5, dtype=torch.float64)
    values = {name: LINKS[name](at).item() for name in LINKS}
    assert values == pytest.approx(
        {
            "logistic": math.log1p(math.exp(-0.5)),
            "hinge": 0.5,
            "square": 0.25,
            "exponential": math.exp(-0.5),
            "truncated_square": 0.25,
            "savage": 1 / (1 + math.exp(0.5)) ** 2,
        }
    )


def test_logistic_stays_finite_far_out():
    assert logistic(torch.tensor([-1e4, 1e4])).tolist() == [1e4, 0.0]


@given(st.floats(-20, 20), st.floats(0, 0.49))
def test_noise_stages(margin: float, rate: float):
    m = torch.tensor(margin, dtype=torch.float64)
    clean, flipped = logistic(m), logistic(-m)
    assert smooth(logistic, m, 0.0) == clean == debias(logistic, m, 0.0)
    # Mean of the debiased loss over labels flipped at this rate is the clean loss: the definition of unbiased.
    mean_over_flips = (1 - rate) * debias(logistic, m, rate) + rate * debias(logistic, -m, rate)
    torch.testing.assert_close(mean_over_flips, clean, atol=1e-9, rtol=1e-9)
    # Smoothing is the mean of the clean loss over flipped labels.
    torch.testing.assert_close(smooth(logistic, m, rate), (1 - rate) * clean + rate * flipped)


def test_smoothed_loss_is_least_at_the_log_odds_of_the_noise():
    m = torch.tensor(math.log(0.9 / 0.1), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(smooth(logistic, m, 0.1), m)
    assert abs(slope.item()) < 1e-12


@pytest.mark.parametrize("log_p", [-1e-3, -0.1, -0.5, -0.7, -2.0, -30.0, -1e-9])
def test_log_odds(log_p: float):
    p = torch.tensor(log_p, dtype=torch.float64)
    assert log_odds(p).item() == pytest.approx(log_p - math.log(-math.expm1(log_p)), rel=1e-12)


def test_log_odds_and_their_gradient_stay_finite_at_certainty():
    p = torch.tensor([0.0, -1e-12, -200.0], requires_grad=True)
    log_odds(p).sum().backward()
    assert log_odds(p).isfinite().all() and p.grad is not None and p.grad.isfinite().all()


def test_batch_mean_has_no_gradient_and_takes_nothing_for_zero():
    mean_of = batch_mean(torch.tensor([1.0, 2.0, 6.0], requires_grad=True))
    assert mean_of.item() == 3.0 and not mean_of.requires_grad
    assert batch_mean(torch.zeros(0)).item() == 0.0


def test_running_means():
    previous, count = torch.tensor(0.0), torch.tensor(0.0)
    for new in (4.0, 8.0, 3.0):
        previous, count = running_mean(previous, count, torch.tensor(new)), count + 1
    assert previous.item() == 5.0
    assert running_mean(torch.tensor(9.0), torch.tensor(0.0), torch.tensor(2.0), 0.5).item() == 2.0
    assert running_mean(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(4.0), 0.75).item() == 2.5


def test_reduced_loss_weighs_preferences_alike_in_any_batch():
    cases = scored(pairs(4)).cases
    loss_P = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    cases.columns["weight"][:] = torch.tensor([1.0, 0.0, 2.0, 1.0])  # type: ignore[index]
    whole = reduce_loss(loss_P, cases)
    assert whole.item() == (1 + 0 + 6 + 4) / 4
    whole.backward()
    assert loss_P.grad is not None and loss_P.grad.tolist() == [0.25, 0.0, 0.5, 0.25]
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        half = scored(pairs(2)).cases
        half.columns["weight"][:] = cases.columns["weight"][part]
        halves.append(reduce_loss(loss_P[part], half).item())
    assert sum(halves) / 2 == whole.item()


def test_reduced_loss_without_weights_is_the_mean():
    cases = pair_scores(torch.zeros(2), torch.zeros(2)).cases
    assert reduce_loss(torch.tensor([1.0, 4.0]), cases).item() == 2.5
