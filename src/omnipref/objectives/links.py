"""Fourth stage: from a margin, positive when the preference is met, to a loss; element by element.

Table 1 of GPO (arXiv 2402.05749) has them all; they fall through margin 0.
"""

from __future__ import annotations

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


LINKS: dict[str, Link] = {
    "logistic": logistic,
    "hinge": hinge_link,
    "square": square,
    "exponential": exponential,
    "truncated_square": truncated_square,
    "savage": savage,
}
"""What the argument `link` of a constructor may name."""
