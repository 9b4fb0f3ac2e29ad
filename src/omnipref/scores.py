"""Scores: the narrow waist between policies, which fill them, and objectives, which read them.

Axes, used as suffixes in the whole library: N cases, U units, P preferences, K candidates, V vocabulary, S timesteps,
D features. A unit is what a log-likelihood is a sum over: a token, or one denoising step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cases:
    """Which case is what: the alignment of N scored cases with P preferences.

    Args:
        record_P: number of each preference in its data set, for messages and caches.
        rows: role to case index, `[P]` long, -1 where a preference has no such case.
        preference_N: the preference that a case belongs to.
        rank_N: place in the preference's list, 0 best, ties share a rank, -1 outside the list.
        label_N: +1 desirable, -1 undesirable, 0 neither.
        columns: further numbers, `[P]` or `[N]` float32, by column name.
    """

    record_P: Tensor
    rows: Mapping[str, Tensor]
    preference_N: Tensor
    rank_N: Tensor
    label_N: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of preferences, P."""
        return len(self.record_P)

    def to(self, device: torch.device | str) -> Cases:
        """The same alignment on another device."""
        return Cases(
            self.record_P.to(device),
            {role: index.to(device) for role, index in self.rows.items()},
            self.preference_N.to(device),
            self.rank_N.to(device),
            self.label_N.to(device),
            {name: value.to(device) for name, value in self.columns.items()},
        )


LEARNED_EXTRAS: Mapping[str, frozenset[str]] = {"learned_mask": frozenset({"ref_hidden"})}
"""Extras that a network makes which is trained with the policy: name to the extras that it reads."""

REFERENCE_EXTRAS = frozenset(
    {"ref_entropy", "ref_square_sum", "kl_ref_policy", "kl_policy_ref", "tilted", "ref_activation", "ref_hidden"}
)
"""Extras that are made of the reference's distributions or states; cached `ref_logp` cannot give them."""


def reads_reference(extras: Collection[str]) -> bool:
    """Whether any of these extras is made of more of the reference than its log-likelihoods.

    Example:
        >>> reads_reference({"entropy"}), reads_reference({"tilted@0.01"}), reads_reference({"learned_mask@2"})
        (False, True, True)
    """
    names = {name.partition("@")[0] for name in extras}
    read = names.union(*(LEARNED_EXTRAS.get(name, ()) for name in names))
    return not REFERENCE_EXTRAS.isdisjoint(read)


@dataclass(frozen=True)
class Scores:
    """Per-case, per-unit log-likelihoods under policy and reference.

    Args:
        logp: `[N, U]` float32 under the policy, with gradient; 0 where `mask` is false.
        mask: `[N, U]` bool, the units that count.
        cases: what each of the N rows is.
        ref_logp: `[N, U]` under the reference, without gradient; None when no objective asks for it.
        segment: `[N, U]` long, step or sentence index of each unit.
        extras: what the objective asked for besides, `[N, U]` float32 in nats, over the whole vocabulary, 0 where
            `mask` is false. Of the policy, with gradient: `entropy`; `square_sum`, Σ_v π(v)²; `top_k@K`, the K largest
            log-probabilities, `[N, U, K]`. Of the reference: `ref_entropy`, `ref_square_sum`. Of both, with gradient
            to the policy: `kl_ref_policy`, KL(π_ref‖π); `kl_policy_ref`, KL(π‖π_ref); `tilted@a`, the unit's
            log-probability under softmax((1 + a) z - a z_ref), z being logits.
            Of states, without gradient and unit: `hidden`, the policy's last hidden state at the unit itself,
            `[N, U, D]`; `ref_hidden`, what each of the reference's L blocks returns at the unit before, which predicts
            it, `[N, U, L, D]` in the reference's own precision; `ref_activation`, the reference's activations there,
            in [0, 1]: the mean over features of each tensor, `stretched` over the response, averaged over the blocks,
            then over the kinds of tensors. Learned with the policy, by a network: `learned_mask`, at least 0;
            `learned_mask@2` and so on, by further networks.
        auxiliary: a scalar loss of the model's own, times its coefficient, to be added to the objective's; the load
            balance of experts. None where there is none.

    Example:
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores.at("chosen", scores.logp.sum(1) - scores.ref_logp.sum(1))
        tensor([1.])
    """

    logp: Tensor
    mask: Tensor
    cases: Cases
    ref_logp: Tensor | None = None
    segment: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    auxiliary: Tensor | None = None

    def at(self, role: str, value_N: Tensor) -> Tensor:
        """Pick the value of the case with this role for every preference: `[N]` to `[P]`."""
        return value_N[self.cases.rows[role]]

    def with_gradient(self, names: Collection[str] = ()) -> Scores:
        """The same values as leaves whose gradient is asked for: `logp`, and the extras of these names."""
        extras = {k: v.detach().requires_grad_() if k in names else v for k, v in self.extras.items()}
        return replace(self, logp=self.logp.detach().requires_grad_(), extras=extras)

    def with_reference(self, ref_logp: Tensor) -> Scores:
        """The same scores beside another reference."""
        return replace(self, ref_logp=ref_logp.detach())


def pair_scores(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor | None = None,
    ref_rejected: Tensor | None = None,
    mask_chosen: Tensor | None = None,
    mask_rejected: Tensor | None = None,
) -> Scores:
    """Scores of P pairs from log-likelihoods `[P]` (one unit each) or `[P, U]`, for tests, notebooks and own loops.

    Masks are `[P, U]` bool and default to all true. `chosen` and `rejected` must have the same shape.
    """
    columns = [value.reshape(len(value), -1) for value in (chosen, rejected)]
    full = torch.ones_like(columns[0], dtype=torch.bool)
    masks = [full if mask is None else mask for mask in (mask_chosen, mask_rejected)]
    number = torch.arange(len(chosen), device=chosen.device)
    two = torch.cat([number, number])
    rank = torch.cat([torch.zeros_like(number), torch.ones_like(number)])
    cases = Cases(number, {"chosen": number, "rejected": number + len(number)}, two, rank, 1 - 2 * rank)
    reference = None
    if ref_chosen is not None and ref_rejected is not None:
        reference = torch.cat([value.reshape(len(value), -1) for value in (ref_chosen, ref_rejected)]).detach()
    mask = torch.cat(masks)
    return Scores(torch.cat(columns) * mask, mask, cases, None if reference is None else reference * mask)


def stretched(value_NU: Tensor, mask_NU: Tensor) -> Tensor:
    """Each case's values on a scale from 0, its least, to 1, its largest; 1 where all are equal; without gradient.

    Args:
        value_NU: any values, `[N, U]`.
        mask_NU: units that count; the others are 0.

    Example:
        >>> stretched(torch.tensor([[0.1, 0.4, 0.2, 0.9]]), torch.ones(1, 4, dtype=torch.bool))
        tensor([[0.0000, 0.3750, 0.1250, 1.0000]])
    """
    value_NU = value_NU.detach()
    low_N1 = torch.where(mask_NU, value_NU, torch.inf).amin(1, keepdim=True)
    high_N1 = torch.where(mask_NU, value_NU, -torch.inf).amax(1, keepdim=True)
    flat_N1 = high_N1 <= low_N1
    share_NU = (value_NU - low_N1) / torch.where(flat_N1, 1.0, high_N1 - low_N1)
    return torch.where(mask_NU, torch.where(flat_N1, 1.0, share_NU), 0.0)
