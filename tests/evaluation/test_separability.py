"""The probe: nothing to find, everything to find, its invariances, and the fit itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from omnipref.errors import DataError
from omnipref.evaluation import linear_separability
from omnipref.evaluation.separability import _logistic_regression

PAIRS, WIDTH = 400, 6
DRAW = np.random.default_rng(0)
CHOSEN, REJECTED = DRAW.normal(size=(2, PAIRS, WIDTH))
SHIFTED = REJECTED + np.array([1.5, 0, 0, 0, 0, 0])


def test_equal_distributions_cannot_be_told_apart():
    """Within two standard errors of one half, over 800 held-out responses."""
    assert linear_separability(CHOSEN, REJECTED) == pytest.approx(0.5, abs=2 * 0.5 / np.sqrt(2 * PAIRS))


def test_disjoint_supports_are_told_apart_always():
    assert linear_separability(np.abs(CHOSEN) + 0.1, -np.abs(REJECTED) - 0.1) == 1.0


def test_a_shift_by_three_halves_is_found_as_well_as_it_can_be():
    """The best rule is right with probability Φ(0.75) = 0.773."""
    assert linear_separability(SHIFTED, CHOSEN) == pytest.approx(0.773, abs=0.03)


def test_exchanging_the_two_changes_nothing():
    assert linear_separability(SHIFTED, CHOSEN) == pytest.approx(linear_separability(CHOSEN, SHIFTED))


def test_constants_and_scales_do_not_matter():
    scale = np.array([1e-3, 1.0, 7.0, 200.0, 1e5, 0.5])
    moved = [value * scale + 12 * scale for value in (SHIFTED, CHOSEN)]
    assert linear_separability(*moved) == pytest.approx(linear_separability(SHIFTED, CHOSEN))
    padded = [np.concatenate([value, np.full((PAIRS, 1), 3.0)], 1) for value in (SHIFTED, CHOSEN)]
    assert linear_separability(*padded) == pytest.approx(linear_separability(SHIFTED, CHOSEN))


def test_a_prompt_is_never_on_both_sides():
    """Each prompt has a direction of its own that only its own pairs share: held out, nothing helps."""
    prompts = np.repeat(np.arange(40), 10)
    one_hot = np.eye(40)[prompts]
    sign = np.where(np.arange(40) % 2, 1.0, -1.0)[prompts][:, None]
    together = linear_separability(one_hot * sign, -one_hot * sign, prompts.tolist())
    apart = linear_separability(one_hot * sign, -one_hot * sign)
    assert together == pytest.approx(0.5, abs=0.05)
    assert apart == 1.0


def test_the_fit_is_the_least_of_its_loss():
    rows = np.concatenate([SHIFTED[:50], CHOSEN[:50] + 0.3])
    sign = np.repeat([1.0, -1.0], 50)

    def loss(weight: np.ndarray) -> float:
        return np.logaddexp(0, -sign * (rows @ weight[:-1] + weight[-1])).sum() + (weight[:-1] ** 2).sum() / (2 * 0.7)

    best = minimize(loss, np.zeros(WIDTH + 1), tol=1e-10).x
    np.testing.assert_allclose(_logistic_regression(rows, sign, 0.7), best, atol=1e-4)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompts", "message"),
    [
        ([[1.0]] * 5, [[1.0]] * 4, None, r"shapes \(5, 1\) and \(4, 1\)"),
        ([[1.0]] * 5, [[1.0]] * 5, [0, 1], "and 2 prompts"),
        ([1.0] * 5, [1.0] * 5, None, r"expected \[P, D\] twice"),
        ([[float("nan")]] * 5, [[1.0]] * 5, None, "NaN or infinity in the features"),
        ([[1.0]] * 5, [[2.0]] * 5, [0, 0, 1, 1, 2], "found 3 prompts and 5 folds"),
    ],
)
def test_refusals(chosen, rejected, prompts, message: str):
    with pytest.raises(DataError, match=message):
        linear_separability(chosen, rejected, prompts)
