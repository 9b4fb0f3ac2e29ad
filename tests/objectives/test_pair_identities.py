"""What the pairwise objectives beyond DPO must equal, where they stop, and what survives equal responses."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from objectives.examples import pairs, ratio_scores, scored, totals, with_columns, with_mismatched
from torch import Tensor

from omnipref.errors import NeedsError
from omnipref.objectives import (
    Objective,
    alphapo,
    anchor,
    apo_down,
    apo_zero,
    bco,
    cal_dpo,
    chi_po,
    constructors,
    cpo,
    debias,
    decayed_dpo,
    discopop,
    dpo,
    dpop,
    exo_pair,
    f_dpo,
    gdpo_geometric,
    gpo,
    hinge,
    ipo,
    kto,
    ld_dpo,
    length_dpo,
    modpo,
    nca_pair,
    npo,
    ns_dpo,
    odpo,
    parse_objective,
    reward_distillation,
    robust_dpo,
    sampo,
    sft,
    simnpo,
    simper,
    simpo,
    slic,
    soft_spo,
    sppo,
    square,
)
from omnipref.scores import Scores, pair_scores

DIGITS = {"rel": 0, "abs": 5.1e-7}
PAIRS = scored(with_mismatched(pairs(6)), seed=7)
EQUAL_LENGTHS = replace(PAIRS, mask=torch.ones_like(PAIRS.mask))
FLAT = PAIRS.with_reference(torch.zeros_like(PAIRS.logp))  # a reference that finds all cases equally likely


def loss(objective: Objective, scores: Scores = PAIRS) -> Tensor:
    return objective(scores).loss_P


def with_column(name: str, value: list[float], scores: Scores = PAIRS) -> Scores:
    columns = {**scores.cases.columns, name: torch.tensor(value)}
    return replace(scores, cases=replace(scores.cases, columns=columns))


def both(objective_of: str) -> tuple[Tensor, Tensor]:
    """The loss of each pair in its own order and in the other."""
    make = constructors()[objective_of]
    return loss(make()), loss(make(chosen="rejected", rejected="chosen"))


SAME: list[tuple[Objective, Objective, Scores]] = [
    (robust_dpo(beta=0.3, flip_rate=0.0), dpo(beta=0.3), PAIRS),
    (f_dpo(beta=0.3), dpo(beta=0.3), PAIRS),
    (f_dpo(divergence="alpha", alpha=1.0, beta=0.3), dpo(beta=0.3), PAIRS),
    (f_dpo(divergence="alpha", alpha=0.0), f_dpo(divergence="forward_kl"), PAIRS),
    (length_dpo(beta=0.3, alpha=0.0), dpo(beta=0.3), PAIRS),
    (length_dpo(beta=0.3, alpha=0.7), dpo(beta=0.3), EQUAL_LENGTHS),
    (ld_dpo(beta=0.3, alpha=1.0), dpo(beta=0.3), PAIRS),
    (ld_dpo(beta=0.3, alpha=0.1), dpo(beta=0.3), EQUAL_LENGTHS),
    (sampo(beta=0.3), dpo(beta=0.3), EQUAL_LENGTHS),
    (decayed_dpo(beta=0.3, gamma=1.0), dpo(beta=0.3), PAIRS),
    (dpop(beta=0.3, penalty=0.0), dpo(beta=0.3), PAIRS),
    (dpop(beta=0.3, penalty=50.0), dpo(beta=0.3), ratio_scores([0.0, 2.0], [1.0, -1.0])),
    (cal_dpo(beta=0.3, calibration=0.0), dpo(beta=1.0), PAIRS),
    (cal_dpo(beta=0.3, calibration=0.7), dpo(beta=1.0) + 0.7 * sppo(beta=0.3), PAIRS),
    (nca_pair(beta=0.3), anchor("chosen", beta=0.3) + 0.075 * npo("chosen", beta=0.3) + 0.075 * npo(beta=0.3), PAIRS),
    (bco(beta=0.3, shift=False), anchor("chosen", beta=0.3) + 0.15 * npo(beta=0.3), PAIRS),
    (apo_zero(beta=0.3), 2 * kto(beta=0.3, baseline="zero"), PAIRS),
    (sppo(beta=0.3, soft=True), sppo(beta=0.3), with_column("score", [1.0, 0.0, 9.0] * 6)),
    (cpo(beta=0.3, alpha=0.7), cpo(beta=0.3, alpha=0.0) + 0.7 * sft(), PAIRS),
    (cpo(beta=0.3, alpha=0.0), dpo(beta=0.3), FLAT),
    (slic(delta=4.0, regularization=0.0), 4.0 * hinge(beta=0.25), FLAT),
    (alphapo(beta=3.0, gamma=0.7, alpha=0.0), simpo(beta=3.0, gamma=0.7), PAIRS),
    (soft_spo(alpha=0.25), 4.0 * cpo(beta=0.25, alpha=0.0), PAIRS),
    (odpo(beta=0.3, alpha=0.0), dpo(beta=0.3), PAIRS),
    (odpo(beta=0.3, alpha=2.0), dpo(beta=0.3), with_column("score", [4.0, 3.0, 0.0] * 6)),
    (odpo(beta=0.3, column="margin"), odpo(beta=0.3), with_column("margin", [2.5, 3.5, 4.5] * 2)),
    (gdpo_geometric(beta=0.3), dpo(beta=0.3), with_column("probability", [1.0] * 6)),
    (gdpo_geometric(beta=0.3), dpo(beta=0.15), with_column("probability", [0.75] * 6)),
    (ns_dpo(beta=0.3, gamma=1.0), dpo(beta=0.3), PAIRS),
    (ns_dpo(beta=0.3, gamma=0.5), 0.25 * dpo(beta=0.3), with_column("age", [2.0] * 6)),
    (modpo(beta=0.3, weight=1.0, columns=(), weights=()), dpo(beta=0.3), PAIRS),
    (modpo(beta=0.3, weight=0.2, weights=(0.5,)), modpo(beta=0.6, weight=0.4, weights=(1.0,)), PAIRS),
    (modpo(beta=0.3, weight=1.0, weights=(0.0,), link="savage"), gpo(link="savage", beta=0.3), PAIRS),
    (reward_distillation(beta=0.3), 0.09 * ipo(beta=0.3, reduce="total"), with_column("score", [2.0, 1.5, 9.0] * 6)),
]


@pytest.mark.parametrize(("left", "right", "scores"), SAME, ids=lambda v: str(v) if isinstance(v, Objective) else "")
def test_equal_objectives(left: Objective, right: Objective, scores: Scores):
    torch.testing.assert_close(loss(left, scores), loss(right, scores), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("left", "right", "error"),
    [
        (f_dpo(divergence="alpha", alpha=1 + 1e-7, beta=0.3), dpo(beta=0.3), 1e-5),
        (f_dpo(divergence="alpha", alpha=1 - 1e-7, beta=0.3), dpo(beta=0.3), 1e-5),
        (alphapo(alpha=1e-7), simpo(), 1e-5),
        (alphapo(alpha=-1e-7), simpo(), 1e-5),
        (discopop(beta=0.3, temperature=1e7), 0.5 * gpo(beta=0.3) + 0.5 * gpo(link="exponential", beta=0.3), 1e-5),
    ],
    ids=str,
)
def test_limits(left: Objective, right: Objective, error: float):
    torch.testing.assert_close(loss(left), loss(right), atol=error, rtol=0)
    assert not torch.equal(loss(left), loss(right))  # the limit, not a special case


def test_chi_po_is_dpo_of_twice_beta_near_the_reference():
    near = PAIRS.with_reference(PAIRS.logp + 1e-4 * torch.linspace(-1, 1, 90).reshape(18, 5) * PAIRS.mask)
    slope = (loss(chi_po(beta=0.3), near) - math.log(2)) / (loss(dpo(beta=0.6), near) - math.log(2))
    torch.testing.assert_close(slope, torch.ones_like(slope), atol=1e-3, rtol=0)


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js", "alpha"])
def test_rewards_of_other_divergences_are_0_at_the_reference(divergence: str):
    reward_N = f_dpo(divergence=divergence)(PAIRS.with_reference(PAIRS.logp)).reward_N
    assert reward_N is not None
    torch.testing.assert_close(reward_N, torch.zeros_like(reward_N))


def test_chi_po_holds_the_margin_on_both_sides():
    scores = ratio_scores([3.0, 0.0, 0.1], [0.0, 3.0, 0.0])
    logp = scores.logp.clone().requires_grad_()
    outcome = chi_po(beta=0.1, clip=0.5)(replace(scores, logp=logp))
    (slope,) = torch.autograd.grad(outcome.loss_P.sum(), logp)
    within = 0.1 * (math.expm1(0.1) + 0.1)
    assert outcome.loss_P.tolist() == pytest.approx([math.log1p(math.exp(-m)) for m in (0.5, -0.5, within)])
    assert slope[:2].tolist() == [[0.0], [0.0]] and slope[2].item() < 0


def test_soft_spo_hardens_into_a_hinge():
    logp_N = PAIRS.logp.sum(1)
    gap = PAIRS.at("rejected", logp_N) - PAIRS.at("chosen", logp_N)
    torch.testing.assert_close(loss(soft_spo(alpha=1e4)), gap.clamp(min=0), atol=1e-4, rtol=0)


def test_simnpo_is_npo_per_unit_under_a_certain_reference():
    one_unit = pair_scores(PAIRS.logp[:4, :1], PAIRS.logp[4:8, :1], torch.zeros(4, 1), torch.zeros(4, 1))
    torch.testing.assert_close(loss(simnpo(beta=0.3), one_unit), loss(npo(beta=0.3), one_unit))


def test_apo_zero_is_twice_kto_with_no_baseline():
    mismatched = PAIRS.cases.rows["mismatched"]
    assert PAIRS.ref_logp is not None
    sunk = replace(PAIRS, logp=PAIRS.logp.index_fill(0, mismatched, -99.0) * PAIRS.mask)
    assert kto()(sunk).metrics["kto/kl"] == 0
    torch.testing.assert_close(loss(apo_zero(), sunk), loss(2 * kto(), sunk))


def test_apo_down_starts_without_a_pull_on_the_chosen_case():
    logp = PAIRS.logp.clone().requires_grad_()
    scores = replace(PAIRS.with_reference(PAIRS.logp), logp=logp)
    (slope,) = torch.autograd.grad(loss(apo_down(), scores).sum(), logp)
    assert slope[scores.cases.rows["chosen"]].abs().max() < 1e-15
    assert (slope[scores.cases.rows["rejected"]][scores.mask[scores.cases.rows["rejected"]]] > 0.02).all()


def test_swapping():
    own, other = both("apo_zero")
    torch.testing.assert_close(own + other, torch.full_like(own, 2.0))
    own, other = both("simper")
    torch.testing.assert_close(own + other, torch.zeros_like(own))
    assert (own.abs() < 1).all() and (own != 0).all()
    for link in (dpo(), gpo(link="savage")):
        assert not torch.allclose(loss(link), loss(simper()))


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_robust_loss_over_flipped_labels_is_the_clean_loss(rate: float):
    own = loss(robust_dpo(beta=0.3, flip_rate=rate))
    flipped = loss(robust_dpo(beta=0.3, flip_rate=rate, chosen="rejected", rejected="chosen"))
    torch.testing.assert_close((1 - rate) * own + rate * flipped, loss(dpo(beta=0.3)), atol=1e-12, rtol=1e-12)


def margin_slope(objective: Objective) -> float:
    """`dL/dρ_w` at margin 2, over `−β`: how hard a pair is pushed."""
    scores = ratio_scores([1.0], [-1.0])
    logp = scores.logp.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(objective, replace(scores, logp=logp)).sum(), logp)
    assert slope[0].item() == pytest.approx(-slope[1].item())
    return -slope[0].item() / 0.1


def test_how_hard_noisy_pairs_are_pushed():
    # Card robust-dpo, property 6, at beta .1 and a margin of 2.
    assert margin_slope(dpo(beta=0.1)) == pytest.approx(0.450166, **DIGITS)
    assert margin_slope(dpo(beta=0.1, label_smoothing=0.1)) == pytest.approx(0.350166, **DIGITS)
    assert margin_slope(robust_dpo(beta=0.1, flip_rate=0.1)) == pytest.approx(0.575166, **DIGITS)


def test_robust_loss_falls_without_bound():
    # Card robust-dpo, property 6: h = 20.
    assert loss(robust_dpo(beta=0.1, flip_rate=0.1), ratio_scores([100.0], [-100.0])).item() == pytest.approx(-2.5)


def test_debiased_square_is_the_square_of_a_larger_target():
    # Card robust-dpo, property 5: target 5 becomes 6.25 at a rate of .1.
    margin = torch.tensor([2.0, 7.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(debias(lambda m: square(m, 5.0), margin, 0.1).sum(), margin)
    assert slope.tolist() == pytest.approx([2 * (2 - 6.25), 2 * (7 - 6.25)])


def test_exo_is_least_at_the_log_odds_of_the_label():
    target = math.log(0.9 / 0.1)
    objective = exo_pair(beta=0.1, label_smoothing=0.1)
    at, below, above = (ratio_scores([10 * target + step], [0.0]) for step in (0.0, -1.0, 1.0))
    assert loss(objective, at).item() == pytest.approx(0.0, abs=1e-15)
    assert loss(objective, below).item() > 1e-4 and loss(objective, above).item() > 1e-4


def test_calibrated_targets():
    at = ratio_scores([5.0], [-5.0])
    assert loss(sppo(beta=0.1), at).item() == pytest.approx(0.0)
    assert loss(cal_dpo(beta=0.1), at).item() == pytest.approx(math.log1p(math.exp(-10.0)))


def test_nca_holds_the_chosen_reward_at_log_2():
    values = [loss(nca_pair(beta=0.1), ratio_scores([10 * r], [0.0])).item() for r in (0.6, math.log(2), 0.8)]
    assert values[1] == min(values)


def test_penalty_where_the_chosen_case_fell():
    # By hand: -log sigma(.1 (-1 + 2 - 5 * 1)) = log(1 + e^.4)
    assert loss(dpop(beta=0.1, penalty=5.0), ratio_scores([-1.0], [-2.0])).item() == pytest.approx(0.913015, **DIGITS)


def test_soft_wins_and_losses():
    # By hand: (1 - (.8 - .5) / .1)^2 + (-1 - (.3 - .5) / .1)^2 = 4 + 1
    scores = with_column("score", [0.8, 0.3], ratio_scores([1.0], [-1.0]))
    assert loss(sppo(beta=0.1, soft=True), scores).item() == pytest.approx(5.0)


def test_multi_objective_numbers():
    # Card modpo: beta .1, w = (.5, .5), rho 1.2 and -.4, rewards .3 and .8.
    scores = with_column("score", [0.3, 0.8], ratio_scores([1.2], [-0.4]))
    assert loss(modpo(), scores).item() == pytest.approx(0.364943, **DIGITS)
    assert loss(modpo(link="hinge"), scores).item() == pytest.approx(0.18)
    logp = scores.logp.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(modpo(), replace(scores, logp=logp)).sum(), logp)
    assert slope.flatten().tolist() == pytest.approx([-0.061153, 0.061153], **DIGITS)
    start = with_column("score", [0.3, 0.8], ratio_scores([0.0], [0.0]))
    assert loss(modpo(), start).item() == pytest.approx(0.474077, **DIGITS)
    shifted = with_column("score", [5.3, 5.8], ratio_scores([1.2], [-0.4]))
    assert loss(modpo(), shifted).item() == pytest.approx(0.364943, abs=1e-6)
    # Lengths 20 and 30 as a penalty of .1 each, a gap of 1.6.
    lengths = with_column("score", [-20.0, -30.0], ratio_scores([1.6], [0.0]))
    assert loss(modpo(weight=1.0, weights=(0.1,)), lengths).item() == pytest.approx(1.198870, **DIGITS)


def test_a_tie_of_scores_asks_for_nothing():
    logp = torch.tensor([[-12.0], [-15.0]], requires_grad=True)
    scores = with_column("score", [2.0, 2.0], pair_scores(logp[:1], logp[1:], logp[:1], logp[1:]))
    outcome = odpo()(scores)
    outcome.loss_P.sum().backward()
    assert outcome.loss_P.item() == 0.0 and logp.grad is not None and logp.grad.tolist() == [[0.0], [0.0]]
    assert loss(odpo(alpha=0.0), scores).item() == pytest.approx(math.log(2))


def test_an_even_label_has_no_gradient():
    logp = PAIRS.logp.clone().requires_grad_()
    scores = replace(with_column("probability", [0.5] * 6), logp=logp)
    outcome = gdpo_geometric()(scores)
    assert outcome.loss_P.tolist() == pytest.approx([math.log(2)] * 6)
    (slope,) = torch.autograd.grad(outcome.loss_P.sum(), logp)
    assert (slope == 0).all()


@pytest.mark.parametrize(
    ("objective", "column", "value", "message"),
    [
        (odpo(), "score", [3.0, 1.0] * 2 + [1.0, 3.0], "score in records [2]; expected `chosen` not to be worse"),
        (odpo(column="margin"), "margin", [1.0, -1.0, float("nan")], "margin in records [1, 2]"),
        (gdpo_geometric(), "probability", [0.5, 1.5, 0.0], "probability in records [1]; expected probabilities"),
        (ns_dpo(), "age", [0.0, 1.0, -1.0], "age in records [2]; expected ages of 0 or more"),
        (sppo(soft=True), "score", [0.5, 7.0] + [0.5] * 4, "score in records [0]; expected probabilities"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_unusable_columns_are_refused_with_their_records(objective: Objective, column: str, value, message: str):
    with pytest.raises(NeedsError, match=re.escape(f"found unusable values of column {message}")):
        objective(with_column(column, value, scored(pairs(3))))


def test_missing_columns_are_refused():
    bare = replace(PAIRS, cases=replace(PAIRS.cases, columns={}))
    for objective in (odpo(), gdpo_geometric(), ns_dpo(), modpo(), reward_distillation(), sppo(soft=True)):
        (column,) = objective.needs.columns
        with pytest.raises(NeedsError, match=f"without column {column}"):
            objective(bare)
    assert reward_distillation(columns=("a", "b")).needs.columns == {"a", "b"}
    assert not sppo().needs.columns


def test_columns_round_trip_as_text():
    for objective in (modpo(columns=("a", "b"), weights=(0.1, 0.2)), reward_distillation(columns=("a",))):
        assert str(parse_objective(str(objective))) == str(objective)


ANCHORED = {"flex_dpo", "cal_dpo", "cpo", "nca_pair", "slic", "sppo", "apo_down", "orpo"}
ALL = [make() for make in constructors().values()]
ALONE = [o for o in ALL if not o.needs.batch] + [sampo()]
TWO = [o for o in ALONE if o.needs.roles == {"chosen", "rejected"} and not o.needs.extras]


@pytest.mark.parametrize("objective", TWO, ids=str)
def test_equal_responses_cancel_unless_something_anchors_them(objective: Objective):
    """One likelihood under both roles, as for a record whose two responses are the same."""
    logp = torch.full((1, 3), -0.7, dtype=torch.float64, requires_grad=True)
    scores = pair_scores(logp, logp, torch.full((1, 3), -1.0), torch.full((1, 3), -1.0))
    given = scored(with_columns(pairs(1)))
    scores = replace(scores, cases=replace(scores.cases, columns=given.cases.columns))
    (slope,) = torch.autograd.grad(objective(scores).loss_P.sum(), logp)
    if objective.terms[0].name in ANCHORED:
        assert slope.abs().min() > 1e-6
    else:
        assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("objective", [cpo(), slic(), alphapo(), simper(), soft_spo(), simnpo()], ids=str)
def test_reference_free_objectives_ask_for_none_and_read_none(objective: Objective):
    assert not objective.needs.reference
    torch.testing.assert_close(loss(objective, replace(PAIRS, ref_logp=None)), loss(objective))


def test_compositions_of_the_survey():
    """Rows that need no constructor: the reference, the data or a sum makes them."""
    # DPO+NLL (IRPO): card rpo-overoptimization, property 6, mean form, eta .2 on the survey's fixture.
    logp, ref = ([torch.full((1, 6), v / 6) for v in pair] for pair in ((-12.0, -15.0), (-13.0, -14.0)))
    fixture = pair_scores(*logp, *ref)
    assert loss(dpo(beta=0.1) + 0.2 * sft(), fixture).item() == pytest.approx(0.998139, abs=1e-6)
    # SPIN: the demonstration is chosen, the previous iterate's own answer rejected, and that iterate the reference.
    demonstrations = scored(with_mismatched(pairs(4)))
    rho = totals(demonstrations)[0]
    own = demonstrations.cases.rows["mismatched"]
    expected = torch.nn.functional.softplus(-0.1 * (rho[demonstrations.cases.rows["chosen"]] - rho[own]))
    torch.testing.assert_close(loss(dpo(beta=0.1, rejected="mismatched"), demonstrations), expected)
    # Behaviour BPO: the reference is the policy that generated the pairs; DPO sees another reference, nothing else.
    behaviour = PAIRS.with_reference(PAIRS.logp.flip(0) * PAIRS.mask)
    rho = totals(behaviour)[0]
    margin = rho[PAIRS.cases.rows["chosen"]] - rho[PAIRS.cases.rows["rejected"]]
    torch.testing.assert_close(loss(dpo(beta=0.1), behaviour), torch.nn.functional.softplus(-0.1 * margin))


DIVERGING = [f_dpo(divergence=name, alpha=2.0) for name in ("forward_kl", "js", "alpha")]


@pytest.mark.parametrize("objective", [*TWO, *DIVERGING, npo(), simnpo()], ids=str)
@pytest.mark.parametrize("far", [-3000.0, 3000.0])
def test_losses_and_gradients_stay_finite_far_from_the_reference(objective: Objective, far: float):
    scores = scored(with_mismatched(pairs(2)))
    assert scores.ref_logp is not None
    logp = scores.logp.float()
    ref = logp.clone()
    ref[scores.cases.rows["chosen"], 0] -= far
    ref[scores.cases.rows["rejected"], 0] += far
    logp.requires_grad_()
    outcome = objective(replace(scores, logp=logp, ref_logp=ref))
    (slope,) = torch.autograd.grad(outcome.loss_P.sum(), logp)
    assert outcome.loss_P.isfinite().all() and slope.isfinite().all()
