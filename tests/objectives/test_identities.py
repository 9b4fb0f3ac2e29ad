"""What must equal what: identities between objectives, symmetries, and invariances of the batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import complete, likes, lists, pairs, scored, taken, totals
from torch import Tensor

from omnipref.errors import NeedsError
from omnipref.objectives import (
    Objective,
    anchor,
    bco,
    constructors,
    dpo,
    gpo,
    hinge,
    ipo,
    kto,
    orpo,
    plackett_luce,
    preference_metrics,
    sft,
    simpo,
)
from omnipref.preferences import Comparison, ranked
from omnipref.scores import Cases, Scores

PAIRS = scored(complete(pairs(6)), seed=7)
ALL = [make() for make in constructors().values()]


def loss(objective: Objective, scores: Scores = PAIRS) -> Tensor:
    return objective(scores).loss_P


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (dpo(beta=0.3), plackett_luce(beta=0.3)),
        (dpo(beta=0.3), gpo(beta=0.3)),
        (dpo(beta=0.3), dpo(beta=0.3, label_smoothing=0.0)),
        (hinge(beta=0.3), gpo(link="hinge", beta=0.3)),
        (ipo(beta=0.3, reduce="total"), 1 / 0.36 * gpo(link="square", beta=0.6)),
        (0.5 * bco(shift=False) + 0.5 * bco(shift=False), bco(shift=False)),
        (1.0 * dpo() + 0.0 * bco() + 0.0 * sft(), dpo()),
        (0.0 * dpo() + 1.0 * bco() + 0.0 * sft(), bco()),
        (0.0 * dpo() + 0.0 * bco() + 1.0 * sft(), sft()),
        (dpo(rejected="mismatched") * 2, 2 * dpo(rejected="mismatched")),
    ],
    ids=str,
)
def test_equal_objectives(left: Objective, right: Objective):
    torch.testing.assert_close(loss(left), loss(right), atol=1e-12, rtol=1e-12)


def test_addition_is_addition_of_losses():
    torch.testing.assert_close(
        loss(0.8 * dpo() + 0.2 * ipo() + sft()), 0.8 * loss(dpo()) + 0.2 * loss(ipo()) + loss(sft())
    )


def swapped(scores: Scores) -> Scores:
    rows = {**scores.cases.rows, "chosen": scores.cases.rows["rejected"], "rejected": scores.cases.rows["chosen"]}
    flipped = torch.where(scores.cases.rank_N >= 0, 1 - scores.cases.rank_N, -1)
    return replace(scores, cases=replace(scores.cases, rows=rows, rank_N=flipped, label_N=-scores.cases.label_N))


def margins() -> Tensor:
    rho, _ = totals(PAIRS)
    return rho[PAIRS.cases.rows["chosen"]] - rho[PAIRS.cases.rows["rejected"]]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_swapping_a_pair_moves_the_loss_by_the_margin(smoothing: float):
    objective = dpo(beta=0.3, label_smoothing=smoothing)
    expected = -(1 - 2 * smoothing) * 0.3 * margins()
    torch.testing.assert_close(loss(objective) - loss(objective, swapped(PAIRS)), expected)


def test_swapping_in_other_objectives():
    torch.testing.assert_close(loss(plackett_luce()) - loss(plackett_luce(), swapped(PAIRS)), -0.1 * margins())
    torch.testing.assert_close(loss(kto()) + loss(kto(), swapped(PAIRS)), torch.ones(6, dtype=torch.float64))
    reward = torch.stack([0.1 * totals(PAIRS)[0][PAIRS.cases.rows[role]] for role in ("chosen", "rejected")])
    delta = 0.1 * totals(PAIRS)[0][PAIRS.cases.label_N != 0].mean()
    torch.testing.assert_close(loss(bco()) - loss(bco(), swapped(PAIRS)), -(reward[0] - delta) + (reward[1] - delta))


def test_simpo_ignores_the_reference_and_starts_at_its_margin():
    same = replace(PAIRS, logp=PAIRS.logp.new_full((), -0.5).expand_as(PAIRS.logp) * PAIRS.mask, ref_logp=None)
    assert loss(simpo(beta=3.0, gamma=0.7), same).tolist() == pytest.approx([math.log1p(math.exp(0.7))] * 6)
    flat = PAIRS.with_reference(-0.5 * PAIRS.mask)
    torch.testing.assert_close(loss(simpo(beta=3.0, gamma=0.0)), loss(dpo(beta=3.0, reduce="mean"), flat))


def test_orpo_is_fine_tuning_plus_log_2_for_equally_likely_responses():
    same = replace(PAIRS, logp=-0.5 * PAIRS.mask.double(), ref_logp=None)
    assert loss(orpo(beta=0.3), same).tolist() == pytest.approx([0.5 + 0.3 * math.log(2)] * 6)


def test_bco_without_shift_on_likes_is_an_anchor():
    scores = scored(likes(True, True, True))
    torch.testing.assert_close(loss(bco(shift=False), scores), loss(anchor("completion"), scores))


def test_kto_of_a_pair_is_the_mean_of_its_two_likes():
    """So the mean over preferences is the mean over cases, as in training on the cases one by one."""
    two = scored(pairs(4), seed=8)
    singles = scored(likes(*[True, False] * 4))
    alone = replace(two, cases=singles.cases)
    objective = kto(baseline="batch")
    torch.testing.assert_close(loss(objective, two).mean(), loss(objective, alone).mean())


def permuted(scores: Scores, order: Tensor) -> Scores:
    """The same preferences in another order, their cases laid out in a random order too."""
    cases = scores.cases
    shuffle = torch.randperm(len(cases.preference_N), generator=torch.Generator().manual_seed(0))
    inverse, place = shuffle.argsort(), order.argsort()
    rows = {role: inverse[index[order]] for role, index in cases.rows.items()}
    columns = {name: v[shuffle] if len(v) > cases.count else v[order] for name, v in cases.columns.items()}
    owner_N = place[cases.preference_N[shuffle]]
    new = Cases(cases.record_P[order], rows, owner_N, cases.rank_N[shuffle], cases.label_N[shuffle], columns)
    assert scores.ref_logp is not None
    extras = {name: value[shuffle] for name, value in scores.extras.items()}
    return Scores(scores.logp[shuffle], scores.mask[shuffle], new, scores.ref_logp[shuffle], extras=extras)


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_order_of_preferences_does_not_matter(objective: Objective):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    outcome = objective(permuted(PAIRS, order))
    torch.testing.assert_close(outcome.loss_P, loss(objective)[order])
    before = preference_metrics(PAIRS, objective(PAIRS))
    assert {k: v.item() for k, v in preference_metrics(permuted(PAIRS, order), outcome).items()} == pytest.approx(
        {k: v.item() for k, v in before.items()}
    )


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_padding_and_what_it_holds_do_not_matter(objective: Objective):
    wide = torch.full((len(PAIRS.logp), 9), torch.nan, dtype=torch.float64)
    mask = torch.zeros(wide.shape, dtype=torch.bool)
    keep = [0, 2, 3, 6, 8]  # the same units with gaps between them
    mask[:, keep] = PAIRS.mask
    logp, ref = wide.clone(), wide.clone()
    assert PAIRS.ref_logp is not None
    logp[mask], ref[mask] = PAIRS.logp[PAIRS.mask], PAIRS.ref_logp[PAIRS.mask]
    extras = {name: wide.index_put((mask,), value[PAIRS.mask]) for name, value in PAIRS.extras.items()}
    padded = Scores(logp.requires_grad_(), mask, PAIRS.cases, ref, extras=extras)
    outcome = objective(padded)
    torch.testing.assert_close(outcome.loss_P.detach(), loss(objective), atol=1e-12, rtol=1e-12)
    outcome.loss_P.sum().backward()
    assert logp.grad is not None and (logp.grad[~mask] == 0).all()


@pytest.mark.parametrize("objective", [o for o in ALL if not o.needs.batch], ids=str)
def test_a_preference_does_not_see_its_neighbours(objective: Objective):
    alone = [loss(objective, taken(PAIRS, complete(pairs(6)), [p])) for p in range(6)]
    torch.testing.assert_close(torch.cat(alone), loss(objective))


@pytest.mark.parametrize("objective", ALL, ids=str)
def test_losses_are_float32_per_preference(objective: Objective):
    assert PAIRS.ref_logp is not None
    for dtype in (torch.float32, torch.bfloat16):
        extras = {name: value.to(dtype) for name, value in PAIRS.extras.items()}
        narrow = replace(PAIRS, logp=PAIRS.logp.to(dtype), ref_logp=PAIRS.ref_logp.to(dtype), extras=extras)
        outcome = objective(narrow)
        assert outcome.loss_P.dtype == torch.float32 and outcome.loss_P.shape == (6,)
        assert outcome.loss_P.isfinite().all()


LISTS = scored(lists(4, 2, 3), seed=9)


def sequential_likelihood(strengths: list[float]) -> float:
    """Draw the ranking one by one from what is left; minus the log-probability."""
    weights = [math.exp(value) for value in strengths]
    return -sum(math.log(weights[k] / sum(weights[k:])) for k in range(len(weights)))


def test_plackett_luce_is_the_likelihood_of_drawing_the_ranking():
    strengths = (0.3 * totals(LISTS)[0]).tolist()
    expected = [sequential_likelihood(part) for part in (strengths[:4], strengths[4:6], strengths[6:])]
    assert loss(plackett_luce(beta=0.3), LISTS).tolist() == pytest.approx(expected)


def test_plackett_luce_of_equal_strengths_and_of_shifted_ones():
    start = loss(plackett_luce(), LISTS.with_reference(LISTS.logp))
    assert start.tolist() == pytest.approx([math.log(24), math.log(2), math.log(6)])
    assert LISTS.ref_logp is not None
    shift = torch.zeros_like(LISTS.logp)
    shift[:, 0] = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)[LISTS.cases.preference_N]
    torch.testing.assert_close(
        loss(plackett_luce(), replace(LISTS, logp=LISTS.logp + shift)), loss(plackett_luce(), LISTS)
    )


def test_tied_cases_are_not_compared_with_each_other():
    tie = ranked("q", ["a", "b", "c"])
    tie = replace(tie, comparisons=(Comparison("response_0", "response_2"), Comparison("response_1", "response_2")))
    scores = scored([tie], seed=10)
    rho = totals(scores)[0]
    expected = sum(math.log1p(math.exp(-0.1 * float(rho[k] - rho[2]))) for k in (0, 1))
    assert loss(plackett_luce(), scores).item() == pytest.approx(expected)


def test_a_list_of_ties_is_refused_with_its_record():
    ties = replace(ranked("q", ["a", "b"], record=7), comparisons=(Comparison("response_0", "response_1", tie=True),))
    with pytest.raises(NeedsError, match=r"records \[7\] without two cases of different rank"):
        plackett_luce()(scored([*lists(3, 3), ties]))


def test_missing_cases_and_labels_are_refused_with_their_records():
    mixed = scored([*pairs(2), *likes(True, True)])
    with pytest.raises(NeedsError, match=r"records \[0, 1\] without a case `chosen`.*`rejected`"):
        dpo()(mixed)
    with pytest.raises(NeedsError, match=r"records \[0, 1\] without a labelled case"):
        bco()(scored([*lists(2, 2), *[replace(p, record=p.record + 5) for p in pairs(1)]]))
    with pytest.raises(NeedsError, match="without mismatched, ref_logp; roles present: chosen, rejected"):
        kto()(replace(scored(pairs(2)), ref_logp=None))
    assert loss(bco(), mixed).shape == (4,)


def test_a_foreign_state_is_refused():
    with pytest.raises(NeedsError, match="bco/count, bco/shift"):
        (dpo() + bco())(PAIRS, {})


def test_states_of_two_terms_stay_apart():
    objective = bco(beta=0.1) + bco(beta=0.2)
    state = objective(PAIRS).state
    assert state["bco_2/shift"].item() == pytest.approx(2 * state["bco/shift"].item())
    assert objective(PAIRS, state).state["bco_2/count"].item() == 2
