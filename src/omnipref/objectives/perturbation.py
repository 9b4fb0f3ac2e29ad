"""DPO whose strength follows what a small change of the hold to the reference would do to a pair.

`ρ` is the log-ratio of a case to the reference, `Δ = ρ_w − ρ_l`, `z` logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.objectives.batch import batch_mean
from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_ratio
from omnipref.objectives.reduce import total
from omnipref.objectives.vocabulary import distribution_needs
from omnipref.scores import Scores


def epsilon_dpo(
    *, beta: float = 0.01, epsilon: float = 0.01, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """DPO with a `β` per pair (ε-DPO): held less where a looser hold would order the two better, more where a tighter.

    `L = −log σ(β̃Δ)`, `β̃ = β/(1 + εs)`, reward `β̃ρ`. With `D± = log π±(y_w) − log π±(y_l)` under the logits
    `(1 ± ε) z_θ ∓ ε z_ref` and `D` under the policy: `s = 1` if `D+ > D > D−`, `−1` if `D− > D > D+`, else 0. After
    each batch `β ← β/(1 + ε mean s)`, over the global batch. None of it carries a gradient.

    Not reward distillation (e-DPO).

    Args:
        beta: `β > 0` at the start, per nat; kept as state from then on.
        epsilon: `ε` in [0, 1), how far logits and `β` are moved.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: with gradient accumulation `β` moves after every micro-batch, not after every step of the optimiser.

    Identities: log 2 where policy = reference; `dpo(beta)` at `ε = 0`.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> looser, tighter = torch.tensor([[-11.0], [-15.0]]), torch.tensor([[-13.0], [-15.0]])
        >>> scores = replace(scores, extras={"tilted@0.25": looser, "tilted@-0.25": tighter})
        >>> outcome = epsilon_dpo(beta=0.1, epsilon=0.25)(scores)
        >>> outcome.loss_P, outcome.state["epsilon_dpo/beta"]
        (tensor([0.6163]), tensor(0.0800))

    Source: arXiv 2502.13177 and its released code.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 1, epsilon=epsilon)
    check_roles(chosen=chosen, rejected=rejected)
    looser, tighter = f"tilted@{float(epsilon)}", f"tilted@{-float(epsilon)}"

    def apart(scores: Scores, logp_NU: Tensor) -> Tensor:
        return difference(scores, total(logp_NU, scores.mask), chosen, rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N, now = log_ratio(scores), state["beta"].to(scores.logp.device)
        up_P, at_P, down_P = (apart(scores, v) for v in (scores.extras[looser], scores.logp, scores.extras[tighter]))
        step_P = ((up_P > at_P) & (at_P > down_P)).to(rho_N.dtype) - ((down_P > at_P) & (at_P > up_P)).to(rho_N.dtype)
        beta_P = now / (1 + epsilon * step_P)
        loss_P = logistic(beta_P * difference(scores, rho_N, chosen, rejected))
        average = batch_mean(step_P)
        following = {"beta": (now / (1 + epsilon * average)).to(now.dtype)}
        return Outcome(loss_P, beta_P[scores.cases.preference_N] * rho_N, {"beta": now, "step": average}, following)

    needs = distribution_needs(chosen, rejected, looser, tighter)
    return single(epsilon_dpo, compute, needs, settings, {"beta": torch.tensor(float(beta))})
