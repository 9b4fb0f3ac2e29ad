"""PRO: the numbers of card `pro`, plain loops, where gradients go, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from objectives.examples import listed, lists, pairs, scored

from omnipref.errors import NeedsError
from omnipref.objectives import log_likelihood, mean, plackett_luce_loss, pro, simpo

DIGITS = {"rel": 0, "abs": 6e-7}


EXAMPLE = ([-0.9, -1.1, -1.0], [2.0, 1.0, -0.5])


def test_worked_example_a():
    scores = listed(*EXAMPLE)
    loss = pro(weight=0.0)(scores).loss_P
    assert loss.item() == pytest.approx(2.367714, **DIGITS)
    assert pro(first_only=True, weight=0.0)(scores).loss_P.item() == pytest.approx(1.596757, **DIGITS)
    last = listed(EXAMPLE[0][1:], EXAMPLE[1][1:])
    for temperature, expected in ((True, 0.770957), (False, 0.744397)):
        assert pro(weight=0.0, temperature=temperature)(last).loss_P.item() == pytest.approx(expected, **DIGITS)
    assert pro()(scores).loss_P.item() == pytest.approx(4.167714, **DIGITS)  # + 0.05 * 2^2 * 9
    assert pro(reduce="mean")(scores).loss_P.item() == pytest.approx(2.367714 + 0.18, **DIGITS)
    (slope,) = torch.autograd.grad(loss.sum(), scores.logp)
    assert slope.sum(1).tolist() == pytest.approx([-1.993619, -0.166445, 1.200515], **DIGITS)


def test_worked_example_b():
    scores = listed(*EXAMPLE)
    assert pro(temperature=False, weight=0.0)(scores).loss_P.item() == pytest.approx(1.746340, **DIGITS)
    assert pro(temperature=False, weight=0.0, first_only=True)(scores).loss_P.item() == pytest.approx(
        1.001943, **DIGITS
    )
    for gap, expected in ((1.0, 0.598139), (2.5, 0.474077)):
        two = listed(EXAMPLE[0][:2], [gap, 0.0])
        assert pro(weight=0.0)(two).loss_P.item() == pytest.approx(expected, **DIGITS)


def by_hand(strength: Sequence[float], reward: Sequence[float]) -> float:
    """The card's sum over ranks, written out."""
    loss = 0.0
    for k in range(len(strength) - 1):
        gaps = [reward[k] - reward[i] for i in range(k + 1, len(reward))]
        own = math.exp(max(gaps) * strength[k])
        others = sum(math.exp(gap * s) for gap, s in zip(gaps, strength[k + 1 :], strict=True))
        loss += math.log(own + others) - math.log(own)
    return loss


def test_lists_of_different_lengths_are_their_sums():
    records = [
        replace(p, columns={f"score/{role}": 3 / (1 + k + 0.3 * p.record) for k, role in enumerate(p.roles)})
        for p in lists(4, 2, 3)
    ]
    scores = scored(records, seed=9)
    strength, reward = log_likelihood(scores, mean).tolist(), scores.cases.columns["score"].tolist()
    best, length = scores.logp.sum(1)[[0, 4, 6]], torch.tensor([4, 2, 3])
    chains = [by_hand(strength[a:b], reward[a:b]) for a, b in ((0, 4), (4, 6), (6, 9))]
    assert pro(weight=0.0)(scores).loss_P.tolist() == pytest.approx(chains, rel=1e-6)
    expected = torch.tensor(chains) - 0.3 * (length - 1) ** 2 * best
    torch.testing.assert_close(pro(weight=0.3)(scores).loss_P, expected.double(), rtol=1e-6, atol=1e-6)


def test_without_temperatures_it_is_the_likelihood_of_the_ranking():
    scores = scored(lists(4, 2, 3), seed=3)
    plain = pro(temperature=False, weight=0.0)
    assert not plain.needs.columns and not plain.needs.reference
    strength_N = log_likelihood(scores, mean)
    torch.testing.assert_close(plain(scores).loss_P, plackett_luce_loss(strength_N, scores.cases))
    higher = replace(scores, logp=(scores.logp + 0.7) * scores.mask)
    torch.testing.assert_close(plain(higher).loss_P, plain(scores).loss_P)
    with_scores = replace(EXAMPLE_SCORES, logp=EXAMPLE_SCORES.logp + 0.7)
    assert not torch.allclose(pro(weight=0.0)(with_scores).loss_P, pro(weight=0.0)(EXAMPLE_SCORES).loss_P)


EXAMPLE_SCORES = listed(*EXAMPLE)


def test_on_pairs_it_is_simpo_without_a_margin():
    scores = scored(pairs(4), seed=2)
    scores = replace(scores, cases=replace(scores.cases, columns={"score": 2.5 * (scores.cases.label_N > 0).double()}))
    torch.testing.assert_close(pro(weight=0.0)(scores).loss_P, simpo(beta=2.5, gamma=0.0)(scores).loss_P)


def test_a_gap_is_a_temperature_and_the_last_is_only_pushed_down():
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        strength = (-2 * torch.rand(4, generator=draw)).tolist()
        reward = (3 * torch.rand(4, generator=draw)).sort(descending=True).values.tolist()
        scores = listed(strength, reward)
        (slope,) = torch.autograd.grad(pro(weight=0.0)(scores).loss_P.sum(), scores.logp)
        assert (slope[-1] > 0).all() and (slope[0] < 0).all()


def test_equal_scores_at_different_ranks_add_a_constant():
    """The tie with rank 1 gives e^0 = 1; where all that is left ties, log(1 + number left)."""
    scores = listed([-0.9, -1.1, -1.0], [2.0, 2.0, -0.5])
    terms = math.log(math.exp(-2.25) + 1 + math.exp(-2.5)) + 2.25, math.log1p(math.exp(-2.5 + 2.75))
    assert pro(weight=0.0)(scores).loss_P.item() == pytest.approx(sum(terms))
    flat = listed([-0.9, -1.1, -1.0], [1.0, 1.0, 1.0])
    loss = pro(weight=0.0)(flat).loss_P
    assert loss.item() == pytest.approx(math.log(3) + math.log(2))
    (slope,) = torch.autograd.grad(loss.sum(), flat.logp)
    assert (slope == 0).all()


def test_scores_that_rise_are_refused_with_their_record():
    with pytest.raises(NeedsError, match=r"column score in records \[7\].*do not rise from rank to rank"):
        pro()(listed([-1.0, -1.0, -1.0], [1.0, 2.0, 0.0], record=7))
    assert pro(temperature=False)(listed([-1.0, -1.0], [1.0, 2.0])).loss_P.isfinite()


def test_a_list_of_one_is_refused_and_no_reference_is_asked_for():
    with pytest.raises(NeedsError, match=r"records \[3\] without two cases of different rank"):
        pro()(listed([-1.0], [1.0], record=3))
    assert pro().needs.columns == {"score"} and not pro().needs.reference
    with pytest.raises(NeedsError, match="column score"):
        pro()(replace(scored(lists(3)), cases=replace(scored(lists(3)).cases, columns={})))


def test_far_strengths_stay_finite():
    far = listed([-900.0, -1.0, -2000.0], [40.0, 10.0, -30.0])
    loss = pro()(far).loss_P
    (slope,) = torch.autograd.grad(loss.sum(), far.logp)
    assert loss.isfinite().all() and slope.isfinite().all()
