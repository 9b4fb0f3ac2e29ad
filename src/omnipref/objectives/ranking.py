"""Objectives over ranked lists in which every contrast has a temperature of its own, read off two scores.

`s` is the mean log-likelihood per unit under the policy, `r` the column `score`, and `i ≻ j` says that `i` has a better
rank. Lists in one batch may differ in length; ties of rank are not compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.objectives.checks import check_choice, check_column, check_number
from omnipref.objectives.listwise import preferred, ranked_cases
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_likelihood
from omnipref.objectives.reduce import REDUCTIONS, mean
from omnipref.scores import Cases, Scores


def pro(
    *, weight: float = 0.05, temperature: bool = True, first_only: bool = False, reduce: str = "total"
) -> Objective:
    """Preference ranking optimisation (PRO): each response against all worse ones, by how much worse they are.

    `L = Σ_i [log(e^{a_i s_i} + Σ_{j: i≻j} e^{a_ij s_j}) − a_i s_i] + w (K − 1)² (−S)`, reward `s`, with
    `a_ij = r_i − r_j`, `a_i = max_j a_ij`, K ranked cases and `S` the log-likelihood of the best one.

    Args:
        weight: `w ≥ 0`, of fine-tuning on the best response.
        temperature: whether gaps of the column `score` are the inverse temperatures; otherwise all of them are 1.
        first_only: only the best response against all others, the first term of the sum.
        reduce: `total` for `S` as the sum over units, as in the released code; `mean` per unit, like `s`.

    Raises:
        ConfigError: an argument is out of range.
        NeedsError: a response has a higher score than one of better rank; names the records.

    Here: the released code computes the same, with 1e-10 inside the logarithm. Of responses that share a rank neither
        is compared with the other, and the best ones share the fine-tuning; equal scores at different ranks add the
        code's constant, without a gradient. A gap is in units of the score: scores ten times as large are a loss ten
        times as sharp, so bring them to a spread near 1.

    Identities: `−log σ((r_w − r_l)(s_w − s_l))` on pairs without fine-tuning; without temperatures and fine-tuning
        the likelihood of the ranking under `s` (`plackett_luce_loss`), which a constant on all `s` does not change.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(torch.tensor([-0.9]), torch.tensor([-1.1]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([2.0, 1.0])}))
        >>> pro(weight=0.0)(scores).loss_P, pro()(scores).loss_P
        (tensor([0.5981]), tensor([0.6431]))

    Source: arXiv 2306.17492 and its released code.
    """
    settings = dict(locals())
    check_number(0, weight=weight)
    reduction = check_choice("reduce", reduce, REDUCTIONS)

    def compute(scores: Scores, state: State) -> Outcome:
        cases, strength_N = scores.cases, log_likelihood(scores, mean)
        index_PK, present_PK = ranked_cases(cases)
        below_PKK = preferred(cases, index_PK, present_PK)
        scale_PKK = _gaps(cases, index_PK, below_PKK) if temperature else below_PKK
        best_PK = present_PK & (cases.rank_N[index_PK] == 0)
        choice_PK = _choices(strength_N[index_PK], scale_PKK.to(strength_N.dtype), below_PKK)
        chain_P = torch.where(best_PK if first_only else present_PK, choice_PK, 0.0).sum(1)
        likelihood_N = log_likelihood(scores, reduction)
        fitted_P = torch.where(best_PK, likelihood_N[index_PK], 0.0).sum(1) / best_PK.sum(1)
        return Outcome(chain_P - weight * (present_PK.sum(1) - 1) ** 2 * fitted_P, strength_N)

    needs = Needs(lists=True, columns=frozenset({"score"} if temperature else ()))
    return single(pro, compute, needs, settings)


def _gaps(cases: Cases, index_PK: Tensor, below_PKK: Tensor) -> Tensor:
    """`r_i − r_j` where `j` is below `i`, else 0: `[P, K, K]`."""
    score_PK = cases.columns["score"][index_PK]
    gap_PKK = torch.where(below_PKK, score_PK[:, :, None] - score_PK[:, None, :], 0.0)
    check_column(cases, "score", (gap_PKK >= 0).flatten(1).all(1), "scores that do not rise from rank to rank")
    return gap_PKK


def _choices(value_PK: Tensor, scale_PKK: Tensor, below_PKK: Tensor) -> Tensor:
    """`log(e^{a_i v_i} + Σ_j e^{a_ij v_j}) − a_i v_i` over the cases below `i`: `[P, K]`, 0 where there is none."""
    own_PK = scale_PKK.amax(2) * value_PK
    other_PKK = torch.where(below_PKK, scale_PKK * value_PK[:, None, :], -torch.inf)
    return torch.cat([own_PK[:, :, None], other_PKK], 2).logsumexp(2) - own_PK
