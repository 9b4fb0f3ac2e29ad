"""Weights of steps, by how much a step is like the same step of the best response of its list."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from omnipref.errors import NeedsError
from omnipref.objectives.checks import check_choice
from omnipref.scores import Scores


def step_weights(embedding_NUD: Tensor, scores: Scores, reduce: str = "total", *, centred: bool = False) -> Tensor:
    """`1 + cos(e_i^k, e_1^k)` at every unit of step k of case i, in [0, 2]: `[N, U]`, without gradient.

    `e` is the mean embedding over a step's units and `1` the best of the list, the first case of rank 0. Steps are
    aligned by number; what goes beyond the shortest case of a list is part of that case's last step. Cases outside the
    list, which other terms read, do not count.

    Args:
        embedding_NUD: of each unit, such as a hidden state of the last layer.
        scores: with the steps as `segment`, from 0.
        reduce: `total`, so that `Σ_u w_u v_u` is the weighted sum of steps; `mean`, so that it is the weighted mean of
            the steps' means per unit.
        centred: take the mean of all steps of a list from each of them. Last hidden states are alike everywhere, and
            what steps differ in shows only so; likeness to the mean step then counts for nothing.

    Raises:
        ConfigError: another `reduce`.
        NeedsError: the scores have no segments, or a preference has no case of rank 0.

    Here: the list form of the released code. The paper's weight is between the two cases of each pair, which is no
        weight of a case. Embeddings are centred within a list, and not over a batch, so that what is learned of a
        record does not depend on which others are beside it; with one list at a time, as released, both are the same.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = replace(pair_scores(*torch.zeros(2, 1, 2)), segment=torch.tensor([[0, 1], [0, 1]]))
        >>> step_weights(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]), scores)
        tensor([[2., 2.],
                [2., 1.]])

    Source: arXiv 2410.12854 and its released code.
    """
    scale = check_choice("reduce", reduce, _SCALES)
    step_NU = _aligned_steps(scores)
    member_NUK = F.one_hot(step_NU) * scores.mask[:, :, None]
    count_NK = member_NUK.sum(1)
    embedding_NUD = torch.where(scores.mask[:, :, None], embedding_NUD.detach(), 0.0)
    mean_NKD = torch.einsum("nuk,nud->nkd", member_NUK.to(embedding_NUD.dtype), embedding_NUD)
    mean_NKD = mean_NKD / count_NK.clamp(min=1)[:, :, None]
    if centred:
        mean_NKD = mean_NKD - _middle(mean_NKD, count_NK > 0, scores)
    weight_NK = 1 + F.cosine_similarity(mean_NKD, mean_NKD[_best(scores)], dim=2)
    return scale(weight_NK, count_NK).gather(1, step_NU) * scores.mask


def _middle(mean_NKD: Tensor, present_NK: Tensor, scores: Scores) -> Tensor:
    """The mean over all steps of each case's list: `[N, 1, D]`."""
    owner_N, count = scores.cases.preference_N, scores.cases.count
    present_NK = present_NK & (scores.cases.rank_N >= 0)[:, None]
    mean_NKD = torch.where(present_NK[:, :, None], mean_NKD, 0.0)
    total_PD = mean_NKD.new_zeros(count, mean_NKD.shape[2]).index_add(0, owner_N, mean_NKD.sum(1))
    steps_P = present_NK.new_zeros(count, dtype=mean_NKD.dtype).index_add(0, owner_N, present_NK.sum(1).to(mean_NKD))
    return (total_PD / steps_P.clamp(min=1)[:, None])[owner_N][:, None]


def _as_they_are(weight_NK: Tensor, count_NK: Tensor) -> Tensor:
    del count_NK
    return weight_NK


def _as_means(weight_NK: Tensor, count_NK: Tensor) -> Tensor:
    present_NK = torch.where(count_NK > 0, weight_NK, 0.0)
    return weight_NK / count_NK.clamp(min=1) / present_NK.sum(1, keepdim=True)


_SCALES = {"total": _as_they_are, "mean": _as_means}


def _aligned_steps(scores: Scores) -> Tensor:
    """The step of each unit, no later than the last step of its list's shortest case: `[N, U]`."""
    if scores.segment is None:
        raise NeedsError("found scores without segment; expected the step of each unit")
    step_NU, owner_N = torch.where(scores.mask, scores.segment, 0), scores.cases.preference_N
    last_N = step_NU.amax(1)
    furthest = last_N.amax()
    last_N = torch.where(scores.cases.rank_N >= 0, last_N, furthest)
    last_P = furthest.repeat(scores.cases.count).scatter_reduce(0, owner_N, last_N, "amin")
    return torch.minimum(step_NU, last_P[owner_N][:, None])


def _best(scores: Scores) -> Tensor:
    """The best case of each case's list, the first of rank 0: `[N]`."""
    cases = scores.cases
    rows, absent = len(cases.rank_N), cases.rank_N != 0
    first_N = torch.arange(rows, device=absent.device).masked_fill(absent, rows)
    best_P = first_N.new_full((cases.count,), rows).scatter_reduce(0, cases.preference_N, first_N, "amin")
    if bool((best_P == rows).any()):
        records = cases.record_P[best_P == rows].tolist()
        raise NeedsError(f"found records {records} without a case of rank 0; expected a best case in each list")
    return best_P[cases.preference_N]
