"""Names and values of what is logged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objectives.examples import likes, lists, pairs, ratio_scores, scored, totals, with_negative_image

from omnipref.objectives import Outcome, bco, dpo, kto, plackett_luce, preference_metrics, sft
from omnipref.scores import Scores, pair_scores


def values(scores: Scores, objective) -> dict[str, float]:
    return {name: value.item() for name, value in preference_metrics(scores, objective(scores)).items()}


def test_pairs_under_trl_names():
    scores = ratio_scores([1.0, 2.0, 3.0], [-1.0, 2.0, 4.0])  # right, tied, wrong
    assert values(scores, dpo(beta=0.5)) == pytest.approx(
        {
            "dpo/loss": dpo(beta=0.5)(scores).loss_P.mean().item(),
            "rewards/chosen": 1.0,
            "rewards/rejected": 0.5 * 5 / 3,
            "rewards/accuracies": 0.5,  # (1 + 1/2 + 0) / 3
            "rewards/margins": 0.5 * (2 + 0 - 1) / 3,
            "logps/chosen": -8.0,
            "logps/rejected": -10 + 5 / 3,
            "lengths/chosen": 1.0,
            "lengths/rejected": 1.0,
        }
    )


def test_start_of_training_counts_ties_half():
    assert values(ratio_scores([0.0] * 4, [0.0] * 4), dpo())["rewards/accuracies"] == 0.5


def test_weighted_terms_weigh_rewards():
    found = values(ratio_scores([2.0], [-1.0]), 0.8 * dpo(beta=0.1) + 0.2 * bco(beta=0.1) + sft())
    assert found["rewards/margins"] == pytest.approx(0.3)
    assert found["bco/shift"] == pytest.approx(0.05)
    assert {"dpo/loss", "bco/loss", "sft/loss"} <= found.keys()


def test_conditional_cases_have_their_own_order():
    scores = scored(with_negative_image(pairs(5)), seed=3)
    found = values(scores, dpo() + dpo(rejected="chosen@negative_image"))
    reward = 0.2 * totals(scores)[0]  # two terms of beta 0.1
    chosen, negative = reward[0::3], reward[2::3]
    assert found["rewards/chosen@negative_image"] == pytest.approx(negative.mean().item())
    assert found["rewards/margins/chosen@negative_image"] == pytest.approx((chosen - negative).mean().item())
    assert found["rewards/accuracies/chosen@negative_image"] == pytest.approx(
        (chosen > negative).double().mean().item()
    )
    assert found["rewards/margins"] == pytest.approx((chosen - reward[1::3]).mean().item())
    assert "dpo_2/loss" in found and "logps/chosen@negative_image" in found


def test_lists_over_ordered_pairs_and_top_1():
    scores = scored(lists(3, 2), seed=3)
    rewards = torch.tensor([3.0, 1.0, 2.0, 5.0, 5.0], dtype=torch.float64)
    found = preference_metrics(scores, Outcome(torch.zeros(2), rewards))
    assert found["rewards/accuracies"].item() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["rewards/margins"].item() == pytest.approx(((2 + 1 - 1) / 3 + 0) / 2)
    assert found["rewards/top1"].item() == pytest.approx((1 + 0.5) / 2)
    assert found["rewards/response_2"].item() == 2.0  # only the first list has three
    assert "plackett_luce/loss" in values(scores, plackett_luce())


def test_lists_of_two_agree_with_pairs():
    as_lists, as_pairs = scored(lists(2, 2, 2), seed=4), scored(pairs(3), seed=4)
    one, other = values(as_lists, plackett_luce()), values(as_pairs, plackett_luce())
    for name in ("rewards/accuracies", "rewards/margins"):
        assert one[name] == pytest.approx(other[name])


def test_unpaired_cases_by_label():
    scores = scored(likes(True, False, True), seed=5)
    found = values(scores, kto(baseline="batch"))
    reward = 0.1 * totals(scores)[0]
    assert found["rewards/chosen"] == pytest.approx(((reward[0] + reward[2]) / 2).item())
    assert found["rewards/rejected"] == pytest.approx(reward[1].item())
    assert found["rewards/margins"] == pytest.approx(found["rewards/chosen"] - found["rewards/rejected"])
    assert "rewards/accuracies" not in found and "kto/kl" in found


def test_likes_alone_have_no_margin():
    found = values(scored(likes(True, True)), bco())
    assert "rewards/chosen" in found and not {"rewards/rejected", "rewards/margins"} & found.keys()


def test_without_rewards_only_likelihoods_and_losses():
    scores = replace(scored(pairs(2)), ref_logp=None, extras={})
    told = {f"{kind}/{role}" for kind in ("logps", "lengths") for role in ("chosen", "rejected")}
    assert set(values(scores, sft())) == {"sft/loss", *told}


def test_lengths_and_how_margins_follow_them():
    logp = torch.tensor([[-1.0, -1.0, -1.0], [-2.0, 0.0, 0.0], [-3.0, -1.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    zeros, one = torch.zeros(3, 3), torch.tensor([[True, False, False]]).expand(3, 3)
    scores = pair_scores(logp, zeros, logp - mask.float(), zeros, mask, one)
    found = values(scores, dpo(beta=1.0))  # margins 3, 1, 2; lengths differ by 2, 0, 1
    assert (found["lengths/chosen"], found["lengths/rejected"]) == (2.0, 1.0)
    assert found["length_correlation"] == pytest.approx(1.0)
    against = pair_scores(logp, zeros, logp + mask.float(), zeros, mask, one)
    assert values(against, dpo(beta=1.0))["length_correlation"] == pytest.approx(-1.0)


def test_no_correlation_with_lengths_that_are_all_alike():
    assert "length_correlation" not in values(ratio_scores([1.0, 2.0, 3.0], [-1.0, 2.0, 4.0]), dpo())


def test_entropies_are_sums_over_units():
    scores = pair_scores(torch.zeros(1, 2), torch.zeros(1, 2), mask_chosen=torch.tensor([[True, False]]))
    entropy = torch.tensor([[0.5, 9.0], [1.0, 2.0]])
    found = values(replace(scores, extras={"entropy": entropy}), sft())
    assert (found["entropies/chosen"], found["entropies/rejected"]) == (0.5, 3.0)


def test_metrics_are_detached():
    scores = scored(pairs(2))
    live = replace(scores, logp=scores.logp.clone().requires_grad_())
    assert not any(value.requires_grad for value in preference_metrics(live, dpo()(live)).values())
