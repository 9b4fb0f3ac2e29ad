"""Intervals: worked numbers, parity with a brute-force bootstrap, coverage, bad input."""

import math

import numpy as np
import pytest
from scipy import stats

from omnipref.errors import DataError
from omnipref.evaluation import Estimate, bootstrap, difference, mean_interval, ratio, ratio_interval, share_interval


def test_a_ratio_of_sums_is_not_a_mean_of_ratios():
    assert bootstrap([[1, 1], [0, 9]], ratio).value == pytest.approx(0.1)


def test_bootstrap_equals_the_same_resampling_by_brute_force():
    rng = np.random.default_rng(5)
    rows = np.stack([rng.integers(0, 4, 37), rng.integers(4, 9, 37)], 1).astype(float)
    counts = np.random.default_rng(11).multinomial(37, np.full(37, 1 / 37), 500)
    drawn = [np.repeat(rows, count, axis=0).sum(0) for count in counts]
    low, high = np.quantile([above / below for above, below in drawn], [0.025, 0.975])
    estimate = bootstrap(rows, ratio, n=500, seed=11)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-12)


def test_resampling_in_pieces_draws_as_many(monkeypatch):
    rows = np.random.default_rng(0).normal(size=50)
    whole = bootstrap(rows, n=1000)
    monkeypatch.setattr("omnipref.evaluation.estimates._CHUNK", 50 * 7)
    pieces = bootstrap(rows, n=1000)
    assert pieces.low == pytest.approx(whole.low, abs=1e-12)
    assert pieces.high == pytest.approx(whole.high, abs=1e-12)


def test_bootstrap_interval_of_a_ratio_covers_the_truth_about_95_percent_of_the_time():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        below = rng.integers(1, 6, 120)
        estimate = ratio_interval(rng.binomial(below, 0.2), below, n=400, seed=trial)
        hits += estimate.low <= 0.2 <= estimate.high
    assert 0.91 <= hits / 400 <= 0.98


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(1)
    common = rng.normal(0, 1, 200)
    first, second = common + rng.normal(0.1, 0.1, 200), common
    paired = bootstrap(np.stack([first, second], 1), lambda means: means[..., 0] - means[..., 1])
    apart = difference(bootstrap(first), bootstrap(second))
    assert paired.value == pytest.approx(apart.value)
    assert paired.high - paired.low < (apart.high - apart.low) / 4
    assert paired.separable_from(0) and not apart.separable_from(0)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (3, 10), (20, 20), (81, 263)])
def test_wilson_equals_scipy(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    estimate = share_interval(hits, n)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 31])
def test_students_interval_equals_scipy(n):
    values = np.random.default_rng(n).normal(3, 2, n)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    estimate = mean_interval(values.tolist())
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-9)


def test_no_hallucination_at_all_still_has_an_upper_bound():
    estimate = ratio_interval([0] * 50, [2] * 50)
    assert estimate.value == estimate.low == 0
    assert estimate.high == pytest.approx(share_interval(0, 100).high)
    assert estimate.n == 50


def test_nothing_over_nothing_is_zero():
    assert ratio_interval([0, 0], [0, 0]) == Estimate(0.0, 0.0, 0.0, 2)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[[1.0]]]])
def test_bad_values_are_refused(values):
    with pytest.raises(DataError):
        bootstrap(values)


def test_the_place_of_a_nan_is_named():
    with pytest.raises(DataError, match="record 2"):
        bootstrap([0.0, 1.0, math.nan])


def test_one_seed_has_no_interval():
    with pytest.raises(DataError, match="at least two seeds"):
        mean_interval([1.0])


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_shares_are_refused(hits, n):
    with pytest.raises(DataError):
        share_interval(hits, n)
