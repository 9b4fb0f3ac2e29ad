"""Objectives that couple the preferences of a batch: worked numbers, plain loops, states, and who says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import at_reference, card_scores, complete, pairs, ratio_scores, scored, taken, totals
from torch import Tensor

from omnipref.objectives import (
    Objective,
    alpha_dpo,
    aot,
    aot_unpaired,
    apo_zero,
    bco,
    beta_dpo,
    constructors,
    difference,
    dpo,
    dr_dpo,
    drawn,
    kto,
    kto_pair,
    log_ratio,
    logistic,
    sampo,
    simpo,
    spread,
    standardised,
)
from omnipref.scores import Scores
from omnipref.training.checkpoints import read_state, write_state

COUNT = 6
RECORDS = complete(pairs(COUNT))
PAIRS = scored(RECORDS, seed=7)
ALL = [make() for make in constructors().values()]


def rho(scores: Scores = PAIRS) -> tuple[Tensor, Tensor]:
    value_N = totals(scores)[0]
    return scores.at("chosen", value_N), scores.at("rejected", value_N)


def delta(scores: Scores = PAIRS) -> Tensor:
    return rho(scores)[0] - rho(scores)[1]


def slope(objective: Objective, scores: Scores = PAIRS) -> Tensor:
    """Gradient of the mean loss."""
    logp = scores.logp.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(replace(scores, logp=logp)).loss_P.mean(), logp)
    return found


def mean_is_differentiated(objective: Objective, scores: Scores = PAIRS) -> bool:
    """Whether the gradient of the mean loss is the slope of its value, all cases of the batch moved one by one."""

    def value(logp: Tensor) -> Tensor:
        return objective(replace(scores, logp=logp)).loss_P.mean()

    return torch.autograd.gradcheck(value, scores.logp.clone().requires_grad_())


# Card survey-dpo, property 5, as a batch of one pair: rho = 1 and -1, beta 0.1.
FIXTURE = [
    (aot(beta=0.1), 0.598139),  # DPO
    (aot_unpaired(beta=0.1), 0.598139),  # DPO
    (aot(beta=0.1, label_smoothing=0.1), 0.618139),  # DPO with as much smoothing
    (aot_unpaired(beta=0.1, label_smoothing=0.1), 0.618139),  # the same
    (beta_dpo(beta=0.1), 0.598139),  # DPO: the one pair is kept, and is the mean
    (dr_dpo(beta=0.1), 0.598139),  # DPO
    (alpha_dpo(beta=2.0, gamma_over_beta=0.5), 1.501929),  # SimPO(beta 2, gamma 1)
    (kto_pair(beta=0.1), 0.462593),  # (1 / (1 + e^0.1) + 1 / (1 + e^0.2)) / 2: z is 0 and 1
]


@pytest.mark.parametrize(("objective", "expected"), FIXTURE, ids=str)
def test_survey_fixture(objective: Objective, expected: float):
    assert objective(card_scores()).loss_P.item() == pytest.approx(expected, rel=0, abs=5.1e-7)


def test_kto_pair_with_both_reference_points():
    scores = ratio_scores([3.0, 1.0], [-1.0, 2.0])  # z_w = 2, z_l = 0.5
    sigma = [1 / (1 + math.exp(-0.1 * v)) for v in (3 - 0.5, 2 + 1.0, 1 - 0.5, 2 - 2.0)]
    expected = [1 - (sigma[0] + sigma[1]) / 2, 1 - (sigma[2] + sigma[3]) / 2]
    outcome = kto_pair()(scores)
    assert outcome.loss_P.tolist() == pytest.approx(expected)
    found = [outcome.metrics[f"kto_pair/{name}_kl"].item() for name in ("chosen", "rejected")]
    assert found == pytest.approx([2.0, 0.5])


def test_kto_pair_identities():
    below = ratio_scores([-1.0, -3.0], [-2.0, -0.5])  # both means are negative: no reference point
    torch.testing.assert_close(kto_pair()(below).loss_P, apo_zero()(below).loss_P / 2)
    even = ratio_scores([3.0, 1.0], [0.5, 3.5])  # both means are 2, so is the mean of all
    torch.testing.assert_close(kto_pair()(even).loss_P, kto(baseline="batch")(even).loss_P)


def test_kto_pair_holds_its_reference_points_constant():
    scores = ratio_scores([3.0, 1.0], [-1.0, 2.0])
    expected = []
    for role, sign, values, z in (("chosen", 1, (3.0, 1.0), 0.5), ("rejected", -1, (-1.0, 2.0), 2.0)):
        inside = [1 / (1 + math.exp(-0.1 * sign * (v - z))) for v in values]
        expected.append((scores.cases.rows[role], [-sign * 0.1 * s * (1 - s) / 4 for s in inside]))
    found = slope(kto_pair(), scores)[:, 0]
    for rows, values in expected:
        assert found[rows].tolist() == pytest.approx(values)


def test_aot_compares_margins_rank_by_rank():
    # Policy margins 5, 1, 3 and reference margins 0, 4, 2: sorted 1 3 5 and 0 2 4, so 1 apart everywhere.
    policy, ref = (torch.tensor(v, dtype=torch.float64) for v in ([5.0, 1.0, 3.0], [0.0, 4.0, 2.0]))
    zero = torch.zeros_like(policy)
    scores = replace(ratio_scores([0.0] * 3, [0.0] * 3), logp=torch.cat([policy, zero])[:, None])
    scores = replace(scores, ref_logp=torch.cat([ref, zero])[:, None])
    assert aot(beta=0.1)(scores).loss_P.tolist() == pytest.approx([math.log1p(math.exp(-0.1))] * 3)
    ordered = replace(scores, ref_logp=torch.cat([ref.sort().values[[2, 0, 1]], zero])[:, None])
    torch.testing.assert_close(aot(beta=0.1)(ordered).loss_P, dpo(beta=0.1)(ordered).loss_P)


def test_aot_is_its_sorted_formula():
    logp_N = PAIRS.logp.sum(1)
    margin = PAIRS.at("chosen", logp_N) - PAIRS.at("rejected", logp_N)
    gap = margin.sort().values - (margin - delta()).sort().values
    assert aot(beta=0.3)(PAIRS).loss_P.mean().item() == pytest.approx(logistic(0.3 * gap).mean().item())
    gap = rho()[0].sort().values - rho()[1].sort().values
    assert aot_unpaired(beta=0.3)(PAIRS).loss_P.mean().item() == pytest.approx(logistic(0.3 * gap).mean().item())


def test_aot_unpaired_does_not_mind_who_belongs_to_whom():
    other = replace(PAIRS.cases, rows={**PAIRS.cases.rows, "rejected": PAIRS.cases.rows["rejected"].roll(2)})
    moved = replace(PAIRS, cases=other)
    assert not torch.allclose(dpo()(moved).loss_P.mean(), dpo()(PAIRS).loss_P.mean())
    torch.testing.assert_close(aot_unpaired()(moved).loss_P.mean(), aot_unpaired()(PAIRS).loss_P.mean())
    torch.testing.assert_close(slope(aot_unpaired(), moved), slope(aot_unpaired(), PAIRS))


SMOOTHED = [make(beta=0.3, label_smoothing=0.2) for make in (aot, aot_unpaired)]


@pytest.mark.parametrize(
    "objective", [aot(beta=0.3), aot_unpaired(beta=0.3), dr_dpo(beta=0.3, temperature=0.5), *SMOOTHED], ids=str
)
def test_gradient_of_the_mean(objective: Objective):
    assert mean_is_differentiated(objective)


def test_dr_dpo_is_a_soft_minimum():
    losses = logistic(0.1 * delta())
    for temperature in (0.01, 1.0, 100.0):
        expected = -temperature * math.log(sum(math.exp(-v / temperature) for v in losses.tolist()) / COUNT)
        assert dr_dpo(temperature=temperature)(PAIRS).loss_P.tolist() == pytest.approx([expected] * COUNT)
    mean = dpo()(PAIRS).loss_P.mean().item()
    assert dr_dpo(temperature=1e6)(PAIRS).loss_P[0].item() == pytest.approx(mean, rel=1e-5)
    assert dr_dpo(temperature=1e-4)(PAIRS).loss_P[0].item() == pytest.approx(losses.min().item(), abs=1e-3)
    torch.testing.assert_close(slope(dr_dpo(temperature=1e9)), slope(dpo()))


def test_dr_dpo_lets_doubtful_pairs_count_less():
    scores = ratio_scores([5.0, -5.0], [0.0, 0.0])
    ratio = slope(dr_dpo(temperature=0.5), scores) / slope(dpo(), scores)
    weights = [math.exp(-math.log1p(math.exp(-0.1 * v)) / 0.5) for v in (5.0, -5.0)]
    expected = [w / (sum(weights) / 2) for w in weights]
    assert ratio[:2, 0].tolist() == pytest.approx(expected) and expected[0] > 1 > expected[1]


def follow(values: list[float], momentum: float = 0.9) -> float:
    mean = values[0]
    for value in values[1:]:
        mean = momentum * mean + (1 - momentum) * value
    return mean


BATCHES = [scored(RECORDS, seed=seed) for seed in (20, 21, 22)]


def after(objective: Objective, batches: list[Scores] = BATCHES) -> dict[str, Tensor]:
    state = None
    for batch in batches:
        state = objective(batch, state).state
    assert state is not None
    return dict(state)


@pytest.mark.parametrize(("objective", "per_unit"), [(beta_dpo(), False), (alpha_dpo(), True)], ids=str)
def test_running_statistics(objective: Objective, per_unit: bool):
    name = objective.terms[0].name

    def gaps(scores: Scores) -> Tensor:
        value_N, length_N = totals(scores)
        value_N = value_N / length_N if per_unit else value_N
        return scores.at("chosen", value_N) - scores.at("rejected", value_N)

    state = after(objective)
    assert state[f"{name}/mean"].item() == pytest.approx(follow([gaps(b).mean().item() for b in BATCHES]))
    assert state[f"{name}/spread"].item() == pytest.approx(follow([gaps(b).std().item() for b in BATCHES]))
    assert state[f"{name}/count"].item() == 3


def test_beta_dpo_follows_the_pairs_that_are_kept():
    objective = beta_dpo(beta=0.2, alpha=0.05, keep=0.7)  # 4 of 6
    state = after(objective)
    outcome = objective(BATCHES[0], state)
    gap, kept = delta(BATCHES[0]), outcome.loss_P > 0
    assert kept.sum() == 4
    mean = 0.9 * state["beta_dpo/mean"].item() + 0.1 * gap.mean().item()
    beta = 0.2 * (1 + 0.05 * (gap[kept].mean().item() - mean))
    assert outcome.metrics["beta_dpo/beta"].item() == pytest.approx(beta)
    expected = logistic(beta * gap) * kept * 6 / 4
    torch.testing.assert_close(outcome.loss_P, expected)
    torch.testing.assert_close(outcome.loss_P.mean(), logistic(beta * gap[kept]).mean())
    assert outcome.reward_N is not None
    torch.testing.assert_close(outcome.reward_N, beta * totals(BATCHES[0])[0])


def test_beta_dpo_has_the_gradient_of_a_constant_beta_and_choice():
    objective = beta_dpo(beta=0.2, alpha=0.05)
    outcome = objective(PAIRS)
    beta, kept = outcome.metrics["beta_dpo/beta"].item(), outcome.loss_P > 0
    gap, expected = delta(), torch.zeros_like(PAIRS.logp)
    for role, sign in (("chosen", 1), ("rejected", -1)):
        value = -sign * beta * torch.sigmoid(-beta * gap) * kept / kept.sum()
        expected[PAIRS.cases.rows[role]] = value[:, None] * PAIRS.mask[PAIRS.cases.rows[role]]
    torch.testing.assert_close(slope(objective), expected)


def test_beta_dpo_never_turns_round():
    far = ratio_scores([-50.0, 60.0, 70.0], [0.0, 0.0, 0.0])
    objective = beta_dpo(alpha=10.0, keep=1.0)
    low = objective(
        far, {**objective.initial_state(), **{"beta_dpo/mean": torch.tensor(1e6), "beta_dpo/count": torch.tensor(1)}}
    )
    assert low.metrics["beta_dpo/beta"].item() == pytest.approx(1e-3)


def test_beta_dpo_is_dpo_without_its_parts():
    torch.testing.assert_close(beta_dpo(alpha=0.0, keep=1.0)(PAIRS).loss_P, dpo()(PAIRS).loss_P)
    start = beta_dpo()(at_reference(PAIRS)).loss_P
    assert start.mean().item() == pytest.approx(math.log(2)) and start.count_nonzero() == 4


def test_draws_follow_the_weights_and_change_with_the_step():
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0, 0.0])
    draws = [drawn(weights.log(), 1, torch.arange(5), torch.tensor(step)) for step in range(4000)]
    share = torch.stack(draws).float().mean(0)
    torch.testing.assert_close(share, weights / 15, atol=0.02, rtol=0)  # standard error at most 0.008
    two = [drawn(weights.log(), 2, torch.arange(5), torch.tensor(step)) for step in range(4000)]
    # Without replacement: the last comes first or after one of the others, P = Σ_i p_i p_4 / (1 - p_i) + p_4.
    chance = 8 / 15 * (1 + sum(w / (15 - w) for w in (1.0, 2.0, 4.0)))
    assert torch.stack(two).float().mean(0)[3].item() == pytest.approx(chance, abs=0.03)
    assert all(draw.sum() == 2 for draw in two)


def test_draws_do_not_depend_on_the_order_of_the_batch():
    weights, records = torch.rand(20, generator=torch.Generator().manual_seed(0)), torch.arange(20) * 7
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    whole = drawn(weights, 8, records, torch.tensor(3))
    assert torch.equal(drawn(weights[order], 8, records[order], torch.tensor(3)), whole[order])


def test_alpha_dpo_is_simpo_with_a_margin_that_stands_still():
    objective = alpha_dpo(beta=2.0, gamma_over_beta=0.4, alpha=0.3)
    gap_N = log_ratio(PAIRS) / PAIRS.mask.sum(1)
    gap = difference(PAIRS, gap_N, "chosen", "rejected")
    asked = 0.4 + 0.3 * (gap - gap.mean()) / gap.std()
    mean_N = PAIRS.logp.sum(1) / PAIRS.mask.sum(1)
    inside = 2 * (difference(PAIRS, mean_N, "chosen", "rejected") - asked)
    torch.testing.assert_close(objective(PAIRS).loss_P, logistic(inside))
    expected = torch.zeros_like(PAIRS.logp)
    for role, sign in (("chosen", 1), ("rejected", -1)):
        rows = PAIRS.cases.rows[role]
        value = -sign * 2 * torch.sigmoid(-inside) / COUNT
        expected[rows] = (value / PAIRS.mask[rows].sum(1))[:, None] * PAIRS.mask[rows]
    torch.testing.assert_close(slope(objective), expected)


def test_alpha_dpo_is_simpo_without_its_part_and_at_the_start():
    plain = simpo(beta=2.0, gamma=0.8)
    torch.testing.assert_close(alpha_dpo(beta=2.0, gamma_over_beta=0.4, alpha=0.0)(PAIRS).loss_P, plain(PAIRS).loss_P)
    same = at_reference(PAIRS)
    outcome = alpha_dpo(beta=2.0, gamma_over_beta=0.4)(same)
    torch.testing.assert_close(outcome.loss_P, plain(same).loss_P)
    assert torch.isfinite(slope(alpha_dpo(), same)).all()


@pytest.mark.parametrize("objective", [alpha_dpo(), beta_dpo()], ids=str)
def test_a_batch_of_one_leaves_the_spread_alone(objective: Objective):
    name = objective.terms[0].name
    alone = objective(taken(PAIRS, RECORDS, [0]))
    assert alone.loss_P.isfinite().all() and alone.state[f"{name}/spread"].item() == 0
    first = objective(PAIRS, alone.state).state[f"{name}/spread"]
    torch.testing.assert_close(first, objective(PAIRS).state[f"{name}/spread"])  # starts at its first value
    assert (
        objective(taken(PAIRS, RECORDS, [0]), {**alone.state, f"{name}/spread": first}).state[f"{name}/spread"].item()
        == first.item()
    )


def test_spreads_and_standardised_values():
    assert spread(torch.tensor([1.0, 3.0, 8.0])).item() == pytest.approx(torch.tensor([1.0, 3.0, 8.0]).std().item())
    assert spread(torch.tensor([4.0])).item() == 0
    assert standardised(torch.tensor([1.0, 5.0]), torch.tensor(3.0), torch.tensor(0.0)).tolist() == [0.0, 0.0]


WITH_STATE = [o for o in ALL if o.terms[0].state]


@pytest.mark.parametrize("objective", WITH_STATE, ids=str)
def test_a_state_goes_to_disk_and_back(objective: Objective, tmp_path):
    """A run that is continued from a file meets the losses of one that was not interrupted, to the last bit."""
    before = {name: value.float() if value.is_floating_point() else value for name, value in after(objective).items()}
    write_state(tmp_path, before)
    found = read_state(tmp_path)
    assert {name: (value.dtype, value.item()) for name, value in found.items()} == {
        name: (value.dtype, value.item()) for name, value in before.items()
    }
    for batch in BATCHES:
        one, other = objective(batch, before), objective(batch, found)
        assert torch.equal(one.loss_P, other.loss_P)
        before, found = one.state, other.state


@pytest.mark.parametrize("objective", WITH_STATE, ids=str)
def test_a_state_is_read(objective: Objective):
    fresh, later = objective(PAIRS), objective(PAIRS, after(objective))
    assert not torch.equal(fresh.loss_P, later.loss_P)
    assert fresh.state.keys() == later.state.keys() == objective.initial_state().keys()
    assert not any(value.requires_grad for value in later.state.values())


def same_in_halves(objective: Objective, *halves: list[int]) -> bool:
    """Whether the batch computed half after half gives the losses and the state of the whole."""
    whole, state, same = objective(PAIRS), None, True
    for which in halves:
        half = objective(taken(PAIRS, RECORDS, which), state)
        same = same and torch.allclose(half.loss_P, whole.loss_P[which], atol=1e-12, rtol=1e-9)
        state = half.state
    return same and all(torch.allclose(state[name], value) for name, value in whole.state.items())


SETTINGS = [bco(shift=False), bco(), kto(baseline="batch"), sampo()]


@pytest.mark.parametrize("objective", [*ALL, *SETTINGS], ids=str)
def test_coupled_objectives_and_no_others_say_so(objective: Objective):
    halves = ([0, 1, 2], [3, 4, 5]), ([0, 2, 4], [1, 3, 5])
    assert all(same_in_halves(objective, *pair) for pair in halves) != objective.needs.batch


def test_sums_are_coupled_if_a_term_is():
    assert (dpo() + aot()).needs.batch and (dr_dpo() + dpo()).needs.batch
    assert not (dpo() + simpo()).needs.batch
