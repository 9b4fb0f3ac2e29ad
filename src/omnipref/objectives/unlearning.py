"""Objectives on one case that must become unlikely, with a pull that ends by itself, unlike gradient ascent's."""

from __future__ import annotations

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_likelihood, log_ratio
from omnipref.objectives.reduce import mean
from omnipref.scores import Scores


def npo(role: str = "rejected", *, beta: float = 0.1) -> Objective:
    """Negative preference optimisation (NPO): DPO without its chosen half.

    `L = −(2/β) log σ(−βρ)`, no reward of its own, as for `anchor`.

    Args:
        role: the case to forget; `completion` for unpaired records.
        beta: `β > 0`, per nat; gradient ascent on `ρ` as it goes to 0.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper.

    Identities: `(2/β) log 2` where policy = reference, with slope 1 in `ρ`; `2/β` times the undesirable part of
        `bco(shift=False)`.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> npo()(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([12.8879])

    Source: arXiv 2404.05868.
    """
    settings = dict(locals())
    check_roles(role=role)
    check_number(0, open_low=True, beta=beta)

    def compute(scores: Scores, state: State) -> Outcome:
        return Outcome(2 / beta * logistic(-beta * scores.at(role, log_ratio(scores))))

    return single(npo, compute, Needs(frozenset({role}), reference=True), settings)


def simnpo(role: str = "rejected", *, beta: float = 2.5, gamma: float = 0.0) -> Objective:
    """Simple negative preference optimisation (SimNPO): NPO on mean log-likelihoods, without a reference.

    `L = −(2/β) log σ(−βs − γ)`, no reward of its own.

    Args:
        role: the case to forget; `completion` for unpaired records.
        beta: `β > 0`, per nat and unit.
        gamma: `γ ≥ 0`; more asks for less likely responses.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper.

    Identities: at `γ = 0`, `npo` per unit under a reference that is certain of the response.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> simnpo()(pair_scores(torch.tensor([-2.0]), torch.tensor([-1.875]))).loss_P
        tensor([0.0073])

    Source: arXiv 2410.07163.
    """
    settings = dict(locals())
    check_roles(role=role)
    check_number(0, open_low=True, beta=beta)
    check_number(0, gamma=gamma)

    def compute(scores: Scores, state: State) -> Outcome:
        return Outcome(2 / beta * logistic(-beta * scores.at(role, log_likelihood(scores, mean)) - gamma))

    return single(simnpo, compute, Needs(frozenset({role})), settings)
