"""A policy over few responses whose prompts and responses share the weights of one network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """`log π(·|x)` of all prompts from three layers on the one-hot prompt.

    Args:
        layers: from `[X, X]` one-hot prompts to `[X, A]` logits.
        prompts: X.
    """

    reference_XA: Tensor
    prompts_XX: Tensor

    def __init__(self, layers: nn.Module, prompts: int):
        super().__init__()
        self.layers = layers
        self.register_buffer("prompts_XX", torch.eye(prompts))
        self.register_buffer("reference_XA", self().detach())

    def forward(self) -> Tensor:
        """Log-probabilities of all responses, `[X, A]`."""
        return self.layers(self.prompts_XX).log_softmax(1)


def untrained(prompts: int, responses: int, width: int, seed: int) -> Network:
    """A network with two hidden layers and random weights.

    Args:
        prompts: X.
        responses: A.
        width: of the hidden layers.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, last = nn.Linear(prompts, width), nn.Linear(width, width), nn.Linear(width, responses)
    return Network(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last), prompts)


def fit(network: Network, target_XA: Tensor, steps: int = 300, rate: float = 1e-2) -> Network:
    """Train a network in place until it gives a distribution, which becomes its reference; it is given back.

    Args:
        network: what is trained.
        target_XA: probabilities.
        steps: updates of Adam.
        rate: of the updates.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (-(target_XA * network()).sum(1)).mean().backward()
        optimizer.step()
    network.reference_XA = network().detach()
    return network
