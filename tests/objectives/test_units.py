"""Which units count: shared lengths, heads, decay, and SamPO's draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from objectives.examples import pairs, scored
from torch import Tensor

from omnipref.errors import ConfigError
from omnipref.objectives import box_cox, decayed, drawn_units, head_units, place, sampo, shared_length, tail_weighted
from omnipref.objectives.checks import check_number
from omnipref.scores import Scores

VALUE = torch.tensor([[-1.0, torch.nan, -2.0, -4.0]])
MASK = torch.tensor([[True, False, True, True]])
ZERO = torch.tensor(0)


def test_places_skip_what_the_mask_hides():
    assert place(MASK).tolist() == [[1, 1, 2, 3]]
    assert head_units(MASK, torch.tensor([2])).tolist() == [[True, False, True, False]]
    assert head_units(MASK, torch.tensor([0])).tolist() == [[False] * 4]


def test_reductions_of_unequal_units():
    assert decayed(0.5)(VALUE, MASK).tolist() == [-1 - 1 - 1]
    assert decayed(1.0)(VALUE, MASK).tolist() == [-7]
    head = head_units(MASK, torch.tensor([1]))
    assert tail_weighted(head, 0.25)(VALUE, MASK).tolist() == [-1 - 6 / 4]
    hidden = VALUE.clone().requires_grad_()
    (decayed(0.5)(hidden, MASK) + tail_weighted(head, 0.25)(hidden, MASK)).sum().backward()
    assert hidden.grad is not None and hidden.grad.tolist() == [[2.0, 0.0, 0.75, 0.5]]


def test_shared_length_is_that_of_the_shorter_of_two():
    scores = scored(pairs(8), seed=1)
    length = scores.mask.sum(1)
    shared = shared_length(scores, "chosen", "rejected")
    for p in range(8):
        assert shared[2 * p] == shared[2 * p + 1] == min(length[2 * p], length[2 * p + 1])


def masks(lengths: list[int], width: int = 12) -> Tensor:
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def test_draws_are_subsets_of_the_right_size():
    mask = masks([10, 3, 0, 5])
    kept = drawn_units(mask, torch.tensor([4, 9, 2, 5]), torch.arange(4), ZERO)
    assert (kept <= mask).all()
    assert kept.sum(1).tolist() == [4, 3, 0, 5]


def test_draws_depend_on_record_and_step_alone():
    mask, count = masks([10] * 64), torch.tensor([5] * 64)
    kept = drawn_units(mask, count, torch.arange(64), ZERO)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn_units(mask, count, shuffled, ZERO), kept[shuffled])
    gaps = torch.zeros(64, 20, dtype=torch.bool)
    gaps[:, 1::2] = mask[:, :10]
    assert torch.equal(drawn_units(gaps, count, torch.arange(64), ZERO)[:, 1::2], kept[:, :10])
    other = drawn_units(mask, count, torch.arange(64), torch.tensor(1))
    assert 0.4 < float((kept & other).sum() / kept.sum()) < 0.6  # another step is an independent draw
    assert len({tuple(row) for row in kept.int().tolist()}) > 50  # and another record too


def split_mix(seed: int) -> int:
    """The first output of SplitMix64 in whole numbers, as published: 1234567 gives 6457827717110365317."""
    z = (seed + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_draws_are_those_of_a_published_generator():
    """The same on every machine: units are kept in the order of numbers of SplitMix64, read as signed."""
    assert split_mix(1234567) == 6457827717110365317
    key = split_mix(split_mix(17) + 3)
    numbers = [split_mix(key + place) for place in range(1, 11)]
    signed = [number - 2**64 * (number >= 2**63) for number in numbers]
    expected = [number in sorted(signed)[:4] for number in signed]
    assert drawn_units(masks([10], 10), torch.tensor([4]), torch.tensor([17]), torch.tensor(3)).tolist() == [expected]


def test_draws_are_uniform():
    count = 20_000
    for records, steps in ((torch.arange(count), ZERO), (torch.zeros(count, dtype=torch.long), torch.arange(count))):
        kept = drawn_units(masks([5] * count, 5), torch.tensor([2] * count), records, steps)
        subsets = Counter(map(tuple, kept.int().tolist()))
        assert len(subsets) == 10
        expected = count / 10
        chi_square = sum((n - expected) ** 2 / expected for n in subsets.values())
        assert chi_square < 27.9  # 9 degrees of freedom, 0.1 %


def test_down_sampling_draws_the_same_units_under_policy_and_reference():
    scores = scored(pairs(6), seed=2)
    shifted = scores.with_reference((scores.logp - 0.5) * scores.mask)
    outcome = sampo(beta=1.0)(shifted)
    assert outcome.reward_N is not None
    shared = shared_length(scores, "chosen", "rejected")
    torch.testing.assert_close(outcome.reward_N, 0.5 * shared.double())


def test_down_sampling_draws_anew_and_goes_on_after_resuming():
    objective, scores = sampo(), scored(pairs(6), seed=2)
    state, losses = objective.initial_state(), []
    for _ in range(3):
        outcome = objective(scores, state)
        state = outcome.state
        losses.append(outcome.loss_P)
    assert state["sampo/step"].item() == 3
    assert not torch.allclose(losses[0], losses[1]) and not torch.allclose(losses[1], losses[2])
    resumed = objective(scores, {"sampo/step": torch.tensor(2)})
    assert torch.equal(resumed.loss_P, losses[2])


def test_down_sampling_averages_to_the_expected_margin():
    scores = scored(pairs(2), seed=3, units=8)
    mean = torch.stack([_rewards(scores, step) for step in range(3000)]).mean(0)
    assert scores.ref_logp is not None
    rho = ((scores.logp - scores.ref_logp) * scores.mask).sum(1)
    share = shared_length(scores, "chosen", "rejected") / scores.mask.sum(1)
    assert (share < 1).any()
    torch.testing.assert_close(mean, rho * share, atol=0.06, rtol=0)


def _rewards(scores: Scores, step: int) -> Tensor:
    reward_N = sampo(beta=1.0)(scores, {"sampo/step": torch.tensor(step)}).reward_N
    assert reward_N is not None
    return reward_N


def test_down_sampling_has_the_gradient_of_its_draw():
    scores = scored(pairs(4), seed=5)
    state = {"sampo/step": torch.tensor(3)}

    def loss(logp: Tensor) -> Tensor:
        return sampo()(replace(scores, logp=logp), state).loss_P

    assert torch.autograd.gradcheck(loss, scores.logp.clone().requires_grad_())
    alone = replace(scored(pairs(3)[2:]), logp=scores.logp[4:6], mask=scores.mask[4:6])
    assert scores.ref_logp is not None
    alone = alone.with_reference(scores.ref_logp[4:6])
    torch.testing.assert_close(sampo()(alone, state).loss_P, loss(scores.logp)[2:3])  # neighbours change nothing


def test_down_sampling_in_a_batch_of_reordered_records():
    scores = scored(pairs(4), seed=4)
    late = replace(scores, cases=replace(scores.cases, record_P=scores.cases.record_P + 100))
    assert not torch.allclose(sampo()(scores).loss_P, sampo()(late).loss_P)


@pytest.mark.parametrize("power", [-1.0, -0.3, 1e-9, 0.0, 1.0, 2.0])
def test_power_transform(power: float):
    value = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: box_cox(v, power), value)
    assert box_cox(value, power)[1] == 0
    if abs(power) > 0.1:
        expected = (torch.exp(power * value) - 1) / power
        torch.testing.assert_close(box_cox(value, power), expected)
    else:
        torch.testing.assert_close(box_cox(value, power), value.detach(), atol=1e-8, rtol=0)


def test_closed_intervals():
    check_number(0, 1, closed_high=True, alpha=1.0)
    with pytest.raises(ConfigError, match=r"found alpha=1.5; expected a number in \[0, 1\]"):
        check_number(0, 1, closed_high=True, alpha=1.5)
    with pytest.raises(ConfigError, match=r"found alpha=0; expected a number in \(0, 1\]"):
        check_number(0, 1, open_low=True, closed_high=True, alpha=0)
    with pytest.raises(ConfigError, match=r"found alpha=1; expected a number in \[0, 1\)"):
        check_number(0, 1, alpha=1)
