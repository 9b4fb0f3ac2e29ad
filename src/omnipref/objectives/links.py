"""Fourth stage: from a margin, positive when the preference is met, to a loss; element by element.

`LINKS` are those of table 1 of GPO (arXiv 2402.05749); all fall through margin 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Link = Callable[[Tensor], Tensor]
"""`margin -> loss`, element by element."""


def logistic(margin: Tensor) -> Tensor:
    """`−log σ(m)`, DPO's link; log 2 at 0.

    Example:
        >>> logistic(torch.tensor([0.0, 0.2]))
        tensor([0.6931, 0.5981])
    """
    return -F.logsigmoid(margin)


def hinge_link(margin: Tensor) -> Tensor:
    """`max(0, 1 − m)`, as in SLiC and RSO; 1 at 0.

    Example:
        >>> hinge_link(torch.tensor([0.0, 0.2, 3.0]))
        tensor([1.0000, 0.8000, 0.0000])
    """
    return torch.relu(1 - margin)


def square(margin: Tensor, target: float = 1.0) -> Tensor:
    """`(m − target)²`, as in IPO: the margin is drawn to a finite target from both sides.

    Example:
        >>> square(torch.tensor([0.0, 1.0, 3.0]))
        tensor([1., 0., 4.])
    """
    return (margin - target) ** 2


def exponential(margin: Tensor) -> Tensor:
    """`exp(−m)`, as in AdaBoost; 1 at 0.

    Example:
        >>> exponential(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.3679])
    """
    return torch.exp(-margin)


def truncated_square(margin: Tensor) -> Tensor:
    """`max(0, 1 − m)²`; 1 at 0.

    Example:
        >>> truncated_square(torch.tensor([0.0, 0.5, 3.0]))
        tensor([1.0000, 0.2500, 0.0000])
    """
    return torch.relu(1 - margin) ** 2


def savage(margin: Tensor) -> Tensor:
    """`1 / (1 + exp(m))²`, bounded on both sides, hence robust to outliers; 1/4 at 0.

    Example:
        >>> savage(torch.tensor([0.0]))
        tensor([0.2500])
    """
    return torch.sigmoid(-margin) ** 2


def discovered(margin: Tensor, temperature: float = 0.05) -> Tensor:
    """`(1 − σ(m/τ)) (−log σ(m)) + σ(m/τ) e^{−m}`: between logistic and exponential, found by a language model's search.

    Log 2 / 2 + 1/2 at 0; not convex: it dips below 0. The product `σ(m/τ) e^{−m}` is taken in logarithms, so that it
    stays finite at margins far below 0.

    Args:
        margin: `m`, any shape.
        temperature: `τ > 0`, how fast the exponential takes over above 0.

    Example:
        >>> discovered(torch.tensor([0.0, 0.2]))
        tensor([0.8466, 0.8148])

    Source: arXiv 2406.08414, equation (5).
    """
    mixing = margin / temperature
    return torch.sigmoid(-mixing) * logistic(margin) + torch.exp(F.logsigmoid(mixing) - margin)


def kl_target(margin: Tensor, rate: float) -> Tensor:
    """`KL((σ(m), σ(−m)) ‖ (1 − ε, ε))`, as in EXO: the margin is drawn to `log((1 − ε)/ε)` from both sides.

    Args:
        margin: `m`, any shape.
        rate: `ε` in (0, 0.5), the probability that the label leaves to the other case.

    Example:
        >>> kl_target(torch.tensor([0.0, 0.2]), 1e-3)
        tensor([2.7612, 2.4220])

    Source: arXiv 2402.00856, equation (16).
    """
    better = torch.sigmoid(margin) * (F.logsigmoid(margin) - math.log1p(-rate))
    return better + torch.sigmoid(-margin) * (F.logsigmoid(-margin) - math.log(rate))


LINKS: dict[str, Link] = {
    "logistic": logistic,
    "hinge": hinge_link,
    "square": square,
    "exponential": exponential,
    "truncated_square": truncated_square,
    "savage": savage,
}
"""What the argument `link` of a constructor may name."""
