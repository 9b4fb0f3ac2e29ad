"""Policies over a finite set of actions, with every log-probability at hand.

Axes besides the library's: X prompts, A actions.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class LogLinear(nn.Module):
    """`log π(a|x) = log π_ref(a|x) + φ(x, a)·θ − log Z(x)`: what is learned of one action says something of others.

    It starts at its reference.

    Args:
        features_XAD: `φ`, `[X, A, D]`.
        reference_XA: log-probabilities of the reference, or logits of them.
    """

    features_XAD: Tensor
    reference_XA: Tensor

    def __init__(self, features_XAD: Tensor, reference_XA: Tensor):
        super().__init__()
        self.register_buffer("features_XAD", features_XAD)
        self.register_buffer("reference_XA", reference_XA.log_softmax(1))
        self.weight = nn.Parameter(features_XAD.new_zeros(features_XAD.shape[2]))

    def forward(self) -> Tensor:
        """Log-probabilities of all actions, `[X, A]`."""
        return (self.reference_XA + self.features_XAD @ self.weight).log_softmax(1)


class Tabular(nn.Module):
    """A logit for every prompt and action, starting at the reference: nothing is shared between actions.

    Args:
        reference_XA: log-probabilities of the reference, or logits of them.
    """

    reference_XA: Tensor

    def __init__(self, reference_XA: Tensor):
        super().__init__()
        self.register_buffer("reference_XA", reference_XA.log_softmax(1))
        self.logits_XA = nn.Parameter(self.reference_XA.clone())

    def forward(self) -> Tensor:
        """Log-probabilities of all actions, `[X, A]`."""
        return self.logits_XA.log_softmax(1)


class ActionPolicy(Protocol):
    """A module without inputs that gives `[X, A]` log-probabilities, and its reference."""

    reference_XA: Tensor

    def __call__(self) -> Tensor:
        """Log-probabilities of all actions, `[X, A]`."""
        ...


def sample(logp_XA: Tensor, prompt_P: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
    """Independent actions of a policy for each of P prompts, `[P, count]`.

    Args:
        logp_XA: log-probabilities.
        prompt_P: number of each prompt.
        generator: random numbers.
        count: actions per prompt.
    """
    return logp_XA.exp()[prompt_P].multinomial(count, replacement=True, generator=generator)


def expected(logp_XA: Tensor, value_XA: Tensor) -> float:
    """The mean over prompts of the expectation of a value under a policy.

    Example:
        >>> expected(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 4.0]]))
        2.5
    """
    return (logp_XA.exp() * value_XA).sum(1).mean().item()


def divergence(logp_XA: Tensor, other_XA: Tensor) -> float:
    """`KL(π ‖ π')`, the mean over prompts, in nats.

    Example:
        >>> round(divergence(torch.tensor([[1.0, 0.0, -1.0]]).log_softmax(1), torch.zeros(1, 3).log_softmax(1)), 6)
        0.266217
    """
    return expected(logp_XA, logp_XA - other_XA)
