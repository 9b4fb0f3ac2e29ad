"""Objectives in which every unit has a weight of its own, from the reference or from a network that learns it."""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Objective, Outcome, State, single
from omnipref.objectives.ratio import difference
from omnipref.objectives.reduce import total
from omnipref.objectives.vocabulary import distribution_needs
from omnipref.scores import Scores, stretched


def sparse_po(
    *,
    beta: float = 0.1,
    mask: str = "ref_activation",
    divergence_mask: str = "",
    rescale: bool = False,
    sparsity: float = 0.0,
    divergence_sparsity: float = 0.0,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """Sparse preference optimisation (SparsePO): masks say which units carry the preference and which may drift.

    `L = −log σ(β[u_w − u_l + D_w − D_l]) + κ_u Σ m^u + κ_d Σ m^d` with `u = Σ_t m^u_t ρ_t` and
    `D = Σ_t m^d_t KL_t(π_ref ‖ π_θ)` over the units of a response; sums of masks over both responses. Reward `β(u+D)`.

    Args:
        beta: `β > 0`, per nat.
        mask: name of the extra `m^u`, a weight of at least 0 for each unit.
        divergence_mask: name of the extra `m^d`; empty for the same mask on both (common masks).
        rescale: stretch each response's mask to the range from 0 to 1, without gradient, as MaPO does with each tensor
            of activations; otherwise masks are taken as they are, with their gradient.
        sparsity: `κ_u ≥ 0`, on the sum of `m^u`.
        divergence_sparsity: `κ_d ≥ 0`, on the sum of `m^d`; with common masks both are on the same.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: the masks are whatever the extras hold. The paper's are `ref_activation` (MaPO), the default, and
        `learned_mask`, made by a network that trains with the policy; with `divergence_mask='learned_mask@2'` a second
        network makes the other mask (independent masks). All are read where a unit is predicted, so that none knows the
        unit that it weighs. `mask='ref_entropy', rescale=True` needs nothing but the distributions.

    Metrics: `mask`, the mean of `m^u` over units, which acts like a factor on `β` where it is learned; `masked`, the
        share of units where it is 0.

    Identities: `tdpo1(beta)` where masks are 1; `dpo(beta)` where `m^u = 1` and `m^d = 0`; log 2 plus the sums of masks
        where policy = reference, and where masks are 0, without gradient; a unit whose masks are 0 takes no part.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> extras = {"kl_ref_policy": torch.tensor([[0.4], [0.9]]), "half": torch.full((2, 1), 0.5)}
        >>> sparse_po(mask="half")(replace(scores, extras=extras)).loss_P
        tensor([0.6564])

    Source: arXiv 2410.05102 and its released code.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, sparsity=sparsity, divergence_sparsity=divergence_sparsity)
    check_roles(chosen=chosen, rejected=rejected)
    names = (mask, divergence_mask or mask)
    for name in names:
        check_roles(mask=name)

    def compute(scores: Scores, state: State) -> Outcome:
        masks = [torch.where(scores.mask, scores.extras[name], 0.0) for name in names]
        if rescale:
            masks = [stretched(mask_NU, scores.mask) for mask_NU in masks]
        reward_N = beta * _weighted_sum(scores, *masks)
        loss_P = logistic(difference(scores, reward_N, chosen, rejected))
        weights = zip(masks, (sparsity, divergence_sparsity), strict=True)
        size_N = torch.stack([factor * total(mask_NU.abs(), scores.mask) for mask_NU, factor in weights]).sum(0)
        loss_P = loss_P + scores.at(chosen, size_N) + scores.at(rejected, size_N)
        own = masks[0].detach()[scores.mask]
        return Outcome(loss_P, reward_N, {"mask": own.mean(), "masked": (own == 0).to(own.dtype).mean()})

    return single(sparse_po, compute, distribution_needs(chosen, rejected, "kl_ref_policy", *names), settings)


def _weighted_sum(scores: Scores, own_NU: Tensor, divergence_NU: Tensor) -> Tensor:
    """`Σ_t m^u_t ρ_t + Σ_t m^d_t KL_t`: `[N]`."""
    assert scores.ref_logp is not None
    ratio_NU = scores.logp - scores.ref_logp.detach()
    return total(own_NU * ratio_NU + divergence_NU * scores.extras["kl_ref_policy"], scores.mask)
