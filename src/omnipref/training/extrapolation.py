"""Weights past the newest ones, along the way they came: momentum between rounds of training."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from omnipref.errors import ConfigError

Weights = Mapping[str, Tensor]


def extrapolated(fitted: Weights, previous: Weights, momentum: float) -> dict[str, Tensor]:
    """`θ̂ + α(θ̂ − θ̂')`, in float32 at least, because bfloat16 loses small differences; the result has `fitted`'s types.

    Exact in policy space where log-probabilities are linear in the weights; whole weights must be given, because the
    product of two extrapolated LoRA factors is not the extrapolated product (`merged_weights`).

    Args:
        fitted: weights at the end of this round, `θ̂`.
        previous: weights at the end of the fit before it, `θ̂'`; not the extrapolated ones, which would compound.
        momentum: `α` in (−1, 1); 0 gives `fitted`.

    Raises:
        ConfigError: the momentum is out of range, or names or shapes differ.

    Example:
        >>> extrapolated({"w": torch.tensor([2.0])}, {"w": torch.tensor([1.0])}, 0.5)
        {'w': tensor([2.5000])}

    Source: arXiv 2410.06293, algorithm 1.
    """
    if not -1 < momentum < 1:
        raise ConfigError(f"found momentum={momentum!r}; expected a number between -1 and 1")
    if {name: value.shape for name, value in fitted.items()} != {n: value.shape for n, value in previous.items()}:
        raise ConfigError("found weights of two different models; expected the same names and shapes")
    return {name: _past(value, previous[name], momentum) for name, value in fitted.items()}


def _past(new: Tensor, old: Tensor, momentum: float) -> Tensor:
    if not new.is_floating_point():
        return new.clone()
    wide = torch.promote_types(new.dtype, torch.float32)
    new_wide = new.to(wide)
    return (new_wide + momentum * (new_wide - old.to(new_wide))).to(new.dtype)


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model, in float32, with its adapters merged into them; the model stays as it is.

    Args:
        model: with or without adapters.
    """
    merge = getattr(copy.deepcopy(model).float(), "merge_and_unload", None)
    whole = model if merge is None else merge()
    return {name: value.detach().float().clone() for name, value in whole.state_dict().items()}
