"""A ranked list compared with itself a few places on: for scorers, whose value of a case is its log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from omnipref.errors import ConfigError
from omnipref.objectives.checks import check_choice, check_number
from omnipref.objectives.listwise import ranked_cases
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_likelihood
from omnipref.scores import Scores


def ranklist(
    *,
    skips: Sequence[int] = (1, 2, 3),
    form: str = "lse",
    margin: float = 0.0,
    weights: Sequence[float] = (),
    pooled: bool = False,
) -> Objective:
    """Skip-wise comparisons of a ranked list (RankList): each case with the ones `k` places below it.

    With `d_i = s_i − s_{i+k}`, best first: exact, `L_k = Σ_i log(1 + e^{−d_i})`; lse, `L_k = log(1 + Σ_i e^{−d_i})`.
    `L = Σ_k c_k L_k`, reward `s`, no reference.

    `s` is the log-likelihood of a case. A scorer's scores come as one unit per case, whatever their sign.

    Args:
        skips: the distances `k`; `(1,)` compares neighbours only.
        form: `exact`, the likelihood of all these comparisons; `lse`, its leading terms, which stay bounded and look at
            the worst violation.
        margin: `W ≥ 0`; pairs whose scores in the data (the column `score`) differ by less are left out. 0 reads none.
        weights: `c_k`, one per distance; empty for 1 each.
        pooled: all distances in one sum, `log(1 + Σ_k Σ_i e^{−d_{i,k}})`, instead of one sum for each distance.

    Raises:
        ConfigError: an argument is out of range, there are not as many weights as distances, or there are weights for
            distances that are pooled.

    Here: written from the abstract and figure captions; no code is published. Cases of the same rank are never
        compared. A mean over lists, a sum within a list.

    Identities: on pairs both forms are RankNet, `−log σ(s_w − s_l)`; lse ≤ exact; with equal scores
        `(K − k) log 2` and `log(1 + K − k)`; all distances and `exact` are RankNet on all pairs; adding a constant to
        all scores of a list changes nothing; pooling changes nothing in the exact form.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> ranklist()(pair_scores(torch.tensor([1.5]), torch.tensor([1.0]))).loss_P
        tensor([0.4741])

    Source: arXiv 2508.09826.
    """
    settings = dict(locals())
    for skip in skips:
        check_number(1, skips=skip)
    if not skips or any(skip != int(skip) for skip in skips):
        raise ConfigError(f"found skips={skips!r}; expected whole numbers of places, one or more")
    check_number(0, margin=margin)
    if weights and len(weights) != len(skips):
        raise ConfigError(f"found {len(weights)} weights and {len(skips)} skips; expected one weight per skip, or none")
    for value in weights:
        check_number(0, weights=value)
    if weights and pooled:
        raise ConfigError(
            f"found weights={weights!r} and pooled=True; expected weights of distances, or one sum of all"
        )
    violation, factors = check_choice("form", form, FORMS), tuple(weights) or (1.0,) * len(skips)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = log_likelihood(scores)
        listed = _listed(scores, reward_N)
        label_N = scores.cases.columns["score"] if margin else None
        parts = [_skipped(listed, skip, label_N, margin) for skip in skips]
        if pooled:
            return Outcome(violation(*(torch.cat(part, 1) for part in zip(*parts, strict=True))), reward_N)
        losses = [c * violation(*part) for c, part in zip(factors, parts, strict=True)]
        return Outcome(torch.stack(losses).sum(0), reward_N)

    columns = frozenset({"score"}) if margin else frozenset[str]()
    return single(ranklist, compute, Needs(lists=True, columns=columns), settings)


def progressive_skips(progress: float, most: int, ramp: float = 0.6) -> tuple[int, ...]:
    """The distances of `ranklist` that training has come to: neighbours at first, all of them from `ramp` on.

    `K_t = {1, …, 1 + ⌊min(1, t / (ramp T)) (k_max − 1)⌋}`.

    Args:
        progress: `t / T`, the share of training that is done.
        most: `k_max`, the longest distance in the end.
        ramp: the share of training over which distances are added.

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> [len(progressive_skips(progress, most=5)) for progress in (0.0, 0.3, 0.6, 1.0)]
        [1, 3, 5, 5]

    Source: arXiv 2508.09826; the ramp is ours.
    """
    check_number(0, 1, closed_high=True, progress=progress)
    check_number(1, most=most)
    check_number(0, 1, open_low=True, closed_high=True, ramp=ramp)
    return tuple(range(1, 2 + math.floor(min(1.0, progress / ramp) * (most - 1))))


@dataclass(frozen=True)
class _Listed:
    """Every list with its best case first, `[P, K]`: row of the case, its value and rank, and whether there is one."""

    index: Tensor
    value: Tensor
    rank: Tensor
    present: Tensor


def _listed(scores: Scores, value_N: Tensor) -> _Listed:
    index_PK, present_PK = ranked_cases(scores.cases)
    rank_PK = scores.cases.rank_N[index_PK]
    last = rank_PK.amax() + 1
    order_PK = torch.where(present_PK, rank_PK, last).argsort(dim=1, stable=True)
    index_PK, present_PK, rank_PK = (tensor.gather(1, order_PK) for tensor in (index_PK, present_PK, rank_PK))
    return _Listed(index_PK, value_N[index_PK], rank_PK, present_PK)


def _skipped(listed: _Listed, skip: int, label_N: Tensor | None, margin: float) -> tuple[Tensor, Tensor]:
    """`d`, `[P, K − k]`, and which of these comparisons count."""
    value_PK, rank_PK = listed.value, listed.rank
    counts_PD = listed.present[:, skip:] & (rank_PK[:, :-skip] < rank_PK[:, skip:])
    if label_N is not None:
        label_PK = label_N[listed.index]
        counts_PD = counts_PD & (label_PK[:, :-skip] - label_PK[:, skip:] >= margin)
    return value_PK[:, :-skip] - value_PK[:, skip:], counts_PD


def _exact(gap_PD: Tensor, counts_PD: Tensor) -> Tensor:
    return torch.where(counts_PD, F.softplus(-gap_PD), 0.0).sum(1)


def _leading(gap_PD: Tensor, counts_PD: Tensor) -> Tensor:
    # log(1 + x) as a log-sum-exp with a 0 in front, so that a large violation does not overflow.
    violation_PD = torch.where(counts_PD, -gap_PD, -torch.inf)
    return torch.cat([gap_PD.new_zeros(len(gap_PD), 1), violation_PD], 1).logsumexp(1)


FORMS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"exact": _exact, "lse": _leading}
"""What the argument `form` of `ranklist` may name: from gaps and which of them count to one loss per list."""
