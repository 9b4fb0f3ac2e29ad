"""Worlds of scorers: scores as the library's scores, and what the cards saw with them."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kendalltau

from omnipref.objectives import dpo, plackett_luce, preference_metrics
from omnipref.registry import load_claim
from omnipref.worlds.scorers import instructions, lists, reasons
from omnipref.worlds.scorers.cases import minimised, scored


def test_bradley_and_terry_on_scores():
    value = {"chosen": torch.tensor([1.3, 0.0]), "rejected": torch.tensor([0.4, 0.0])}
    outcome = dpo(beta=1.0)(scored(value))
    assert outcome.loss_P.tolist() == pytest.approx([0.341154, 0.693147], abs=1e-6)  # card mapl: base .341154
    assert preference_metrics(scored(value), outcome)["rewards/margins"].item() == pytest.approx(0.45)
    assert scored({**value, "rationale": value["chosen"]}).cases.rank_N.tolist() == [0, 0, 1, 1, -1, -1]


def test_updates_follow_the_objective_of_their_time():
    weight = torch.zeros(1, requires_grad=True)
    seen: list[float] = []

    def objective(progress: float):
        seen.append(progress)
        return dpo(beta=1.0)

    optimizer = torch.optim.SGD([weight], lr=1.0)
    made = minimised(lambda: scored({"chosen": weight, "rejected": 0 * weight}), objective, optimizer, 4)
    assert not seen
    assert list(made) == [1, 2, 3, 4] and seen == [0.0, 0.25, 0.5, 0.75]
    by_hand = torch.zeros(1)
    for _ in range(4):
        by_hand = by_hand + torch.sigmoid(-by_hand)
    torch.testing.assert_close(weight.detach(), by_hand)


def test_kendall_is_scipys():
    draw = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 40, generator=draw)
    assert lists.kendall(one, two) == pytest.approx(kendalltau(one.numpy(), two.numpy()).statistic, abs=1e-6)


def test_lists_are_sorted_by_their_labels():
    world = lists.draw_lists(0, noise=0.0)
    truth_LK = world.sorted_LKD @ world.value_D
    assert (truth_LK.diff(dim=1) < 0).all()
    noisy = lists.draw_lists(0, noise=1.0)
    assert (noisy.sorted_LKD @ noisy.value_D).diff(dim=1).gt(0).any()
    torch.testing.assert_close(noisy.fresh_ND, world.fresh_ND)
    truth = world.measure(world.value_D)
    assert truth["tau"] == pytest.approx(1.0) and truth["scale"] == pytest.approx(1.0, abs=0.1)


def test_pairs_are_of_the_lists_and_in_their_order():
    world = lists.draw_lists(0, noise=0.0)
    made = lists._pairs(world.sorted_LKD, seed=1)
    better, worse = (made[role] @ world.value_D for role in ("chosen", "rejected"))
    assert len(better) == 6 * 9 and (better > worse).all()


def test_lists_teach_more_than_pairs():
    arms = load_claim("ranklist").options["arms"]
    tau = {
        arm: sum(lists.run(arm, seed, arms=arms)["tau"] for seed in range(4)) / 4
        for arm in ("skips_to_3", "random_pairs", "clean_skips_to_3")
    }
    assert tau["clean_skips_to_3"] > tau["skips_to_3"] + 0.1 > tau["random_pairs"] + 0.1


def test_plackett_luce_on_scores_is_the_likelihood_of_a_list():
    value = {f"response_{k}": torch.tensor([score]) for k, score in enumerate((0.5, 0.1, -0.2))}
    (loss,) = plackett_luce(beta=1.0)(scored(value, {role: k for k, role in enumerate(value)})).loss_P.tolist()
    strengths = torch.tensor([0.5, 0.1, -0.2]).exp()
    expected = -((strengths[0] / strengths.sum()).log() + (strengths[1] / strengths[1:].sum()).log()).item()
    assert loss == pytest.approx(expected, abs=1e-6)


def test_reasons_are_what_contributes_most():
    pairs = reasons.draw_pairs(4000, 0.8, torch.Generator().manual_seed(0))
    counting_PA = pairs.gap_PA[:, : reasons.COUNTING]
    assert (counting_PA.sum(1) > 0).all()
    assert (counting_PA.gather(1, pairs.reason_P[:, None]) == counting_PA.amax(1, keepdim=True)).all()
    assert (pairs.gap_PA[:, reasons.VERBOSITY] > 0).float().mean().item() == pytest.approx(0.8, abs=0.02)
    weight = torch.tensor([1.0, -0.5, 0.0, 2.0, 0.0, 0.0, 0.0, 0.1])
    scores = pairs.scores(weight)
    torch.testing.assert_close(scores.at("chosen", scores.logp[:, 0]), pairs.gap_PA @ weight)
    first = (pairs.gap_PA[0] * weight).softmax(0)[pairs.reason_P[0]].log()
    torch.testing.assert_close(scores.at("rationale", scores.logp[:, 0])[0], first)


def test_reasons_help_where_pairs_are_few_and_drawn_ones_do_not():
    arms = load_claim("rationales").options["arms"]
    accuracy = {
        arm: sum(reasons.run(arm, seed, arms=arms)["accuracy"] for seed in range(4)) / 4
        for arm in ("reasons", "dpo", "drawn_reasons")
    }
    assert accuracy["reasons"] > accuracy["dpo"] + 0.04 > accuracy["drawn_reasons"]


def test_features_hold_one_cell_per_requirement():
    one = instructions.Responses(torch.tensor([[0.5, 1.0, 2.0, 3.0]]), torch.tensor([[1, 0, 1, 0, 1, 0]]))
    nothing = instructions.NOTHING
    required = torch.tensor([[1, 1, 0, nothing, nothing, 0]])
    features = one.features(required)[0]
    assert features[:10].tolist() == [0.5, 1, 2, 3, 1, 0, 1, 0, 1, 0]
    cells = features[10:].reshape(6, 4)
    assert cells.sum(1).tolist() == [1, 1, 1, 0, 0, 1]
    assert cells.argmax(1)[[0, 1, 2, 5]].tolist() == [3, 2, 1, 0]  # twice the requirement, plus what is there
    assert one.features()[0, 10:].sum() == 0


def test_prompts_are_obeyed_as_they_say():
    draw = torch.Generator().manual_seed(0)
    first, second = (instructions.draw_responses(500, draw) for _ in range(2))
    right, wrong = instructions.two_prompts(first.has_PA, draw)
    asked = right != instructions.NOTHING
    assert (asked == (wrong != instructions.NOTHING)).all()
    assert set(asked.sum(1).tolist()) == {2, 3, 4, 5}
    obeyed = [(side == first.has_PA) & asked for side in (right, wrong)]
    assert (obeyed[0].sum(1) > obeyed[1].sum(1)).all() and (obeyed[0] >= obeyed[1]).all()
    whole = (obeyed[0] == asked).all(1)
    assert (whole | (obeyed[1].sum(1) == 0)).all() and 200 < whole.sum() < 420
    apart = instructions.telling_apart(first, second, draw)
    told = apart != instructions.NOTHING
    assert (apart == first.has_PA)[told].all() and not (apart == second.has_PA)[told].any()
    assert told.sum(1).max() == 3
    assert (told.sum(1) > 0)[(first.has_PA != second.has_PA).any(1)].all()


def test_instructions_are_followed_only_where_they_were_taught():
    arms = load_claim("mapl").options["arms"]
    found = {arm: instructions.run(arm, 0, arms=arms) for arm in ("both", "plain_pairs", "mixed_up")}
    assert found["both"]["following"] > 0.65
    assert found["plain_pairs"]["following"] == pytest.approx(0.5, abs=0.08)
    assert found["mixed_up"]["following"] == pytest.approx(0.5, abs=0.15)
    assert min(one["plain"] for one in found.values()) > 0.9
