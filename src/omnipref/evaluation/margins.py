"""How well rewards order pairs, and how much the picture matters to an answer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from omnipref.errors import DataError
from omnipref.evaluation.estimates import Array, Estimate, bootstrap, ratio, share_interval


def reward_accuracy(margins: ArrayLike, groups: Sequence[Hashable] | None = None) -> Estimate:
    """Share of pairs whose chosen response has the greater reward; a tie is wrong.

    Args:
        margins: `[N]`, reward of the chosen minus reward of the rejected response.
        groups: the prompt of each pair, where several pairs share one: then prompts are resampled.
            Otherwise the interval is Wilson's.

    Raises:
        DataError: empty, not finite, or lengths differ.

    Example:
        >>> reward_accuracy([0.3, -0.1, 0.2, 0.0]).value
        0.5
    """
    right = _finite(margins) > 0
    if groups is None:
        return share_interval(int(right.sum()), len(right))
    if len(groups) != len(right):
        raise DataError(f"{len(groups)} groups", f"one for each of {len(right)} margins")
    index = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    rows = np.zeros((len(index), 2))
    for group, hit in zip(groups, right, strict=True):
        rows[index[group]] += (hit, 1)
    return bootstrap(rows, ratio)


def pair_accuracy(first: ArrayLike, second: ArrayLike, human: ArrayLike) -> dict[str, float]:
    """Agreement of a judge's scores with human preferences, ties included (`tau`) or left out (`diff`).

    Args:
        first: `[N]` scores of the first responses.
        second: `[N]` scores of the second.
        human: `[N]`, +1 where people prefer the first, -1 the second, 0 neither.

    Returns:
        `tau`: share of equal signs, a tie being a third class; `diff`: the same without human ties, a predicted
        tie being wrong; 0 when all are ties.

    Raises:
        DataError: lengths differ or a human preference is not -1, 0 or 1.

    Example:
        >>> values = pair_accuracy([0.8, 0.2, 0.5, 0.1], [0.3, 0.2, 0.5, 0.9], [1, 1, 0, 1])
        >>> values["tau"], round(values["diff"], 6)
        (0.5, 0.333333)
    """
    one, two, people = _finite(first), _finite(second), _finite(human)
    if not len(one) == len(two) == len(people):
        raise DataError(f"{len(one)}, {len(two)} and {len(people)} values", "equally many")
    if not np.isin(people, (-1, 0, 1)).all():
        record = int(np.flatnonzero(~np.isin(people, (-1, 0, 1)))[0])
        raise DataError(f"{people[record]:g}", "-1, 0 or 1", record=record, field="human")
    agree = np.sign(one - two) == people
    decided = people != 0
    return {"tau": float(agree.mean()), "diff": float(agree[decided].mean()) if decided.any() else 0.0}


def image_sensitivity(logp_true: ArrayLike, logp_other: ArrayLike, *, n: int = 2000, seed: int = 0) -> Estimate:
    """mean[log p(y | true picture) - log p(y | other picture)], in nats: 0 for a model that does not look.

    Args:
        logp_true: `[N]` sums of token log-probabilities of the answers under their own picture.
        logp_other: `[N]` of the same answers under another (occluded, changed, random) picture.
        n: resamples.
        seed: of the resampling.

    Raises:
        DataError: lengths differ or a value is not finite.

    Example:
        >>> image_sensitivity([-1.0, -2.0], [-4.0, -3.0]).value
        2.0
    """
    true, other = _finite(logp_true), _finite(logp_other)
    if len(true) != len(other):
        raise DataError(f"{len(true)} and {len(other)} log-probabilities", "one of each per picture")
    return bootstrap(true - other, n=n, seed=seed)


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise DataError(f"values of shape {array.shape}", "one number per pair, at least one")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise DataError(f"{array[bad[0]]}", "a finite number", record=int(bad[0]))
    return array
