"""Objectives over one case of each preference, to add to others: they hold the likelihood itself in place."""

from __future__ import annotations

import torch

from omnipref.objectives.checks import check_choice, check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_likelihood, log_ratio
from omnipref.objectives.reduce import REDUCTIONS
from omnipref.scores import Scores


def sft(role: str = "chosen", *, reduce: str = "mean") -> Objective:
    """Fine-tuning on one case: its negative log-likelihood per unit.

    `L = −log π_θ(y|x) / n` with n units, or without the n; no reward.

    Args:
        role: the case to fit; `completion` for unpaired records.
        reduce: `mean` per unit; `total` of the response, so that long ones weigh more.

    Raises:
        ConfigError: the role is not a name, or there is no such reduction.

    Here: the mean over each response's own units, as the papers write it. TRL averages over all tokens of the
        micro-batch, so that long responses weigh more; both agree where lengths are equal.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> sft()(pair_scores(torch.tensor([[-1.0, -3.0]]), torch.zeros(1, 2))).loss_P
        tensor([2.])

    Source: as an anchor of preference losses: arXiv 2404.19733; in mixed preference optimisation: 2411.10442.
    """
    settings = dict(locals())
    check_roles(role=role)
    reduction = check_choice("reduce", reduce, REDUCTIONS)

    def compute(scores: Scores, state: State) -> Outcome:
        return Outcome(-scores.at(role, log_likelihood(scores, reduction)))

    return single(sft, compute, Needs(frozenset({role})), settings)


def dft(role: str = "chosen", *, reduce: str = "mean") -> Objective:
    """Dynamic fine-tuning (DFT): fine-tuning in which each unit weighs its own probability.

    `L = −(1/n) Σ_t sg[π_t] log π_t`, or without the n; no reward. `sg` carries no gradient. What the model finds
    impossible is left alone, where `sft` would give it the largest gradient.

    Args:
        role: the case to fit; `completion` for unpaired records.
        reduce: `mean` per unit; `total` of the response, so that long ones weigh more.

    Raises:
        ConfigError: the role is not a name, or there is no such reduction.

    Here: the mean over each response's own units, as in `sft`. TRL averages over all tokens of the batch.

    Identities: the gradient of `−(1/n) Σ_t π_t`; `sft` where every unit is certain.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> dft()(pair_scores(torch.tensor([[-1.0, -3.0]]), torch.zeros(1, 2))).loss_P
        tensor([0.2586])

    Source: arXiv 2508.05629; TRL's `SFTTrainer`, `dft`.
    """
    settings = dict(locals())
    check_roles(role=role)
    reduction = check_choice("reduce", reduce, REDUCTIONS)

    def compute(scores: Scores, state: State) -> Outcome:
        weight_NU = torch.where(scores.mask, scores.logp.detach(), 0.0).exp()
        return Outcome(-scores.at(role, reduction(weight_NU * scores.logp, scores.mask)))

    return single(dft, compute, Needs(frozenset({role})), settings)


def anchor(role: str = "chosen", *, beta: float = 0.1, shift: float = 0.0) -> Objective:
    """Anchored preference: one case must become likelier than under the reference.

    `L = −log σ(βρ − δ)`, no reward of its own (it would count the case's log-ratio twice).

    Args:
        role: the case that is held.
        beta: `β > 0`, per nat.
        shift: `δ`, the reward that is asked for.

    Raises:
        ConfigError: an argument is out of range.

    Identities: log 2 where policy = reference and `δ = 0`; `bco(shift=False)`'s desirable part.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> anchor("chosen")(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.6444])

    Source: arXiv 2406.11839 (mDPO).
    """
    settings = dict(locals())
    check_roles(role=role)
    check_number(0, open_low=True, beta=beta)
    check_number(shift=shift)

    def compute(scores: Scores, state: State) -> Outcome:
        return Outcome(logistic(beta * scores.at(role, log_ratio(scores)) - shift))

    return single(anchor, compute, Needs(frozenset({role}), reference=True), settings)
