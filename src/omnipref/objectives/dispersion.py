"""Objectives that weigh a pair by how much opinions differ on its prompt, read off the reference's entropy.

`ρ` is the log-ratio of a case to the reference, `Δ = ρ_w − ρ_l`, and V is the size of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic, square
from omnipref.objectives.objective import Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_ratio
from omnipref.objectives.reduce import mean
from omnipref.objectives.vocabulary import distribution_needs
from omnipref.scores import Scores


def mallows_dpo(
    *,
    beta: float = 0.1,
    scale: float = 0.29,
    vocabulary: int = 32_000,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """DPO under Mallows' model of rankings (MallowsPO-θ): prompts on which opinions agree count more.

    `L = −log σ(φβΔ)`, `φ = −c log H̄`, with `H̄` in (0, 1] the reference's entropy per unit, averaged over both
    responses and divided by `log V`; no gradient through `φ`; reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        scale: `c > 0`.
        vocabulary: `V > 1`, the model's; a wrong one shifts `φ` by `c log` of the ratio of the two logarithms.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: `H̄` counts as at most 1, where `φ = 0`, so that a vocabulary that is stated too small turns no preference
        round.

    Identities: log 2 where policy = reference; `dpo(beta·φ)`; log 2 without gradient at a uniform reference.

    Example:
        >>> from dataclasses import replace
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> entropy = 0.3 * math.log(32_000) * torch.ones(2, 1)
        >>> mallows_dpo()(replace(scores, extras={"ref_entropy": entropy})).loss_P
        tensor([0.6588])

    Source: arXiv 2405.14953 and its released code.
    """
    settings = dict(locals())

    def loss(margin_P: Tensor) -> Tensor:
        return logistic(beta * margin_P)

    return _mallows(mallows_dpo, settings, (chosen, rejected), loss, beta, scale, vocabulary)


def mallows_ipo(
    *,
    beta: float = 0.1,
    scale: float = 0.29,
    vocabulary: int = 32_000,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """IPO under Mallows' model of rankings: the target is reached sooner where opinions agree.

    `L = (φΔ − 1/(2β))²` with `φ` as in `mallows_dpo`; reward `βρ`.

    Args:
        beta: `β > 0`, per nat; the target is its inverse.
        scale: `c > 0`.
        vocabulary: `V > 1`, the model's.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `1/(4β²)` where policy = reference and at a uniform reference; `φ² ipo(beta·φ, reduce="total")`.

    Example:
        >>> from dataclasses import replace
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> entropy = 0.3 * math.log(32_000) * torch.ones(2, 1)
        >>> mallows_ipo()(replace(scores, extras={"ref_entropy": entropy})).loss_P
        tensor([18.5046])

    Source: arXiv 2405.14953 and its released code.
    """
    settings = dict(locals())

    def loss(margin_P: Tensor) -> Tensor:
        return square(margin_P, 1 / (2 * beta))

    return _mallows(mallows_ipo, settings, (chosen, rejected), loss, beta, scale, vocabulary)


def _mallows(
    constructor: Callable[..., Objective],
    settings: Mapping[str, object],
    roles: tuple[str, str],
    loss: Callable[[Tensor], Tensor],
    beta: float,
    scale: float,
    vocabulary: int,
) -> Objective:
    """`L = f(φΔ)`."""
    check_number(0, open_low=True, beta=beta, scale=scale)
    check_number(1, open_low=True, vocabulary=vocabulary)
    chosen, rejected = roles
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N, entropy_N = log_ratio(scores), mean(scores.extras["ref_entropy"], scores.mask) / math.log(vocabulary)
        entropy_P = (scores.at(chosen, entropy_N) + scores.at(rejected, entropy_N)).detach() / 2
        agreed_P = -scale * entropy_P.clamp(1e-8, 1).log()
        loss_P = loss(agreed_P * difference(scores, rho_N, chosen, rejected))
        return Outcome(loss_P, beta * rho_N, {"agreement": agreed_P.mean()})

    return single(constructor, compute, distribution_needs(chosen, rejected, "ref_entropy"), settings)
