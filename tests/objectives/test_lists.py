"""Objectives over ranked and scored lists: worked numbers, plain loops, identities, ties and lengths."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import card_scores, lists, pairs, scored, totals
from torch import Tensor

from omnipref.errors import NeedsError
from omnipref.objectives import (
    Objective,
    dpo,
    info_nca,
    lipo,
    nca,
    nca_pair,
    plackett_luce,
    pro,
    rrhf,
    sft,
)
from omnipref.objectives.listwise import ranked_cases
from omnipref.preferences import Comparison, Preference, ranked
from omnipref.scores import Scores

ALL = [
    plackett_luce(),
    rrhf(),
    lipo(),
    lipo(ranks="labels"),
    info_nca(alpha=0.5),
    nca(alpha=0.5),
    pro(),
    pro(temperature=False, weight=0.5, reduce="mean"),
    pro(first_only=True),
]
EVERY = pytest.mark.parametrize("objective", ALL, ids=str)


def with_scores(preferences: list[Preference]) -> list[Preference]:
    """Scores that fall with the place in the list, by uneven steps in [0, 1]."""
    return [
        replace(p, columns={f"score/{role}": 1 / (1 + k + 0.3 * p.record) for k, role in enumerate(p.roles)})
        for p in preferences
    ]


LISTS = scored(with_scores(lists(4, 2, 3)), seed=9)


def parts(value_N: Tensor) -> list[list[float]]:
    return [value_N[:4].tolist(), value_N[4:6].tolist(), value_N[6:].tolist()]


def column(scores: Scores = LISTS) -> Tensor:
    return scores.cases.columns["score"].double()


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (rrhf(), 0.125 + 12),  # means −2 and −1.875 are in the wrong order by 0.125; the best has −12
        (rrhf(weight=0.5), 0.125 + 6),
        (info_nca(beta=0.1), 0.598139),  # card survey-dpo: DPO
        (nca(beta=0.1), 1.338793),  # card survey-dpo: NCA
        (info_nca(beta=0.1, alpha=2.5), 0.598139 + 0.2 / (1 + math.e)),  # label 1 / (1 + e^-1): + (1 - label) 0.2
        (lipo(beta=0.1), (2**3.5 - 2) * (1 / math.log(2) - 1 / math.log(3)) * 0.598139),
    ],
    ids=str,
)
def test_survey_fixture(objective: Objective, expected: float):
    assert objective(card_scores()).loss_P.item() == pytest.approx(expected, abs=5.1e-6)


def test_rrhf_is_its_sum_over_pairs():
    mean_N = LISTS.logp.sum(1) / LISTS.mask.sum(1)
    expected = []
    for means, sums in zip(parts(mean_N), parts(LISTS.logp.sum(1)), strict=True):
        pairs_of = [(i, j) for i in range(len(means)) for j in range(i + 1, len(means))]
        expected.append(sum(max(0.0, means[j] - means[i]) for i, j in pairs_of) - 0.7 * sums[0])
    assert rrhf(weight=0.7)(LISTS).loss_P.tolist() == pytest.approx(expected)
    ordered = replace(LISTS, logp=-(1 + LISTS.cases.rank_N[:, None].double()) * LISTS.mask)
    best = torch.tensor([0, 4, 6])
    torch.testing.assert_close(rrhf()(ordered).loss_P, -ordered.logp.sum(1)[best])
    torch.testing.assert_close(rrhf()(ordered).loss_P, sft("response_0")(ordered).loss_P * ordered.mask.sum(1)[best])


@pytest.mark.parametrize("ranks", ["policy", "labels"])
def test_lipo_is_its_sum_over_pairs(ranks: str):
    beta, expected = 0.3, []
    for rho, psi in zip(parts(totals(LISTS)[0]), parts(column()), strict=True):
        by_policy = [1 + sum(other > own for other in rho) for own in rho]
        place = by_policy if ranks == "policy" else list(range(1, len(rho) + 1))
        expected.append(
            sum(
                abs(2 ** psi[i] - 2 ** psi[j])
                * abs(1 / math.log(1 + place[i]) - 1 / math.log(1 + place[j]))
                * math.log1p(math.exp(-beta * (rho[i] - rho[j])))
                for i in range(len(rho))
                for j in range(i + 1, len(rho))
            )
        )
    assert lipo(beta=beta, ranks=ranks)(LISTS).loss_P.tolist() == pytest.approx(expected, rel=1e-6)


def test_lipo_trains_where_policy_is_reference():
    """All places are equal there; the data's ranks tell them apart, or the loss and its gradient would vanish."""
    same = LISTS.with_reference(LISTS.logp)
    torch.testing.assert_close(lipo()(same).loss_P, lipo(ranks="labels")(same).loss_P)
    assert (lipo()(same).loss_P > 0.01).all()


