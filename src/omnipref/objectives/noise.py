"""Fifth stage: links that know that a share ε of the labels is flipped."""

from __future__ import annotations

from torch import Tensor

from omnipref.objectives.links import Link


def smooth(link: Link, margin: Tensor, rate: float) -> Tensor:
    """`(1 − ε) f(m) + ε f(−m)`: the expected loss under flips, with a finite optimum (conservative DPO).

    Args:
        link: `f`.
        margin: `m`, any shape.
        rate: `ε`, the share of flipped labels, in [0, 0.5).

    Example:
        >>> import torch
        >>> from omnipref.objectives.links import logistic
        >>> smooth(logistic, torch.tensor([0.2]), 0.1)
        tensor([0.6181])

    Source: E. Mitchell, "A note on DPO with noisy preferences", 2023.
    """
    return (1 - rate) * link(margin) + rate * link(-margin)


def debias(link: Link, margin: Tensor, rate: float) -> Tensor:
    """`[(1 − ε) f(m) − ε f(−m)] / (1 − 2ε)`: its mean over flipped labels is the loss on clean labels.

    Args:
        link: `f`.
        margin: `m`, any shape.
        rate: `ε`, the share of flipped labels, in [0, 0.5).

    Example:
        >>> import torch
        >>> from omnipref.objectives.links import logistic
        >>> debias(logistic, torch.tensor([0.2]), 0.1)
        tensor([0.5731])

    Source: arXiv 2403.00409 (robust DPO).
    """
    return ((1 - rate) * link(margin) - rate * link(-margin)) / (1 - 2 * rate)
