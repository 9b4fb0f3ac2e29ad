"""Objectives that hold each response's own likelihood, not only the difference between two.

`ρ` is the log-ratio of a case to the reference, `w` the chosen and `l` the rejected case, `Δ = ρ_w − ρ_l`.
`bco(shift=False)` on pairs belongs here too: `L = −log σ(βρ_w) − log σ(−βρ_l)`, TRL's `bco_pair`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.objectives.checks import check_column, check_number, check_roles
from omnipref.objectives.links import logistic, square
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.paired import paired
from omnipref.objectives.ratio import log_ratio
from omnipref.scores import Scores


def nca_pair(*, beta: float = 0.01, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Noise-contrastive alignment on pairs: the chosen likelihood must not fall.

    `L = −log σ(βρ_w) − ½ log σ(−βρ_w) − ½ log σ(−βρ_l)`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: 2 log 2 where policy = reference; the chosen part is least at `βρ_w = log 2`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> nca_pair(beta=0.1)(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([1.3388])

    Source: arXiv 2402.05369; TRL's `nca_pair`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    return paired(
        nca_pair,
        settings,
        (chosen, rejected),
        lambda scores: beta * log_ratio(scores),
        lambda better, worse: logistic(better) + 0.5 * logistic(-better) + 0.5 * logistic(-worse),
    )


def apo_zero(*, beta: float = 0.1, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Anchored preference optimisation, for chosen responses that are better than the model's own: they gain.

    `L = 1 − σ(βρ_w) + σ(βρ_l)`, reward `βρ`.

    Not accelerated preference optimisation, which is a schedule.

    Args:
        beta: `β > 0`, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: 1 where policy = reference; `L(w, l) + L(l, w) = 2`; twice `kto(baseline="zero")`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> apo_zero()(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.9500])

    Source: arXiv 2408.06266, equation (7); TRL's `apo_zero`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    return paired(
        apo_zero,
        settings,
        (chosen, rejected),
        lambda scores: beta * log_ratio(scores),
        lambda better, worse: torch.sigmoid(-better) + torch.sigmoid(worse),
    )


def apo_down(*, beta: float = 0.1, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Anchored preference optimisation, for chosen responses that are worse than the model's own: both fall.

    `L = σ(βρ_w) + 1 − σ(βΔ)`, reward `βρ`. The rejected response falls more than the chosen one.

    Args:
        beta: `β > 0`, per nat.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: 1 where policy = reference, where the chosen case has no gradient.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> apo_down()(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.9751])

    Source: arXiv 2408.06266, equation (8); TRL's `apo_down`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    return paired(
        apo_down,
        settings,
        (chosen, rejected),
        lambda scores: beta * log_ratio(scores),
        lambda better, worse: torch.sigmoid(better) + torch.sigmoid(worse - better),
    )


def dpop(*, beta: float = 0.3, penalty: float = 50.0, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """DPO-positive (DPOP, Smaug): DPO, with a penalty where the chosen response becomes unlikelier than it was.

    `L = −log σ(β[Δ − λ max(0, −ρ_w)])`, reward `βρ`.

    Args:
        beta: `β > 0`, per nat.
        penalty: `λ ≥ 0`; the paper uses 50 and 5.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: our reading of the paper.

    Identities: log 2 where policy = reference; `dpo` at `λ = 0` and where `ρ_w ≥ 0`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> dpop(beta=0.1)(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.5981])

    Source: arXiv 2402.13228.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, penalty=penalty)
    return paired(
        dpop,
        settings,
        (chosen, rejected),
        lambda scores: beta * log_ratio(scores),
        lambda better, worse: logistic(better - worse - penalty * torch.relu(-better)),
    )


def cal_dpo(
    *, beta: float = 0.001, calibration: float = 0.5, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Calibrated DPO (Cal-DPO): both log-ratios are also drawn to the values that rewards of ±½ would give them.

    `L = −log σ(Δ) + c[(ρ_w − 1/(2β))² + (ρ_l + 1/(2β))²]`, without `β` inside `σ`; reward `βρ`.

    Args:
        beta: `β > 0`, per nat; the targets are `±1/(2β)`, so a larger `β` means a smaller step. Released runs: 0.001
            and 0.002.
        calibration: `c ≥ 0`; 0.5 in the released code, 1 by our reading of the paper.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: `dpo(beta=1)` at `c = 0`; `−log σ(1/β)` at the targets; `dpo(beta=1) + c·sppo(β)`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> cal_dpo(beta=0.5)(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.1269])

    Source: arXiv 2412.14516.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, calibration=calibration)

    def loss(better_P: Tensor, worse_P: Tensor) -> Tensor:
        wanted = square(better_P, 0.5) + square(worse_P, -0.5)
        return logistic((better_P - worse_P) / beta) + calibration * wanted / beta**2

    return paired(cal_dpo, settings, (chosen, rejected), lambda scores: beta * log_ratio(scores), loss)


def sppo(*, beta: float = 0.001, soft: bool = False, chosen: str = "chosen", rejected: str = "rejected") -> Objective:
    """Self-play preference optimisation (SPPO): each log-ratio is drawn to how often its response wins.

    `L = (ρ_w − (P_w − ½)/β)² + (ρ_l − (P_l − ½)/β)²`, reward `βρ`, with the probability `P` that a response is
    preferred to one of the policy's own: 1 and 0, or what a judge says.

    Args:
        beta: `β > 0`, per nat, the inverse of the paper's `η`; a larger `β` means a smaller step.
        soft: read `P` from the column `score` of the two cases instead of 1 and 0.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.
        NeedsError: `soft`, and a score is not a probability; names the records.

    Identities: `1/(2β²)` where policy = reference, 0 at the targets; `soft` with scores 1 and 0 is the same.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> sppo(beta=0.1)(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([32.])

    Source: arXiv 2405.00675, equation (4.7); hard: TRL's `sppo_hard`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected)
    hard = {chosen: 1.0, rejected: 0.0}

    def error(scores: Scores, rho_N: Tensor, role: str) -> Tensor:
        probability = scores.at(role, scores.cases.columns["score"]).to(rho_N.dtype) if soft else hard[role]
        return (scores.at(role, rho_N) - (probability - 0.5) / beta) ** 2

    def compute(scores: Scores, state: State) -> Outcome:
        if soft:
            score_2P = torch.stack([scores.at(role, scores.cases.columns["score"]) for role in hard])
            inside_P = ((score_2P >= 0) & (score_2P <= 1)).all(0)
            check_column(scores.cases, "score", inside_P, "probabilities, from 0 to 1")
        rho_N = log_ratio(scores)
        return Outcome(error(scores, rho_N, chosen) + error(scores, rho_N, rejected), beta * rho_N)

    needs = Needs(frozenset({chosen, rejected}), reference=True, columns=frozenset({"score"} if soft else ()))
    return single(sppo, compute, needs, settings)
