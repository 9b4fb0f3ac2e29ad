"""DPO whose two cases are held to the reference with strengths of their own."""

from __future__ import annotations

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import log_ratio
from omnipref.scores import Scores


def flex_dpo(
    *,
    beta_chosen: float = 0.1,
    beta_rejected: float = 0.08,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """DPO with two strengths (Flex-DPO): the rejected case is pushed down less hard than the chosen one is pulled up.

    `L = −log σ(β⁺ρ_w − β⁻ρ_l)`, reward `β⁺ρ` of every case, which compares cases on one scale.

    Args:
        beta_chosen: `β⁺ > 0`, per nat.
        beta_rejected: `β⁻ ≥ 0`, per nat; at 0 the rejected case takes no gradient.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: constants. The paper calls them adaptive and sweeps constants. Two responses that read the same keep a
        gradient, unlike in DPO; drop such pairs.

    Identities: `dpo(beta)` where both strengths are `beta`; log 2 where policy = reference, for any strengths.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> flex_dpo()(pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))).loss_P
        tensor([0.6072])

    Source: arXiv 2406.07327, section on regularisation.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta_chosen=beta_chosen)
    check_number(0, beta_rejected=beta_rejected)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N = log_ratio(scores)
        margin_P = beta_chosen * scores.at(chosen, rho_N) - beta_rejected * scores.at(rejected, rho_N)
        return Outcome(logistic(margin_P), beta_chosen * rho_N)

    return single(flex_dpo, compute, Needs(frozenset({chosen, rejected}), reference=True), settings)
