"""Objectives on DPO's margin for labels that are partly wrong, and other links than the logistic one.

Notation as in `pairwise`: `ρ` log-ratio to the reference, `Δ = ρ_w − ρ_l`.
"""

from __future__ import annotations

from omnipref.objectives.checks import check_number
from omnipref.objectives.links import discovered, kl_target, logistic
from omnipref.objectives.noise import debias
from omnipref.objectives.objective import Objective
from omnipref.objectives.paired import paired
from omnipref.objectives.ratio import log_ratio


def robust_dpo(
    *, beta: float = 0.1, flip_rate: float = 0.1, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Robust DPO (rDPO): an unbiased estimate, from flipped labels, of the loss on clean ones.

    `L = [−(1 − ε) log σ(βΔ) + ε log σ(−βΔ)] / (1 − 2ε)`, reward `βρ`. It falls without bound, like `−εβΔ/(1 − 2ε)`, so
    an `ε` larger than the true rate lets the policy drift.

    Not `length_dpo` (R-DPO), and not `dpo(label_smoothing=ε)` (conservative DPO), which asks for less where this asks
    for more.

    Args:
        beta: `β > 0`, per nat.
        flip_rate: `ε` in [0, 0.5), the share of labels that are flipped.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `dpo` at `ε = 0`; log 2 where policy = reference; `(1 − ε) L(w, l) + ε L(l, w)` is `dpo`.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> robust_dpo(beta=0.1, flip_rate=0.1)(scores).loss_P
        tensor([0.5731])

    Source: arXiv 2403.00409, equation (12); TRL's `robust`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 0.5, flip_rate=flip_rate)
    return paired(
        robust_dpo,
        settings,
        (chosen, rejected),
        lambda scores: beta * log_ratio(scores),
        lambda better, worse: debias(logistic, better - worse, flip_rate),
    )


def exo_pair(
    *, beta: float = 0.1, label_smoothing: float = 1e-3, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Efficient exact optimisation (EXO) on pairs: the reverse KL divergence to a smoothed label.

    `L = σ(βΔ) [log σ(βΔ) − log(1 − ε)] + σ(−βΔ) [log σ(−βΔ) − log ε]`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        label_smoothing: `ε` in (0, 0.5); 0 would ask for an infinite margin at infinite cost.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `−log 2 − log(ε(1 − ε))/2` where policy = reference; 0, its least, at `βΔ = log((1 − ε)/ε)`.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> exo_pair()(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([2.4220])

    Source: arXiv 2402.00856, equation (16); TRL's `exo_pair`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 0.5, open_low=True, label_smoothing=label_smoothing)
    return paired(
        exo_pair,
        settings,
        (chosen, rejected),
        lambda scores: beta * log_ratio(scores),
        lambda better, worse: kl_target(better - worse, label_smoothing),
    )


def discopop(
    *, beta: float = 0.05, temperature: float = 0.05, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Discovered preference optimisation: a link between logistic and exponential.

    `L = (1 − m) (−log σ(βΔ)) + m e^{−βΔ}` with `m = σ(βΔ/τ)`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        temperature: `τ > 0`, how fast the exponential takes over above `Δ = 0`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `(log 2 + 1)/2` where policy = reference; the mean of `gpo(link="logistic")` and
        `gpo(link="exponential")` as `τ → ∞`.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> discopop(beta=0.1)(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.8148])

    Source: arXiv 2406.08414, equation (5); TRL's `discopop`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta, temperature=temperature)
    return paired(
        discopop,
        settings,
        (chosen, rejected),
        lambda scores: beta * log_ratio(scores),
        lambda better, worse: discovered(better - worse, temperature),
    )
