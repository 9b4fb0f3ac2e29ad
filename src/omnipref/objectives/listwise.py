"""Objectives over ranked lists of any length; a pair is a list of two."""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.objectives.checks import check_number
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_ratio
from omnipref.scores import Cases, Scores


def plackett_luce(*, beta: float = 0.1) -> Objective:
    """The likelihood of a whole ranking, best first, each choice among what is left.

    `L = −Σ_k log [e^{βρ_k} / (e^{βρ_k} + Σ_{j below k} e^{βρ_j})]`, reward `βρ`.

    Every ranked case of a preference takes part, and lists in one batch may differ in length. Ties: cases of the same
    rank are not compared with one another; each competes with the cases strictly below it. So a tie at the top of two
    over one is the sum of two pair losses. The loss is a sum over the list, not a mean.

    Args:
        beta: `β > 0`, per nat.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `dpo(beta)` on pairs; `log K!` for K cases without ties where policy = reference; adding a constant to
        all log-ratios of a list changes nothing.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> plackett_luce(beta=0.1)(scores).loss_P
        tensor([0.5981])

    Source: arXiv 2305.18290, appendix A.3.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_ratio(scores)
        return Outcome(plackett_luce_loss(reward_N, scores.cases), reward_N)

    return single(plackett_luce, compute, Needs(reference=True, lists=True), settings)


def plackett_luce_loss(value_N: Tensor, cases: Cases) -> Tensor:
    """The negative log-likelihood of each preference's ranking under the strengths `value_N`: `[N]` to `[P]`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> plackett_luce_loss(torch.zeros(2), pair_scores(torch.zeros(1), torch.zeros(1)).cases)
        tensor([0.6931])
    """
    listed = (cases.rank_N >= 0).nonzero().squeeze(1)
    value, rank, owner = value_N[listed], cases.rank_N[listed], cases.preference_N[listed]
    left = (owner[:, None] == owner) & (rank[:, None] < rank)
    left = left | torch.eye(len(listed), dtype=torch.bool, device=left.device)
    loss = torch.where(left, value, -torch.inf).logsumexp(1) - value
    return value.new_zeros(cases.count).index_add(0, owner, loss)