def test_contrastive_losses_are_their_sums():
    beta, alpha = 0.3, 0.4
    info, plain = [], []
    for rho, score in zip(parts(totals(LISTS)[0]), parts(column()), strict=True):
        weights, model = (
            [math.exp(v) for v in values] for values in ([r / alpha for r in score], [beta * r for r in rho])
        )
        share = [w / sum(weights) for w in weights]
        info.append(-sum(q * math.log(m / sum(model)) for q, m in zip(share, model, strict=True)))
        plain.append(sum(q * math.log1p(1 / m) + math.log1p(m) / len(rho) for q, m in zip(share, model, strict=True)))
    assert info_nca(beta=beta, alpha=alpha)(LISTS).loss_P.tolist() == pytest.approx(info, rel=1e-6)
    assert nca(beta=beta, alpha=alpha)(LISTS).loss_P.tolist() == pytest.approx(plain, rel=1e-6)


def test_on_pairs():
    two = scored(pairs(5), seed=3)
    unit = replace(two.cases, columns={"score": (two.cases.label_N > 0).double()})
    two = replace(two, cases=unit)
    weight = 1 / math.log(2) - 1 / math.log(3)
    for left, right in [
        (info_nca(beta=0.3), dpo(beta=0.3)),
        (nca(beta=0.3), nca_pair(beta=0.3)),
        (lipo(beta=0.3), weight * dpo(beta=0.3)),
        (plackett_luce(beta=0.3), dpo(beta=0.3)),
    ]:
        torch.testing.assert_close(left(two).loss_P, right(two).loss_P)


def test_where_policy_is_reference():
    same = LISTS.with_reference(LISTS.logp)
    assert info_nca()(same).loss_P.tolist() == pytest.approx([math.log(4), math.log(2), math.log(3)])
    assert nca()(same).loss_P.tolist() == pytest.approx([2 * math.log(2)] * 3)


@pytest.mark.parametrize("objective", [plackett_luce(), lipo(), info_nca(alpha=0.5)], ids=str)
def test_a_constant_on_all_log_ratios_of_a_list_changes_nothing(objective: Objective):
    shift = torch.zeros_like(LISTS.logp)
    shift[:, 0] = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)[LISTS.cases.preference_N]
    torch.testing.assert_close(objective(replace(LISTS, logp=LISTS.logp + shift)).loss_P, objective(LISTS).loss_P)


@EVERY
def test_finite_differences(objective: Objective):
    def loss(logp: Tensor) -> Tensor:
        return objective(replace(LISTS, logp=logp)).loss_P

    assert torch.autograd.gradcheck(loss, LISTS.logp.clone().requires_grad_())


def tied(record: int) -> Preference:
    """Two equally good over one, then two equally bad."""
    roles = [f"response_{k}" for k in range(5)]
    better = [(0, 2), (1, 2), (2, 3), (2, 4)]
    comparisons = [Comparison(roles[i], roles[j]) for i, j in better]
    ties = [Comparison(roles[i], roles[j], tie=True) for i, j in ((0, 1), (3, 4))]
    scores = {f"score/{role}": value for role, value in zip(roles, (0.9, 0.9, 0.5, 0.1, 0.1), strict=True)}
    made = ranked("q", roles, record=record)
    return replace(made, comparisons=(*comparisons, *ties), columns=scores)


