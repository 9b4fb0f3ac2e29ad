"""How much a change of the context changes a preference."""

from __future__ import annotations

from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_ratio
from omnipref.scores import Scores


def wider_margin(
    *,
    beta: float = 0.1,
    condition: str = "instructed",
    detach_base: bool = False,
    chosen: str = "chosen",
    rejected: str = "rejected",
) -> Objective:
    """A preference must be clearer under another context: margin over margin.

    `L = −log σ(β(Δ' − Δ))` with `Δ = ρ_w − ρ_l` under the record's context and `Δ'` of the same two responses under
    the other one, as roles `<chosen>@<condition>` and `<rejected>@<condition>`; no reward of its own.

    Args:
        beta: `β > 0`, per nat.
        condition: what stands behind `@` in the roles of the other context.
        detach_base: hold `Δ` constant, so that it is not lowered to make room.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Identities: log 2 where policy = reference, and without gradient where both contexts are the same; whatever is
        added to both cases of a response, or to both cases of a context, changes nothing.

    Example:
        >>> from omnipref.objectives import wider_margin
        >>> wider_margin(condition="multi").needs.roles == {"chosen", "rejected", "chosen@multi", "rejected@multi"}
        True

    Source: arXiv 2505.12845; the formula is ours, from the abstract.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_roles(chosen=chosen, rejected=rejected, condition=condition)
    other = (f"{chosen}@{condition}", f"{rejected}@{condition}")

    def compute(scores: Scores, state: State) -> Outcome:
        rho_N = log_ratio(scores)
        base_P = difference(scores, rho_N, chosen, rejected)
        base_P = base_P.detach() if detach_base else base_P
        return Outcome(logistic(beta * (difference(scores, rho_N, *other) - base_P)))

    needs = Needs(frozenset({chosen, rejected, *other}), reference=True)
    return single(wider_margin, compute, needs, settings)
