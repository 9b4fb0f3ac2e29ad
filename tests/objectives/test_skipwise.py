"""Skip-wise lists: the card's worked numbers (card ranklist), a plain loop, identities, ties, margins and bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import lists, pairs, scored
from torch import Tensor

from omnipref.errors import ConfigError
from omnipref.objectives import parse_objective, progressive_skips, ranklist
from omnipref.preferences import Comparison, ranked
from omnipref.scores import Scores

LISTS = scored(lists(4, 2, 3, 5), seed=9)


def with_values(*values: float, columns: dict[str, float] | None = None) -> Scores:
    """One list with these scores, best first."""
    record = replace(ranked("q", [f"{k}" for k in range(len(values))]), columns=columns or {})
    scores = scored([record], units=1)
    return replace(scores, logp=torch.tensor(values, dtype=torch.float64)[:, None], ref_logp=None)


EXAMPLE = (2.0, 1.2, 0.9, -0.3)
EXACT = {1: 1.188738, 2: 0.488749, 3: 0.095545}
LSE = {1: 0.912821, 2: 0.442119, 3: 0.095545}


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_worked_numbers(skip: int):
    for form, expected in (("exact", EXACT), ("lse", LSE)):
        loss = ranklist(skips=(skip,), form=form)(with_values(*EXAMPLE)).loss_P.item()
        assert loss == pytest.approx(expected[skip], rel=0, abs=5.1e-7)


def test_distances_add_with_their_weights():
    # The card prints 1.354941; its own terms add up to 1.354940.
    assert ranklist(skips=(1, 2))(with_values(*EXAMPLE)).loss_P.item() == pytest.approx(1.354940, abs=2e-6)
    weighted = ranklist(skips=(1, 3), weights=(0.5, 2.0), form="exact")(with_values(*EXAMPLE)).loss_P.item()
    assert weighted == pytest.approx(0.5 * EXACT[1] + 2 * EXACT[3], abs=2e-6)


def test_distances_can_share_one_sum():
    pooled = ranklist(skips=(1, 2), pooled=True)(with_values(*EXAMPLE)).loss_P.item()
    assert pooled == pytest.approx(1.114270, rel=0, abs=5.1e-7)
    exact = {"skips": (1, 2, 4), "form": "exact"}
    torch.testing.assert_close(ranklist(**exact, pooled=True)(LISTS).loss_P, ranklist(**exact)(LISTS).loss_P)
    with pytest.raises(ConfigError, match="pooled=True; expected weights of distances, or one sum"):
        ranklist(skips=(1, 2), weights=(1.0, 2.0), pooled=True)


def test_equal_scores():
    for form, expected in (("exact", 3 * math.log(2)), ("lse", math.log(4))):
        assert ranklist(skips=(1,), form=form)(with_values(*[0.7] * 4)).loss_P.item() == pytest.approx(expected)


@pytest.mark.parametrize("form", ["exact", "lse"])
def test_a_pair_is_ranknet(form: str):
    two = scored(pairs(5), seed=3)
    value_N = two.logp.sum(1)
    gap_P = value_N[two.cases.rows["chosen"]] - value_N[two.cases.rows["rejected"]]
    torch.testing.assert_close(ranklist(form=form)(two).loss_P, torch.nn.functional.softplus(-gap_P))


def by_hand(values: list[float], skips: tuple[int, ...], form: str) -> float:
    total = 0.0
    for skip in skips:
        terms = [math.exp(values[i + skip] - values[i]) for i in range(len(values) - skip)]
        total += {"exact": sum(math.log(1 + term) for term in terms), "lse": math.log(1 + sum(terms))}[form]
    return total


@pytest.mark.parametrize("form", ["exact", "lse"])
@pytest.mark.parametrize("skips", [(1,), (2,), (1, 2, 3), (4, 9)])
def test_lists_of_different_lengths_in_any_order_of_cases(form: str, skips: tuple[int, ...]):
    objective = ranklist(skips=skips, form=form)
    values = LISTS.logp.sum(1).split([4, 2, 3, 5])
    expected = [by_hand(value.tolist(), skips, form) for value in values]
    assert objective(LISTS).loss_P.tolist() == pytest.approx(expected)
    turned = LISTS.cases.rank_N.new_tensor([3, 0, 2, 1, 1, 0, 2, 0, 1, 4, 2, 0, 1, 3])
    shuffled = replace(LISTS, cases=replace(LISTS.cases, rank_N=turned))
    expected = []
    for value, rank in zip(values, turned.split([4, 2, 3, 5]), strict=True):
        expected.append(by_hand(value[rank.argsort()].tolist(), skips, form))
    assert objective(shuffled).loss_P.tolist() == pytest.approx(expected)


def test_the_bounds_of_lse():
    gap = torch.tensor([EXAMPLE[i] - EXAMPLE[i + 1] for i in range(3)])
    worst = torch.nn.functional.softplus(-gap).max().item()
    lse, exact = (ranklist(skips=(1,), form=form)(with_values(*EXAMPLE)).loss_P.item() for form in ("lse", "exact"))
    assert worst < lse < exact


def slope(scores: Scores, **arguments: object) -> Tensor:
    leaf = scores.with_gradient()
    (found,) = torch.autograd.grad(ranklist(**arguments)(leaf).loss_P.sum(), leaf.logp)  # type: ignore[arg-type]
    return found[:, 0]


def test_gradients_sum_to_zero_and_are_bounded_in_lse():
    backwards = with_values(*[10.0 * k for k in range(8)])
    for form in ("lse", "exact"):
        assert slope(backwards, skips=(1,), form=form).sum().item() == pytest.approx(0, abs=1e-12)
        assert slope(with_values(*EXAMPLE), form=form)[0] < 0
    assert slope(backwards, skips=(1,), form="lse").abs().sum() <= 2
    assert slope(backwards, skips=(1,), form="exact").abs().sum() == pytest.approx(2, abs=1e-3)
    wiggle = with_values(0.0, 50.0, 0.0, 50.0, 0.0, 50.0)
    assert slope(wiggle, skips=(1,), form="lse").abs().max() <= 1
    assert slope(wiggle, skips=(1,), form="exact").abs().sum() == pytest.approx(6, abs=1e-6)


def test_finite_differences():
    for form in ("lse", "exact"):

        def loss(logp: Tensor, form: str = form) -> Tensor:
            return ranklist(form=form)(replace(LISTS, logp=logp)).loss_P

        assert torch.autograd.gradcheck(loss, LISTS.logp.clone().requires_grad_())


def test_all_distances_are_all_pairs():
    values = with_values(*EXAMPLE)
    pairs_of = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = sum(math.log1p(math.exp(EXAMPLE[j] - EXAMPLE[i])) for i, j in pairs_of)
    assert ranklist(skips=(1, 2, 3), form="exact")(values).loss_P.item() == pytest.approx(expected)


def test_ties_are_not_compared():
    tie = ranked("q", ["a", "b", "c"])
    tie = replace(tie, comparisons=(Comparison("response_0", "response_2"), Comparison("response_1", "response_2")))
    scores = scored([tie], seed=10)
    value = scores.logp.sum(1).tolist()
    assert ranklist(skips=(1,))(scores).loss_P.item() == pytest.approx(math.log1p(math.exp(value[2] - value[1])))


@pytest.mark.parametrize("form", ["exact", "lse"])
def test_pairs_within_the_margin_are_left_out(form: str):
    columns = {f"score/response_{k}": label for k, label in enumerate((4.0, 3.9, 2.0, 1.8))}
    scores = with_values(*EXAMPLE, columns=columns)
    neighbours = ranklist(skips=(1,), form=form, margin=0.5)
    assert neighbours.needs.columns == {"score"} and not ranklist().needs.columns
    assert neighbours(scores).loss_P.item() == pytest.approx(math.log1p(math.exp(0.9 - 1.2)))
    far = ranklist(skips=(1,), form=form, margin=5.0)(scores.with_gradient())
    assert far.loss_P.item() == 0


def test_huge_violations_do_not_overflow():
    scores = replace(with_values(-3e4, 0.0, 3e4), logp=torch.tensor([[-3e4], [0.0], [3e4]]))
    assert ranklist()(scores).loss_P.item() == pytest.approx(3e4 + math.log(2) + 6e4, rel=1e-5)


def test_distances_come_one_after_the_other():
    assert [progressive_skips(t / 10, most=4) for t in range(7)] == [
        (1,), (1,), (1, 2), (1, 2), (1, 2, 3), (1, 2, 3), (1, 2, 3, 4),
    ]  # fmt: skip
    assert progressive_skips(1.0, most=1) == (1,)
    assert progressive_skips(0.2, most=3, ramp=0.2) == (1, 2, 3)
    with pytest.raises(ConfigError, match=r"found progress=1\.1"):
        progressive_skips(1.1, most=3)


def test_settings_round_trip():
    made = ranklist(skips=(1, 4), form="exact", margin=0.5, weights=(1.0, 0.5))
    assert str(parse_objective(str(made))) == str(made)