@EVERY
def test_order_of_candidates_does_not_matter(objective: Objective):
    scores = scored([tied(0), *with_scores(lists(3))], seed=4)
    assert scores.cases.rank_N[:5].tolist() == [0, 0, 1, 2, 2]
    order = torch.tensor([3, 1, 4, 0, 2, 6, 5, 7])
    assert scores.ref_logp is not None
    cases = replace(
        scores.cases,
        rank_N=scores.cases.rank_N[order],
        preference_N=scores.cases.preference_N[order],
        columns={"score": scores.cases.columns["score"][order]},
    )
    moved = Scores(scores.logp[order], scores.mask[order], cases, scores.ref_logp[order])
    torch.testing.assert_close(objective(moved).loss_P, objective(scores).loss_P)
    same = [objective(one.with_reference(one.logp)).loss_P for one in (scores, moved)]  # all places are equal here
    torch.testing.assert_close(*same)


@EVERY
def test_ties_share_a_rank(objective: Objective):
    """Exchanging two tied cases changes nothing: neither is preferred."""
    scores = scored([tied(0)], seed=4)
    exchange = torch.tensor([1, 0, 2, 4, 3])
    assert scores.ref_logp is not None
    moved = replace(scores, logp=scores.logp[exchange], ref_logp=scores.ref_logp[exchange], mask=scores.mask[exchange])
    torch.testing.assert_close(objective(moved).loss_P, objective(scores).loss_P)


@EVERY
def test_lists_in_a_batch_do_not_see_each_other(objective: Objective):
    assert not objective.needs.batch
    assert LISTS.ref_logp is not None
    alone = []
    for p, rows in enumerate((slice(0, 4), slice(4, 6), slice(6, 9))):
        cases = scored(with_scores(lists(4, 2, 3))[p : p + 1]).cases
        alone.append(objective(Scores(LISTS.logp[rows], LISTS.mask[rows], cases, LISTS.ref_logp[rows])).loss_P)
    torch.testing.assert_close(torch.cat(alone), objective(LISTS).loss_P)


@EVERY
def test_unranked_cases_take_no_part(objective: Objective):
    three = with_scores(lists(3))[0]
    more = replace(three, comparisons=three.comparisons[:1])  # response_2 is compared with nothing
    scores = scored([more], seed=6)
    assert scores.cases.rank_N.tolist() == [0, 1, -1]
    assert scores.ref_logp is not None
    two = scored(with_scores(lists(2)), seed=6).cases
    fewer = Scores(
        scores.logp[:2],
        scores.mask[:2],
        replace(two, columns={"score": scores.cases.columns["score"][:2]}),
        scores.ref_logp[:2],
    )
    torch.testing.assert_close(objective(scores).loss_P, objective(fewer).loss_P)


@EVERY
def test_lists_of_one_and_of_ties_are_refused_with_their_record(objective: Objective):
    ties = replace(ranked("q", ["a", "b"], record=7), comparisons=(Comparison("response_0", "response_1", tie=True),))
    for bad in (ties, ranked("q", ["a"], record=7)):
        with pytest.raises(NeedsError, match=r"records \[7\] without two cases of different rank"):
            objective(scored([*with_scores(lists(3, 3)), *with_scores([bad])]))


def test_a_list_objective_that_reads_scores_refuses_data_without():
    bare = scored(lists(3))
    bare = replace(bare, cases=replace(bare.cases, columns={}))
    for objective in (lipo(), info_nca(), nca()):
        with pytest.raises(NeedsError, match="without column score"):
            objective(bare)


def test_ranked_cases_are_found_wherever_they_stand():
    cases = LISTS.cases
    index_PK, present_PK = ranked_cases(cases)
    assert index_PK.tolist() == [[0, 1, 2, 3], [4, 5, 0, 0], [6, 7, 8, 0]]
    assert present_PK.sum(1).tolist() == [4, 2, 3]
