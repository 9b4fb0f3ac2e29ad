"""Where a batch is scored: the states that predict, what they predict, and the units that these stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Places:
    """The scored places of a batch; those that cases share, as they share a response's beginning, stand once.

    Args:
        mask_NU: units that count.
        state_M: index of the state that predicts, over all tokens of the batch.
        target_M: the token that it predicts.
        which_L: place of each unit that counts, in the mask's order.
        own_L: index of the unit's own token, over all tokens of the batch.
        shape_BT: rows and columns of the batch's tokens.
    """

    mask_NU: Tensor
    state_M: Tensor
    target_M: Tensor
    which_L: Tensor
    own_L: Tensor
    shape_BT: tuple[int, int]

    @classmethod
    def of(cls, inputs: Mapping[str, Any]) -> Places:
        """The distinct pairs of state and target."""
        mask = inputs["mask_NU"] & (inputs["segment_NU"] >= 0)
        pairs = (inputs["predictor_NU"][mask] << 32) + inputs["target_NU"][mask]
        distinct, which = pairs.unique(return_inverse=True)
        rows, columns = inputs["ids_BT"].shape
        state, target = distinct >> 32, distinct & (2**32 - 1)
        return cls(mask, state, target, which, inputs["own_NU"][mask], (rows, columns))

    def spread(self, value_M: Tensor) -> Tensor:
        """Values of places at their units, `[M, ...]` to `[N, U, ...]`, 0 elsewhere."""
        return self.at_units(value_M[self.which_L])

    def at_units(self, value_L: Tensor) -> Tensor:
        """Values of the units that count at these units, `[L, ...]` to `[N, U, ...]`, 0 elsewhere."""
        found = value_L.new_zeros(*self.mask_NU.shape, *value_L.shape[1:])
        return found.index_put((self.mask_NU,), value_L)
