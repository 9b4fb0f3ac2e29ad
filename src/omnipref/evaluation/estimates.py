"""A number with its interval: bootstrap over items, Wilson for shares, Student t over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from omnipref.errors import DataError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""A function of the columns' means over items: `[..., C]` to `[...]`."""

_CHUNK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A value and its interval.

    Args:
        value: the statistic on the data.
        low: lower end of the interval.
        high: upper end.
        n: number of independent items (pictures, pairs, seeds) behind it.

    Example:
        >>> Estimate(0.4, 0.3, 0.5, 100).separable_from(0.25)
        True
    """

    value: float
    low: float
    high: float
    n: int = 0

    def separable_from(self, number: float) -> bool:
        """Whether the interval leaves out this number."""
        return not self.low <= number <= self.high


def mean(means: Array) -> Array:
    """The statistic "mean" of one column."""
    return means[..., 0]


def ratio(means: Array) -> Array:
    """The statistic "sum of column 0 over sum of column 1"; 0 where both are 0."""
    return divide(means[..., 0], means[..., 1])


def divide(above: Array, below: Array) -> Array:
    """`above / below`, and 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) != 0)


def bootstrap(
    values: ArrayLike, statistic: Statistic = mean, *, n: int = 2000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Percentile bootstrap over items.

    Every item (picture, prompt) is drawn with all its columns, so a ratio of sums such as CHAIR_i, and the
    difference of two models on the same pictures, get honest intervals.

    Args:
        values: `[N]` or `[N, C]`, one row per independent item.
        statistic: function of the column means, `[..., C]` to `[...]`.
        n: resamples.
        seed: of the resampling; the same seed and number of items draw the same items.
        level: of the interval.

    Raises:
        DataError: no items, or a value that is not finite.

    Example:
        >>> bootstrap([[1, 2], [0, 3]], ratio).value
        0.2

    Source: Efron 1979; percentile interval.
    """
    rows = _rows(values)
    point = float(statistic(rows.mean(0)))
    drawn = statistic(_resampled_means(rows, n, seed))
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(point, float(low), float(high), len(rows))


def _rows(values: ArrayLike) -> Array:
    rows = np.asarray(values, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not len(rows):
        raise DataError(f"values of shape {rows.shape}", "[N] or [N, C] with at least one item")
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(bad):
        raise DataError(
            "NaN or infinity", "finite values", record=int(bad[0]), cure="find out why this item has no score"
        )
    return rows


def _resampled_means(rows: Array, n: int, seed: int) -> Array:
    """`[n, C]`: means of `n` resamples, drawn in pieces that stay small in memory."""
    rng, count = np.random.default_rng(seed), len(rows)
    size = max(1, _CHUNK // count)
    shares = np.full(count, 1 / count)
    pieces = [rng.multinomial(count, shares, min(size, n - start)) @ rows for start in range(0, n, size)]
    return np.concatenate(pieces) / count


def share_interval(hits: float, n: int, *, level: float = 0.95) -> Estimate:
    """A share `hits / n` of independent items with Wilson's interval, which stays honest at 0 and 1.

    Raises:
        DataError: `n` is not positive or `hits` is outside 0 ... n.

    Example:
        >>> estimate = share_interval(0, 100)
        >>> estimate.value, round(estimate.high, 3)
        (0.0, 0.037)

    Source: Wilson 1927, equation for the score interval.
    """
    if n <= 0 or not 0 <= hits <= n:
        raise DataError(f"{hits} hits of {n}", "0 to n hits of at least one item")
    z = _normal_quantile(0.5 + level / 2)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), n)


def ratio_interval(above: ArrayLike, below: ArrayLike, *, n: int = 2000, seed: int = 0) -> Estimate:
    """`sum(above) / sum(below)`, a share, resampled by item.

    A ratio of exactly 0 or 1 has no spread to resample; it gets Wilson's interval over the sum of `below` instead of a
    width of zero.

    Args:
        above: `[N]` counts, each at most its `below`.
        below: `[N]` counts.
    """
    rows = np.stack([np.asarray(above, np.float64), np.asarray(below, np.float64)], 1)
    hits, total = rows.sum(0)
    if total and hits in (0, total):
        wilson = share_interval(hits, int(total))
        return Estimate(wilson.value, wilson.low, wilson.high, len(rows))
    return bootstrap(rows, ratio, n=n, seed=seed)


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """The mean over seeds with Student's t interval.

    Raises:
        DataError: fewer than two values: one seed has no interval.

    Example:
        >>> estimate = mean_interval([1.0, 2.0, 3.0])
        >>> estimate.value, round(estimate.high, 4)
        (2.0, 4.4841)
    """
    if len(values) < 2:
        raise DataError(f"{len(values)} value", "at least two seeds", cure="run more seeds")
    rows = _rows(values)[:, 0]
    half = _student_quantile(0.5 + level / 2, len(rows) - 1) * rows.std(ddof=1) / math.sqrt(len(rows))
    middle = float(rows.mean())
    return Estimate(middle, middle - float(half), middle + float(half), len(rows))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """`first - second` for independent estimates, from their intervals alone.

    Where both were measured on the same items, a `bootstrap` of the paired columns is narrower.

    Example:
        >>> difference(Estimate(0.5, 0.2, 0.8), Estimate(0.1, -0.3, 0.5))
        Estimate(value=0.4, low=-0.09999999999999998, high=0.9, n=0)

    Source: Zou and Donner 2008 (square-and-add, MOVER).
    """
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, min(first.n, second.n))


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def _student_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t, by bisection on its distribution function (no scipy at run time)."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0, by the finite trigonometric sums for whole degrees of freedom.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * step / (step + 1)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + within / 2
