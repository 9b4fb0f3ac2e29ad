"""First stage: from values per unit `[N, U]` to one value per case `[N]`.

All of them ignore what stands under a false mask, NaN included, and compute in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from omnipref.objectives.units import place

Reduction = Callable[[Tensor, Tensor], Tensor]
"""`(value_NU, mask_NU) -> value_N`."""


def total(value_NU: Tensor, mask_NU: Tensor) -> Tensor:
    """The sum over units, `Σ_u v_u`: the log-likelihood of a whole response.

    Example:
        >>> total(torch.tensor([[-1.0, -2.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([-3.])
    """
    return torch.where(mask_NU, _precise(value_NU), 0.0).sum(1)


def mean(value_NU: Tensor, mask_NU: Tensor) -> Tensor:
    """The mean over the units that count, `Σ_u v_u / n`; 0 for a case without units.

    Example:
        >>> mean(torch.tensor([[-1.0, -2.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([-1.5000])
    """
    return total(value_NU, mask_NU) / mask_NU.sum(1).clamp(min=1)


def token_weighted(value_NU: Tensor, mask_NU: Tensor, weight_NU: Tensor) -> Tensor:
    """The weighted sum over units, `Σ_u w_u v_u`; the weights `[N, U]` carry no gradient.

    Example:
        >>> token_weighted(torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]]), torch.tensor([[1.0, 0.5]]))
        tensor([-2.])
    """
    return total(_precise(value_NU) * weight_NU.detach(), mask_NU)


def decayed(gamma: float) -> Reduction:
    """The sum with weights that fall from unit to unit, `Σ_t γ^t v_t`; the first unit that counts has `t = 0`.

    Args:
        gamma: `γ` in (0, 1].

    Example:
        >>> decayed(0.5)(torch.tensor([[9.0, -1.0, -2.0]]), torch.tensor([[False, True, True]]))
        tensor([-2.])
    """

    def reduce(value_NU: Tensor, mask_NU: Tensor) -> Tensor:
        value_NU = _precise(value_NU)
        return total(value_NU * gamma ** (place(mask_NU) - 1).clamp(min=0).to(value_NU.dtype), mask_NU)

    return reduce


def tail_weighted(head_NU: Tensor, weight: float) -> Reduction:
    """The sum with a weight on what is not in the head, `Σ_head v + α Σ_tail v`.

    Args:
        head_NU: `[N, U]` bool, units that count fully.
        weight: `α`, for the others.

    Example:
        >>> head = torch.tensor([[True, True, False]])
        >>> tail_weighted(head, 0.5)(torch.tensor([[-1.0, -2.0, -4.0]]), torch.ones(1, 3, dtype=torch.bool))
        tensor([-5.])
    """
    return lambda value_NU, mask_NU: total(value_NU, mask_NU & head_NU) + weight * total(value_NU, mask_NU & ~head_NU)


REDUCTIONS: dict[str, Reduction] = {"total": total, "mean": mean}
"""What the argument `reduce` of a constructor may name."""


def _precise(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
