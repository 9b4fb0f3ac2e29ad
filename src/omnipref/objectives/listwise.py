"""Objectives over ranked lists of any length; a pair is a list of two.

`ρ` is the log-ratio of a case to the reference, `S` its log-likelihood, `s` the mean per unit. `i ≻ j` says that `i`
has a better rank. Every ranked case of a preference takes part, lists in one batch may differ in length, and losses are
sums over the list.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from omnipref.errors import ConfigError
from omnipref.objectives.checks import check_choice, check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_likelihood, log_ratio
from omnipref.objectives.reduce import Reduction, mean, token_weighted, total
from omnipref.objectives.steps import step_weights
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
    index_PK, present_PK = ranked_cases(cases)
    value_PK = torch.where(present_PK, value_N[index_PK], 0.0)
    own = torch.eye(index_PK.shape[1], dtype=torch.bool, device=value_N.device)
    left_PKK = preferred(cases, index_PK, present_PK) | own
    return (torch.where(left_PKK, value_PK[:, None, :], -torch.inf).logsumexp(2) - value_PK).sum(1)


def rrhf(*, weight: float = 1.0) -> Objective:
    """Rank responses to align human feedback (RRHF): better ones must be likelier per unit; the best is learnt too.

    `L = Σ_{i≻j} max(0, s_j − s_i) − λ S_best`, reward `s`, no reference. Where several cases are best, their mean.

    Args:
        weight: `λ ≥ 0`, of fine-tuning on the best case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper, with the whole log-likelihood of the best case. The released code takes a mean over
        units there, padding included, and by default weighs the ranking 100 times as much.

    Identities: `−λ S_best` where all means are equal or in the right order, without gradient to the other cases.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> rrhf()(pair_scores(torch.tensor([-2.0]), torch.tensor([-1.875]))).loss_P
        tensor([2.1250])

    Source: arXiv 2304.05302.
    """
    settings = dict(locals())
    check_number(0, weight=weight)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N, logp_N, cases = log_likelihood(scores, mean), log_likelihood(scores), scores.cases
        index_PK, present_PK = ranked_cases(cases)
        order_PKK, reward_PK = preferred(cases, index_PK, present_PK), reward_N[index_PK]
        violation_PKK = torch.relu(reward_PK[:, None, :] - reward_PK[:, :, None])
        best_PK = present_PK & (cases.rank_N[index_PK] == 0)
        best_P = torch.where(best_PK, logp_N[index_PK], 0.0).sum(1) / best_PK.sum(1)
        return Outcome(torch.where(order_PKK, violation_PKK, 0.0).sum((1, 2)) - weight * best_P, reward_N)

    return single(rrhf, compute, Needs(lists=True), settings)


def lipo(
    *, beta: float = 0.1, ranks: str = "policy", weights: str = "", embedding: str = "", centred: bool = False
) -> Objective:
    """Listwise preference optimisation with lambda weights (LiPO-λ): pairs count by what their exchange would cost.

    `L = Σ_{i≻j} |2^{ψ_i} − 2^{ψ_j}| · |1/log(1 + τ_i) − 1/log(1 + τ_j)| · (−log σ(β(ρ_i − ρ_j)))`, reward `βρ`, with
    the column `score` as `ψ` and places `τ = 1 … K`. The weights are those of the gain `Σ_i 2^{ψ_i}/log(1 + τ_i)`; they
    carry no gradient.

    Args:
        beta: `β > 0`, per nat.
        ranks: `policy` for `τ` by the rewards as they are now, as in the paper; `labels` for `τ` by the data's ranks.
        weights: name of an extra with a weight for each unit, which makes `ρ` a weighted sum; empty for none.
        embedding: name of an extra with an embedding of each unit, `hidden` for the policy's own states, of which such
            weights are made as `step_weights` says (Tree-TPO, arXiv 2410.12854); empty for none.
        centred: whether embeddings count from the mean of their list's steps.

    Raises:
        ConfigError: an argument is out of range, or there are weights in two ways, or nothing to centre.

    Here: our reading of the paper. Scores should lie in [0, 1], since they are exponents. Places that are equal, as all
        of them are where policy = reference, are told apart by the data's ranks, and shared where those are equal too.

    Identities: on pairs whose scores differ by 1 from 0, `dpo(beta)` times `1/log 2 − 1/log 3`; adding a constant to
        all log-ratios of a list changes nothing.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([1.0, 0.0])}))
        >>> lipo(beta=0.1)(scores).loss_P
        tensor([0.3185])

    Source: arXiv 2402.01878.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    place = check_choice("ranks", ranks, PLACES)
    for name, extra in {"weights": weights, "embedding": embedding}.items():
        if extra != "":
            check_roles(**{name: extra})
    if (weights and embedding) or (centred and not embedding):
        raise ConfigError(
            f"found {weights=}, {embedding=} and {centred=}; expected weights or an embedding, and one to be centred"
        )

    def reduction(scores: Scores) -> Reduction:
        if embedding:
            weight_NU = step_weights(scores.extras[embedding], scores, centred=centred)
            return partial(token_weighted, weight_NU=weight_NU)
        return partial(token_weighted, weight_NU=scores.extras[weights]) if weights else total

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N, cases = beta * log_ratio(scores, reduction(scores)), scores.cases
        index_PK, present_PK = ranked_cases(cases)
        reward_PK, rank_PK = reward_N[index_PK], cases.rank_N[index_PK]
        gain_PK = torch.exp2(cases.columns["score"][index_PK].to(reward_N.dtype))
        discount_PK = 1 / torch.log1p(place(reward_PK.detach(), rank_PK, present_PK))
        weight_PKK = _gaps(gain_PK).abs() * _gaps(discount_PK).abs()
        loss_PKK = torch.where(preferred(cases, index_PK, present_PK), weight_PKK * logistic(_gaps(reward_PK)), 0.0)
        return Outcome(loss_PKK.sum((1, 2)), reward_N)

    extras = frozenset({weights, embedding} - {""})
    needs = Needs(reference=True, lists=True, columns=frozenset({"score"}), extras=extras)
    return single(lipo, compute, needs, settings)


