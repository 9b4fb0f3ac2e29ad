"""Sequences from tables: exact scores and truths, arms that differ in one thing, the same numbers for the same seed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from omnipref.errors import ConfigError
from omnipref.objectives import dpo, lipo, plackett_luce, sparse_po, tdpo1
from omnipref.worlds.bandits.policies import Tabular
from omnipref.worlds.sentences import adjectives, answers, curriculum, ranking, trees
from omnipref.worlds.sentences.tables import list_cases, pair_cases, score, value_at

SMALL = {
    ranking: ({"objective": "pro()"}, {"steps": 5}, "final"),
    curriculum: ({"stages": ((0,), (1,))}, {"steps": 6}, "final"),
    trees: ({"objective": "lipo(weights='step_weight')"}, {"steps": 5}, "final"),
    adjectives: ({"objective": "sparse_po(mask='mask', rescale=False, sparsity=0.01)"}, {"steps": 5}, "drift"),
}
ids = {"ids": lambda world: world.__name__.rpartition(".")[2]}


@pytest.mark.parametrize("world", SMALL, **ids)
def test_a_seed_gives_the_same_numbers_and_another_seed_others(world):
    plan, options, metric = SMALL[world]
    numbers = [world.run("arm", seed, arms={"arm": plan}, **options) for seed in (0, 0, 1)]
    assert numbers[0] == numbers[1]
    assert numbers[0][metric] != numbers[2][metric]


@pytest.mark.parametrize("world", SMALL, **ids)
def test_unknown_words_are_named(world):
    plan, options, _ = SMALL[world]
    with pytest.raises(ConfigError, match="no arm `other`"):
        world.run("other", 0, arms={"arm": plan}, **options)
    with pytest.raises(ConfigError, match="`stagess` in the arm `arm`"):
        world.run("arm", 0, arms={"arm": {**plan, "stagess": 1}}, **options)


@pytest.mark.parametrize("world", SMALL, **ids)
def test_training_lowers_nothing_without_updates(world):
    """With no update every policy is the reference, at divergence 0."""
    plan, options, _ = SMALL[world]
    found = world.run("arm", 0, arms={"arm": plan}, **{**options, "steps": 0})
    assert found.get("kl", found.get("final_drift")) == pytest.approx(0, abs=1e-12)


def test_the_place_on_a_path_is_between_its_points():
    path = [(0.0, 1.0), (0.2, 3.0), (0.1, 7.0), (0.4, 5.0)]
    assert value_at(path, 0.1) == pytest.approx(2.0)  # the first time, not the second
    assert value_at(path, 0.2) == pytest.approx(3.0)
    assert value_at(path, 0.3) == pytest.approx(7.0 - 4 / 3)
    assert value_at(path, 0.5) == value_at(path[:1], 0.1) + 4 == 5.0  # never reached: the end


def test_lists_and_pairs_of_the_same_sequences():
    cases = list_cases(torch.tensor([[3.0, 1.0, 3.0], [1.0, 2.0, 5.0]]))
    assert cases.rank_N.tolist() == [0, 2, 0, 2, 1, 0]
    assert {role: rows.tolist() for role, rows in cases.rows.items()} == {
        "response_0": [0, 3],
        "response_1": [1, 4],
        "response_2": [2, 5],
    }
    table_RV = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    uniform_RV = torch.zeros(2, 4).log_softmax(1)
    row_NU, column_NU = torch.tensor([[0, 1]] * 2), torch.tensor([[3, 0], [1, 2]])
    pair = pair_cases(torch.tensor([0, 1]), torch.tensor([1, 0]), 2)
    loss_P = dpo()(score(table_RV, uniform_RV, row_NU, column_NU, pair)).loss_P
    gap = 0.1 * (table_RV[0, 3] + table_RV[1, 0] - table_RV[0, 1] - table_RV[1, 2])
    torch.testing.assert_close(loss_P, torch.nn.functional.softplus(torch.stack([-gap, gap])))
    listed = score(table_RV, uniform_RV, row_NU, column_NU, list_cases(torch.tensor([[1.0, 0.0]])))
    torch.testing.assert_close(plackett_luce()(listed).loss_P, loss_P[:1])


def test_the_reference_of_answers_is_worth_nothing_and_the_best_words_most():
    world = answers.draw_world(3)
    assert world.place(world.reference_XV) == pytest.approx((0.0, 0.0), abs=1e-12)
    best_X = world.worth_XV.argmax(1)
    sure_XV = torch.nn.functional.one_hot(best_X, answers.WORDS).double().clamp(min=1e-300).log()
    kl, reward = world.place(sure_XV)
    assert reward == pytest.approx(3 * world.worth_XV.max(1).values.mean().item())
    assert kl == pytest.approx(-world.reference_XV.gather(1, best_X[:, None]).mean().item())


def test_answers_are_of_their_context_and_are_seen_through_noise():
    world = answers.draw_world(0, answers=40, noise=0.0)
    true_PK = 3 * world.worth_XV[world.context_P[:, None, None], world.words_PKU].mean(2)
    torch.testing.assert_close(world.observed_PK, true_PK)
    noisy = answers.draw_world(0, answers=40, noise=0.7)
    assert not torch.equal(noisy.observed_PK, world.observed_PK)
    first = world.words_PKU[world.context_P == 0].flatten().bincount(minlength=answers.WORDS) / (10 * 40 * 8)
    torch.testing.assert_close(first.double(), world.reference_XV[0].exp(), atol=0.03, rtol=0)
    fewer = answers.draw_world(0, answers=3, noise=0.7)
    torch.testing.assert_close(noisy.words_PKU[:, :3], fewer.words_PKU)


def test_arms_of_ranking_differ_in_what_they_say():
    world = answers.draw_world(1)
    whole, score_PK = ranking.ranked(world, ranking.Arm("pro()"), 0)
    assert (score_PK.diff(dim=1) <= 0).all()
    torch.testing.assert_close(score_PK, world.observed_PK.sort(1, descending=True).values)
    below, same_PK = ranking.ranked(world, ranking.Arm("pro()", shuffled_from=1), 0)
    assert torch.equal(below[:, 0], whole[:, 0]) and torch.equal(same_PK, score_PK)
    assert (below[:, 1:] != whole[:, 1:]).any(2).any(1).float().mean() > 0.9  # all but 1 of 24 orders
    every, _ = ranking.ranked(world, ranking.Arm("pro()", shuffled_from=0), 0)
    assert 0.6 < (every[:, 0] != whole[:, 0]).any(1).float().mean() < 0.95  # 4 of 5 have another on top
    for words in (below, every):
        torch.testing.assert_close(words.flatten(1).sort(1).values, whole.flatten(1).sort(1).values)
    ends, two_PK = ranking.ranked(world, ranking.Arm("dpo()", places=(0, 4)), 0)
    assert torch.equal(ends, whole[:, [0, 4]]) and torch.equal(two_PK, score_PK[:, [0, 4]])
    _, short_PK = ranking.ranked(world, ranking.Arm("pro()", answers=2), 0)
    torch.testing.assert_close(short_PK, world.observed_PK[:, :2].sort(1, descending=True).values)


def test_ratings_go_from_1_to_5_in_tenths():
    found = curriculum.rated(torch.tensor([-9.0, -1.04, 0.0, 0.16, 1.99, 7.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([1.0, 2.0, 3.0, 3.2, 5.0, 5.0])


def test_every_stage_compares_the_best_answer_with_one_other():
    world = answers.draw_world(2, 4)
    rating_PK = curriculum.rated(world.observed_PK).flatten()
    pairs = curriculum.draw_pairs(world, curriculum.Arm(), 0)
    gap_P = rating_PK[pairs.chosen_P] - rating_PK[pairs.rejected_P]
    assert (gap_P > 0).all() and len(gap_P) <= 180
    prompt_P = pairs.chosen_P // 4
    assert torch.equal(prompt_P, pairs.rejected_P // 4)
    stage_P = torch.tensor([row["stage"] for row in pairs.columns])
    for one, other in itertools.pairwise(range(len(gap_P))):
        if prompt_P[one] == prompt_P[other]:
            assert stage_P[other] == stage_P[one] + 1 and gap_P[other] <= gap_P[one]
            assert pairs.chosen_P[one] == pairs.chosen_P[other]
    random = curriculum.draw_pairs(world, curriculum.Arm(shuffled=True), 0)
    assert torch.equal(random.chosen_P, pairs.chosen_P) and torch.equal(random.rejected_P, pairs.rejected_P)
    moved_P = torch.tensor([row["stage"] for row in random.columns])
    assert (moved_P != stage_P).any()
    for one, other in zip(_by_prompt(stage_P, prompt_P), _by_prompt(moved_P, prompt_P), strict=True):
        assert sorted(one) == sorted(other)


def _by_prompt(stage_P: Tensor, prompt_P: Tensor) -> list[list[float]]:
    return [stage_P[prompt_P == p].tolist() for p in range(answers.PROMPTS)]


def test_one_stage_is_one_run_whatever_its_reference():
    arms = {name: {"stages": ((0,),), "refresh": name == "yes"} for name in ("yes", "no")}
    one, other = (curriculum.run(arm, 0, arms=arms, steps=9) for arm in arms)
    assert one == other


def test_a_refreshed_reference_lets_the_policy_go_on():
    arms = {name: {"stages": ((0,), (0,)), "refresh": name == "yes"} for name in ("yes", "no")}
    found = {arm: curriculum.run(arm, 0, arms=arms, steps=120)["kl"] for arm in arms}
    assert found["yes"] > found["no"]


def test_trees_branch_off_the_right_path():
    world = trees.draw_world(0)
    right_PU = world.right_R[world.row_PU]
    assert torch.equal(world.option_PKU[:, 0], right_PU)
    same_PKU = world.option_PKU == right_PU[:, None]
    kept_PK = same_PKU.long().cumprod(2).sum(2)
    assert (kept_PK[:, 1:4].float().mean() - kept_PK[:, 4].float().mean()) > 1  # branches keep 2 steps on average
    torch.testing.assert_close(world.value_PK, same_PKU.double().mean(2), atol=0.25, rtol=0)
    assert (world.value_PK[:, 0] == 1).all() and world.value_PK.min() >= 0
    assert world.row_PU.max() == 29 and world.row_PU[1].tolist() == [5, 6, 7, 8, 9]
    kl, right = world.place(world.reference_RV)
    assert kl == 0 and right == pytest.approx(world.reference_RV.exp()[torch.arange(30), world.right_R].mean().item())


def table(world: trees.Trees) -> Tabular:
    policy = Tabular(world.reference_RV)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(1)
        policy.logits_XA.add_(0.3 * torch.randn(policy.logits_XA.shape, generator=draw, dtype=torch.float64))
    return policy


def test_step_weights_of_trees_are_2_on_what_is_right():
    world = trees.draw_world(0)
    scores = trees.batch(world, trees.Arm("lipo()"), 0)(table(world))
    weight_PKU = scores.extras["step_weight"].reshape(48, 5, 5)
    same_PKU = world.option_PKU == world.right_R[world.row_PU][:, None]
    torch.testing.assert_close(weight_PKU[same_PKU], torch.full_like(weight_PKU[same_PKU], 2.0))
    synonym_PKU = (world.option_PKU // 2 == (world.right_R[world.row_PU] // 2)[:, None]) & ~same_PKU
    assert synonym_PKU.any() and weight_PKU[synonym_PKU].min() > 1.8
    assert weight_PKU[~same_PKU & ~synonym_PKU].mean().item() == pytest.approx(1.0, abs=0.1)


def test_views_of_trees():
    world = trees.draw_world(0)
    policy = table(world)
    listed, every, ends = (
        trees.batch(world, trees.Arm("lipo()", view=view), 0)(policy)
        for view in ("list", "every_two", "first_and_worst")
    )
    value_N = world.value_PK.flatten()
    for some in (every, ends):
        chosen, rejected = (some.cases.rows[role] for role in ("chosen", "rejected"))
        assert (value_N[chosen] > value_N[rejected]).all() and torch.equal(chosen // 5, rejected // 5)
    assert len(ends.cases.record_P) == 48 and len(every.cases.record_P) == int(
        (world.value_PK[:, :, None] > world.value_PK[:, None]).sum()
    )
    assert (value_N[ends.cases.rows["rejected"]] == world.value_PK.min(1).values).all()
    twice = trees.batch(world, trees.Arm("lipo()", weights="twice"), 0)(policy)
    strong, double = lipo(beta=0.5, weights="step_weight"), lipo(beta=1.0)
    torch.testing.assert_close(strong(twice).loss_P, double(listed).loss_P)
    shuffled = trees.batch(world, trees.Arm("lipo()", shuffled=True), 0)(policy)
    column = [some.cases.columns["score"].reshape(48, 5) for some in (listed, shuffled)]
    torch.testing.assert_close(column[0].sort(1).values, column[1].sort(1).values)
    assert (column[0] != column[1]).any(1).float().mean() > 0.8


def test_pairs_of_sentences_differ_in_their_positive_adjectives():
    world = adjectives.draw_world(0)
    positive_NU = (world.word_NU < adjectives.POSITIVE) & (adjectives.row_of_units(80) == adjectives.ADJECTIVE)
    count = positive_NU.sum(1)
    assert len(world.word_NU) == 80 and (count[:40] > count[40:]).all()
    assert adjectives.row_of_units(1).tolist() == [[0, 1, 0, 1, 0, 1]]
    positive, drift = world.place(world.reference_RV)
    assert (positive, drift) == pytest.approx((0.5, 0.0))
    assert world.reference_RV[0].std() > 0.3 and world.reference_RV[1].std() < 1e-12


def networks(value: float) -> dict[str, torch.nn.Linear]:
    """Masks that are this constant."""
    made = {name: adjectives.mask_network(0) for name in adjectives.MASKS}
    for network in made.values():
        torch.nn.init.zeros_(network.weight)
        torch.nn.init.constant_(network.bias, value)
    return made


def test_masks_of_one_are_no_masks_and_divergences_are_exact():
    world = adjectives.draw_world(1)
    policy = Tabular(world.reference_RV)
    with torch.no_grad():
        policy.logits_XA[:, 0] += 0.5
    scores = adjectives.batch(world, adjectives.Arm("dpo()"), policy, networks(1.0), 0)()
    masked = sparse_po(beta=0.8, mask="mask", divergence_mask="divergence_mask", rescale=False)(scores)
    torch.testing.assert_close(masked.loss_P, tdpo1(beta=0.8)(scores).loss_P)
    own_R, ref_R = policy(), world.reference_RV
    kl_R = torch.nn.functional.kl_div(own_R, ref_R, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(scores.extras["kl_ref_policy"][0, :2], kl_R)
    dead = adjectives.batch(world, adjectives.Arm("dpo()"), policy, networks(-1.0), 0)()
    half = sparse_po(mask="mask", rescale=False)(dead).loss_P
    torch.testing.assert_close(half, torch.full_like(half, math.log(2)))


def seen(shuffled: bool) -> Tensor:
    world = adjectives.draw_world(1)
    masks = {name: adjectives.mask_network(3) for name in adjectives.MASKS}
    with torch.no_grad():
        masks["mask"].bias.fill_(5.0)
    plan = adjectives.Arm("dpo()", shuffled=shuffled)
    return adjectives.batch(world, plan, Tabular(world.reference_RV), masks, 0)().extras["mask"]


def test_a_mask_knows_the_state_alone_and_the_control_not_even_that():
    own = seen(False)
    assert own[:, 0::2].unique().numel() == own[:, 1::2].unique().numel() == 1 and own[0, 0] != own[0, 1]
    mixed = seen(True)
    assert mixed.unique().numel() == 2 and 0.4 < (mixed == own).double().mean() < 0.6
