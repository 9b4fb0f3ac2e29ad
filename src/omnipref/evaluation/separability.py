"""Can chosen be told from rejected by a linear probe: what a loss may learn instead of what was meant."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omnipref.errors import DataError
from omnipref.evaluation.estimates import Array


def linear_separability(
    chosen: ArrayLike,
    rejected: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    *,
    folds: int = 5,
    strength: float = 1.0,
    seed: int = 0,
) -> float:
    """Held-out accuracy of a linear probe that tells chosen from rejected responses: 0.5 none, 1 all of them.

    Prompts are divided into folds; a logistic regression is fitted on all folds but one, on features standardised
    there, and measured on the other; the mean over folds. A pair's two responses are always on the same side.

    Of two ways to make pairs, prefer the one with the lower number at an acceptable gap of rewards. A probe on
    everything also finds what the pairs are about: give it features of the style alone. Newton's method takes a system
    of D equations per step: thousands of features take minutes.

    Args:
        chosen: `[P, D]` features of the chosen responses, such as mean hidden states.
        rejected: `[P, D]` of the rejected ones, pair by pair.
        prompts: the prompt of each pair; pairs of one prompt stay together. By default every pair has its own.
        folds: how many parts.
        strength: inverse of the L2 penalty, `C`; the constant is not penalised.
        seed: of the division.

    Raises:
        DataError: shapes that do not fit, a value that is not finite, or fewer prompts than folds.

    Example:
        >>> linear_separability([[1.0], [2.0], [1.0], [2.0], [3.0]], [[-1.0], [-2.0], [-1.0], [-2.0], [-3.0]])
        1.0

    Source: arXiv 2504.02193 (the notion; its recipe is not published).
    """
    both = [np.asarray(value, dtype=np.float64) for value in (chosen, rejected)]
    groups = list(range(len(both[0]))) if prompts is None else list(prompts)
    _check(both, groups, folds)
    names = list(dict.fromkeys(groups))
    fold_of = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % folds, strict=True))
    fold_P = np.array([fold_of[group] for group in groups])
    return float(np.mean([_held_out(both[0], both[1], fold_P == fold, strength) for fold in range(folds)]))


def _check(both: Sequence[Array], groups: Sequence[Hashable], folds: int) -> None:
    shapes = [value.shape for value in both]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or len(groups) != shapes[0][0]:
        found = f"features of shapes {shapes[0]} and {shapes[1]} and {len(groups)} prompts"
        raise DataError(found, "[P, D] twice and P prompts")
    if not all(np.isfinite(value).all() for value in both):
        raise DataError("NaN or infinity in the features", "finite values", cure="look at the model that gave them")
    if not 2 <= folds <= len(set(groups)):
        raise DataError(f"{len(set(groups))} prompts and {folds} folds", "2 folds or more, and a prompt for each")


def _held_out(chosen: Array, rejected: Array, out_P: NDArray[np.bool_], strength: float) -> float:
    inside = np.concatenate([chosen[~out_P], rejected[~out_P]])
    middle, spread = inside.mean(0), inside.std(0)
    spread[spread == 0] = 1.0
    sign = np.repeat([1.0, -1.0], [(~out_P).sum()] * 2)
    weight = _logistic_regression((inside - middle) / spread, sign, strength)
    margin = [_with_constant((value[out_P] - middle) / spread) @ weight for value in (chosen, rejected)]
    # A response that the probe leaves open counts half.
    right = np.concatenate([np.heaviside(margin[0], 0.5), np.heaviside(-margin[1], 0.5)])
    return float(right.mean())


def _with_constant(features: Array) -> Array:
    return np.concatenate([features, np.ones((len(features), 1))], 1)


def _logistic_regression(features: Array, sign: Array, strength: float, steps: int = 30) -> Array:
    """Least `Σ log(1 + e^{−yz}) + |w|²/2C` by Newton's method; the last weight is the constant's."""
    rows = _with_constant(features)
    # A hair's breadth of penalty on the constant keeps the system solvable when the classes come apart.
    penalty = np.append(np.full(features.shape[1], 1 / strength), 1e-9)
    weight = np.zeros(rows.shape[1])

    def value(at: Array) -> float:
        return float(np.logaddexp(0, -sign * (rows @ at)).sum() + (penalty * at * at).sum() / 2)

    for _ in range(steps):
        wrong = np.exp(-np.logaddexp(0, sign * (rows @ weight)))
        slope = penalty * weight - rows.T @ (sign * wrong)
        curve = (rows * (wrong * (1 - wrong))[:, None]).T @ rows + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        while value(weight - step) > value(weight) and np.abs(step).max() > 1e-10:
            step = step / 2
        weight = weight - step
        if np.abs(step).max() < 1e-10:
            break
    return weight