def ranked_cases(cases: Cases) -> tuple[Tensor, Tensor]:
    """The ranked cases of every preference, padded to the longest list, in no particular order.

    Returns:
        `index_PK`, the row of each case in N, 0 where there is none; `present_PK`, whether there is one.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> ranked_cases(pair_scores(torch.zeros(2), torch.zeros(2)).cases)[0]
        tensor([[0, 2],
                [1, 3]])
    """
    listed = (cases.rank_N >= 0).nonzero()[:, 0]
    owner, order = cases.preference_N[listed].sort(stable=True)
    count_P = owner.bincount(minlength=cases.count)
    number = torch.arange(len(owner), device=owner.device) - (count_P.cumsum(0) - count_P)[owner]
    width = int(count_P.max()) if cases.count else 0
    present_PK = torch.arange(width, device=owner.device) < count_P[:, None]
    return owner.new_zeros(cases.count, width).index_put((owner, number), listed[order]), present_PK


def preferred(cases: Cases, index_PK: Tensor, present_PK: Tensor) -> Tensor:
    """Whether case `i` of a list has a better rank than case `j`: `[P, K, K]` bool, `i` before `j`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> cases = pair_scores(torch.zeros(1), torch.zeros(1)).cases
        >>> preferred(cases, *ranked_cases(cases))
        tensor([[[False,  True],
                 [False, False]]])
    """
    rank_PK = cases.rank_N[index_PK]
    both_PKK = present_PK[:, :, None] & present_PK[:, None, :]
    return both_PKK & (rank_PK[:, :, None] < rank_PK[:, None, :])


def _gaps(value_PK: Tensor) -> Tensor:
    """`v_i − v_j`: `[P, K]` to `[P, K, K]`."""
    return value_PK[:, :, None] - value_PK[:, None, :]


def _places_by_policy(reward_PK: Tensor, rank_PK: Tensor, present_PK: Tensor) -> Tensor:
    gap_PKK, order_PKK = _gaps(reward_PK), _gaps(rank_PK)
    first = (gap_PKK < 0) | ((gap_PKK == 0) & (order_PKK > 0))
    shared = (gap_PKK == 0) & (order_PKK == 0)
    # A case shares its place with itself too, which the 1/2 makes up for.
    return ((first + 0.5 * shared) * present_PK[:, None, :]).sum(2) + 0.5


def _places_by_labels(reward_PK: Tensor, rank_PK: Tensor, present_PK: Tensor) -> Tensor:
    return _places_by_policy(torch.zeros_like(reward_PK), rank_PK, present_PK)


PLACES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "policy": _places_by_policy,
    "labels": _places_by_labels,
}
"""What the argument `ranks` of `lipo` may name: from rewards, ranks and presence to places from 1, all `[P, K]`."""
