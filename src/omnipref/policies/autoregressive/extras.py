"""Quantities of next-token distributions, `[m]` from logits `[m, V]`, with their gradients written out.

Below, z are the logits, p = softmax(z) the policy, q the reference, g the gradient of the loss to a quantity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from omnipref.errors import CapabilityError, nearest


class Block:
    """Some rows of logits, in float32 at least, and what follows from them, each computed when it is first read.

    Args:
        logits: of the policy, `[m, V]`, finite.
        target: token ids, `[m]`.
        ref_logits: of the reference, `[m, V]`; None when nothing reads it.
    """

    def __init__(self, logits: Tensor, target: Tensor, ref_logits: Tensor | None):
        self.logits, self.target, self._ref_logits = _wide(logits), target, ref_logits

    @cached_property
    def ref_logits(self) -> Tensor:
        """Logits of the reference, `[m, V]`."""
        assert self._ref_logits is not None, "a quantity that reads the reference needs its logits"
        return _wide(self._ref_logits)

    @cached_property
    def p(self) -> Tensor:
        """Probabilities under the policy, `[m, V]`."""
        return self.logits.softmax(-1)

    @cached_property
    def logp(self) -> Tensor:
        """Log-probabilities under the policy, `[m, V]`."""
        return self.logits.log_softmax(-1)

    @cached_property
    def q(self) -> Tensor:
        """Probabilities under the reference, `[m, V]`."""
        return self.ref_logits.softmax(-1)

    @cached_property
    def ref_logp(self) -> Tensor:
        """Log-probabilities under the reference, `[m, V]`."""
        return self.ref_logits.log_softmax(-1)

    @cached_property
    def ratio(self) -> Tensor:
        """log p - log q, `[m, V]`."""
        return self.logp - self.ref_logp

    def at_target(self, log_softmax: Tensor) -> Tensor:
        """The value of each row at its target, `[m, V]` to `[m]`."""
        return log_softmax.gather(-1, self.target[:, None])[:, 0]


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True)
class Quantity:
    """A number, or K of them, for each row of logits.

    Args:
        value: from a block to `[m]` or `[m, K]`.
        gradient: from a block, the value and g, both of the value's shape, to the gradient to z, `[m, V]`, a new
            tensor; None where the policy has no part in the value.
        width: K.
    """

    value: Callable[[Block], Tensor]
    gradient: Callable[[Block, Tensor, Tensor], Tensor] | None = None
    width: int = 1


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(-1)


def _picked(probability: Tensor, index: Tensor, g: Tensor) -> Tensor:
    """Gradient of the log-probabilities at `index`, `[m, K]`: Σ_k g_k (onehot_k - p)."""
    return (probability * -g.sum(-1, keepdim=True)).scatter_add_(-1, index, g)


def _logp_gradient(block: Block, _value: Tensor, g: Tensor) -> Tensor:
    return _picked(block.p, block.target[:, None], g[:, None])


def _entropy_gradient(block: Block, value: Tensor, g: Tensor) -> Tensor:
    """∂H/∂z = -p (log p + H)."""
    return (block.logp + value[:, None]).mul_(block.p).mul_(-g[:, None])


def _square_sum_gradient(block: Block, value: Tensor, g: Tensor) -> Tensor:
    """∂(Σ p²)/∂z = 2 p (p - Σ p²)."""
    return (block.p - value[:, None]).mul_(block.p).mul_(2 * g[:, None])


def _kl_ref_policy_gradient(block: Block, _value: Tensor, g: Tensor) -> Tensor:
    """∂KL(q‖p)/∂z = p - q."""
    return (block.p - block.q).mul_(g[:, None])


def _kl_policy_ref_gradient(block: Block, value: Tensor, g: Tensor) -> Tensor:
    """∂KL(p‖q)/∂z = p (log p - log q - KL(p‖q))."""
    return (block.ratio - value[:, None]).mul_(block.p).mul_(g[:, None])


LOGP = Quantity(lambda block: block.at_target(block.logp), _logp_gradient)
"""Log-probability of the target under the policy."""
REF_LOGP = Quantity(lambda block: block.at_target(block.ref_logp))
"""Log-probability of the target under the reference."""


def tilted(tilt: float) -> Quantity:
    """Log-probability of the target under softmax((1 + a) z - a z_ref), which leans away from the reference.

    Args:
        tilt: a; 0 gives the policy's log-probability, -1 the reference's.
    """

    def leaning(block: Block) -> Tensor:
        return torch.add(block.logp, block.ratio, alpha=tilt)  # what shifts a whole row cancels in the softmax

    def gradient(block: Block, _value: Tensor, g: Tensor) -> Tensor:
        return _picked(leaning(block).softmax(-1), block.target[:, None], (1 + tilt) * g[:, None])

    return Quantity(lambda block: block.at_target(leaning(block).log_softmax(-1)), gradient)


def top_k(count: int) -> Quantity:
    """The largest log-probabilities, `[m, K]`, in falling order.

    Args:
        count: K, at least 1 and at most the vocabulary.

    Raises:
        CapabilityError: when it is computed, K is not in this range.
    """

    def largest(block: Block) -> Tensor:
        size = block.logits.shape[-1]
        if not 0 < count <= size:
            raise CapabilityError(f"found the extra `top_k@{count}`; expected 1 to {size}, the size of the vocabulary")
        return block.logits.topk(count, -1).indices

    def gradient(block: Block, _value: Tensor, g: Tensor) -> Tensor:
        return _picked(block.p, largest(block), g)

    return Quantity(lambda block: block.logp.gather(-1, largest(block)), gradient, count)


PLAIN = {
    "entropy": Quantity(lambda block: -_dot(block.p, block.logp), _entropy_gradient),
    "square_sum": Quantity(lambda block: _dot(block.p, block.p), _square_sum_gradient),
    "ref_entropy": Quantity(lambda block: -_dot(block.q, block.ref_logp)),
    "ref_square_sum": Quantity(lambda block: _dot(block.q, block.q)),
    "kl_ref_policy": Quantity(lambda block: -_dot(block.q, block.ratio), _kl_ref_policy_gradient),
    "kl_policy_ref": Quantity(lambda block: _dot(block.p, block.ratio), _kl_policy_ref_gradient),
}
"""Extras by name."""
WITH_NUMBER: dict[str, tuple[Callable[[str], Any], Callable[[Any], Quantity], str]] = {
    "tilted": (float, tilted, "tilted@0.01"),
    "top_k": (int, top_k, "top_k@8"),
}
"""Extras whose name is followed by `@` and a number: how the number is read, the extra that it gives, an example."""


def quantity(name: str) -> Quantity:
    """The extra of a name, such as `entropy` or `tilted@0.01`.

    Raises:
        CapabilityError: no extra has this name, or what follows `@` is not its number.
    """
    if name in PLAIN:
        return PLAIN[name]
    base, _, number = name.partition("@")
    if base not in WITH_NUMBER:
        known = [*PLAIN, *(example for _, _, example in WITH_NUMBER.values())]
        raise CapabilityError(f"found the extra `{name}`; {nearest(name, known)}")
    read, make, example = WITH_NUMBER[base]
    try:
        return make(read(number))
    except ValueError:
        raise CapabilityError(f"found the extra `{name}`; expected a number after `@`, as in `{example}`") from None
