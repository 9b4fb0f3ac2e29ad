"""Objectives over scored lists: which of K responses is the real one, by how good a column says that they are.

`ρ` is the log-ratio of a case to the reference; `q = softmax(r/α)` over a list's ranked cases, from the column `score`
as `r`, without gradient. Lists in one batch may differ in length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from omnipref.objectives.checks import check_number
from omnipref.objectives.links import logistic
from omnipref.objectives.listwise import ranked_cases
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_ratio
from omnipref.scores import Scores


def info_nca(*, beta: float = 0.01, alpha: float = 1e-4) -> Objective:
    """Information noise-contrastive alignment (InfoNCA): rewards must be distributed over a list as scores are.

    `L = −Σ_i q_i log softmax(βρ)_i`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        alpha: `α > 0`, in units of the scores. As small as released, `q` is all on the best case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper. The released code adds 0.01 to the first score, so that it wins ties; here ties
        share.

    Identities: `log K` where policy = reference; `dpo(beta)` on pairs as `α → 0`; adding a constant to all log-ratios
        of a list changes nothing.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([1.0, 0.0])}))
        >>> info_nca(beta=0.1)(scores).loss_P
        tensor([0.5981])

    Source: arXiv 2402.05369.
    """
    settings = dict(locals())

    def loss(reward_PK: Tensor, target_PK: Tensor, present_PK: Tensor) -> Tensor:
        likely_PK = torch.where(present_PK, reward_PK, -torch.inf).log_softmax(1)
        return -(target_PK * torch.where(present_PK, likely_PK, 0.0)).sum(1)

    return _contrastive(info_nca, settings, loss, beta, alpha)


def nca(*, beta: float = 0.01, alpha: float = 1e-4) -> Objective:
    """Noise-contrastive alignment (NCA) over lists: good cases must become likelier, all others less likely.

    `L = −Σ_i [q_i log σ(βρ_i) + (1/K) log σ(−βρ_i)]`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        alpha: `α > 0`, in units of the scores. As small as released, `q` is all on the best case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper. The released code adds 0.01 to the first score, so that it wins ties; here ties
        share.

    Identities: 2 log 2 where policy = reference, for any K; `nca_pair(beta)` on pairs as `α → 0`.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([1.0, 0.0])}))
        >>> nca(beta=0.1)(scores).loss_P
        tensor([1.3388])

    Source: arXiv 2402.05369.
    """
    settings = dict(locals())

    def loss(reward_PK: Tensor, target_PK: Tensor, present_PK: Tensor) -> Tensor:
        among_PK = present_PK / present_PK.sum(1, keepdim=True)
        return (target_PK * logistic(reward_PK) + among_PK * logistic(-reward_PK)).sum(1)

    return _contrastive(nca, settings, loss, beta, alpha)


def _contrastive(
    constructor: Callable[..., Objective],
    settings: Mapping[str, object],
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    beta: float,
    alpha: float,
) -> Objective:
    """`L = f(βρ, q)` over the ranked cases of each list, as `[P, K]` with their presence."""
    check_number(0, open_low=True, beta=beta, alpha=alpha)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N, score_N = beta * log_ratio(scores), scores.cases.columns["score"]
        index_PK, present_PK = ranked_cases(scores.cases)
        level_PK = torch.where(present_PK, score_N[index_PK].to(reward_N.dtype) / alpha, -torch.inf)
        return Outcome(loss(reward_N[index_PK], level_PK.softmax(1), present_PK), reward_N)

    return single(constructor, compute, Needs(reference=True, lists=True, columns=frozenset({"score"})), settings)
