"""Objectives whose implicit reward comes from another divergence than the reverse KL: `r = β f'(π_θ / π_ref)`.

`ρ` is the log-ratio of a case to the reference. Constants that cancel between two cases are chosen so that the reward
is 0 where policy = reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from omnipref.objectives.checks import check_choice, check_number
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Objective
from omnipref.objectives.paired import paired
from omnipref.objectives.ratio import log_ratio

MOST = 80.0
"""Exponents are held at this, as in TRL: `e^80` is still a float32, and its product with a slope of 0 is still 0."""


def box_cox(log_value: Tensor, power: float) -> Tensor:
    """`(e^{pv} − 1)/p`, the power transform of `e^v`, exact near `p = 0`, where it is `v`; `pv` counts as at most 80.

    Example:
        >>> value = torch.tensor([0.5])
        >>> box_cox(value, 1.0), box_cox(value, 0.0), box_cox(value, -1.0)
        (tensor([0.6487]), tensor([0.5000]), tensor([0.3935]))
    """
    return torch.expm1((power * log_value).clamp(max=MOST)) / power if power else log_value


def jensen_shannon(rho: Tensor) -> Tensor:
    """`log(2u/(1 + u))` of `u = e^ρ`: it never rises above log 2.

    Example:
        >>> jensen_shannon(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.3799])
    """
    return math.log(2) + F.logsigmoid(rho)


DIVERGENCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "reverse_kl": lambda rho, _: rho,
    "forward_kl": lambda rho, _: box_cox(rho, -1.0),
    "js": lambda rho, _: jensen_shannon(rho),
    "alpha": lambda rho, alpha: box_cox(rho, alpha - 1),
}
"""What the argument `divergence` of `f_dpo` may name: `(ρ, α) -> f'(e^ρ)`, 0 at `ρ = 0`."""


def f_dpo(
    *,
    divergence: str = "reverse_kl",
    alpha: float = 0.5,
    beta: float = 0.1,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """DPO under any of four divergences (f-DPO): which one decides how far single responses may move.

    `L = −log σ(β(s_w − s_l))`, reward `βs`, with `s = ρ` (`reverse_kl`), `1 − e^{−ρ}` (`forward_kl`),
    `log 2 + log σ(ρ)` (`js`), `(e^{(α−1)ρ} − 1)/(α − 1)` (`alpha`).

    Not filtered DPO (fDPO), which drops records.

    Args:
        divergence: `reverse_kl`, `forward_kl`, `js` or `alpha`.
        alpha: `α`, read by `alpha` only: 0 is `forward_kl`, 1 `reverse_kl`, 2 the χ² divergence.
        beta: `β > 0`, per nat of the reverse KL.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range, or an unknown divergence.

    Here: exponents are held at 80; beyond that a case gives no gradient.

    Identities: log 2 where policy = reference; `dpo` for `reverse_kl`, and for `alpha` as `α → 1`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> f_dpo(divergence="js")(scores).loss_P
        tensor([0.6444])

    Source: arXiv 2309.16240; TRL's `f_divergence_type`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(alpha=alpha)
    slope = check_choice("divergence", divergence, DIVERGENCES)
    return paired(
        f_dpo,
        settings,
        (chosen, rejected),
        lambda scores: beta * slope(log_ratio(scores), alpha),
        lambda better, worse: logistic(better - worse),
    )


def chi_po(
    *, beta: float = 0.1, clip: float | None = None, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """χ² preference optimisation (χPO): the χ² divergence beside the KL, against over-optimisation.

    `L = −log σ(clip_{±2R}[β(φ_w − φ_l)])` with `φ = e^ρ + ρ`; reward `β(φ − 1)`.

    Args:
        beta: `β > 0`, per unit of `φ`.
        clip: `2R > 0`, where the margin is held, without gradient beyond; None for nowhere.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper. Exponents are held at 80.

    Identities: log 2 where policy = reference; `dpo(2β)` to first order around it.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> chi_po(beta=0.1)(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.4991])

    Source: arXiv 2407.13399.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, open_low=True, clip=1.0 if clip is None else clip)
    most = math.inf if clip is None else clip

    def loss(better_P: Tensor, worse_P: Tensor) -> Tensor:
        return logistic((better_P - worse_P).clamp(-most, most))

    def reward(rho_N: Tensor) -> Tensor:
        return beta * (box_cox(rho_N, 1.0) + rho_N)

    return paired(chi_po, settings, (chosen, rejected), lambda scores: reward(log_ratio(scores)), loss)
