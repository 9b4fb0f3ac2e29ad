"""Which units of a case count: choices that depend on the two cases of a pair, as masks `[N, U]`.

They read masks and record numbers only, never likelihoods, so policy and reference are reduced over the same units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.scores import Scores


def place(mask_NU: Tensor) -> Tensor:
    """Number of each unit among those that count, from 1: `[N, U]`.

    Example:
        >>> place(torch.tensor([[False, True, False, True]]))
        tensor([[0, 1, 1, 2]])
    """
    return mask_NU.cumsum(1)


def shared_length(scores: Scores, chosen: str, rejected: str) -> Tensor:
    """`min(n_w, n_l)` at the two cases of each preference; other cases keep their own number of units: `[N]`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> three, two = torch.tensor([[True, True, True]]), torch.tensor([[True, True, False]])
        >>> scores = pair_scores(*torch.zeros(4, 1, 3), three, two)
        >>> shared_length(scores, "chosen", "rejected")
        tensor([2, 2])
    """
    length_N = scores.mask.sum(1)
    first, second = (scores.cases.rows[role] for role in (chosen, rejected))
    shorter_P = torch.minimum(length_N[first], length_N[second])
    return length_N.index_copy(0, torch.cat([first, second]), torch.cat([shorter_P, shorter_P]))


def head_units(mask_NU: Tensor, count_N: Tensor) -> Tensor:
    """The first `count_N` units of each case that count: `[N, U]` bool.

    Example:
        >>> head_units(torch.tensor([[False, True, True, True]]), torch.tensor([2]))
        tensor([[False,  True,  True, False]])
    """
    return mask_NU & (place(mask_NU) <= count_N[:, None])


def drawn_units(mask_NU: Tensor, count_N: Tensor, record_N: Tensor, step: Tensor) -> Tensor:
    """`count_N` units of each case, drawn uniformly and without replacement: `[N, U]` bool.

    The draw is a function of the record's number, the step and a unit's place alone: the same on every device, in every
    batch and after resuming; padding does not change it.

    Args:
        mask_NU: units that count.
        count_N: how many to keep; all of a case that has no more.
        record_N: number of each case's record.
        step: integer scalar; another step is another draw.

    Example:
        >>> mask = torch.ones(1, 5, dtype=torch.bool)
        >>> drawn_units(mask, torch.tensor([3]), torch.tensor([7]), torch.tensor(0)).sum()
        tensor(3)
    """
    key_N = _scrambled(_scrambled(record_N) + step)
    key_NU = _scrambled(key_N[:, None] + place(mask_NU)).masked_fill(~mask_NU, torch.iinfo(torch.int64).max)
    rank_NU = key_NU.argsort(1).argsort(1)
    return mask_NU & (rank_NU < count_N[:, None])


def uniform(number: Tensor, step: Tensor) -> Tensor:
    """A random-looking number in (0, 1) for each, float32: a function of the number and the step alone.

    Args:
        number: integers, such as those of records.
        step: integer scalar; another step is another draw.

    Example:
        >>> draws = uniform(torch.arange(1000), torch.tensor(0))
        >>> bool(draws.min() > 0), bool(draws.max() < 1), round(draws.mean().item(), 1)
        (True, True, 0.5)
    """
    bits = _shifted(_scrambled(_scrambled(number) + step), 41)
    return (bits.float() + 0.5) * 2**-23


def _scrambled(number: Tensor) -> Tensor:
    """A random-looking 64-bit number for each, one to one (the finisher of SplitMix64, wrapping around)."""
    number = number.long() - 0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        number = (number ^ _shifted(number, shift)) * factor
    return number ^ _shifted(number, 31)


def _shifted(number: Tensor, bits: int) -> Tensor:
    """The shift to the right that fills with zeros, not with the sign."""
    return (number >> bits) & ((1 << (64 - bits)) - 1)
