"""Worlds of few actions: exact truths, the same numbers for the same seed, and errors by name."""

from __future__ import annotations

import pytest
import torch

from omnipref.errors import CapabilityError, ConfigError
from omnipref.objectives import dpo
from omnipref.worlds.bandits import answers, bins, coverage, demonstrations, noisy_labels, rounds
from omnipref.worlds.bandits.choices import Choices, judged, labelled, score
from omnipref.worlds.bandits.policies import LogLinear, divergence

SMALL = {
    coverage: ({"objective": "dpo(beta=0.1)"}, {"steps": 3}),
    noisy_labels: ({"objective": "dpo(beta=0.2)", "flipped": 0.1}, {"steps": 3}),
    rounds: ({"objective": "dpo(beta=1.0)", "momentum": 0.3, "pairs": 20}, {"steps": 3}),
    bins: ({"objective": "dpo(beta=0.1)", "refresh": 2}, {"steps": 60}),
    answers: ({"objective": "kto(beta=0.1)", "demonstrations": 8, "pairs": 20}, {"steps": 3}),
    demonstrations: ({"objective": "f_sft()", "rate": 0.1}, {"steps": 3}),
}
IDS = [world.__name__.rpartition(".")[2] for world in SMALL]


@pytest.mark.parametrize("world", SMALL, ids=IDS)
def test_a_seed_gives_the_same_numbers_and_another_seed_others(world):
    plan, options = SMALL[world]
    numbers = [world.run("arm", seed, arms={"arm": plan}, **options) for seed in (0, 0, 1)]
    assert numbers[0] == numbers[1]
    assert all(numbers[0][name] != numbers[2][name] for name in numbers[0] if name.startswith("reward"))


@pytest.mark.parametrize("world", SMALL, ids=IDS)
def test_unknown_words_are_named(world):
    plan, options = SMALL[world]
    with pytest.raises(ConfigError, match="no arm `other`"):
        world.run("other", 0, arms={"arm": plan}, **options)
    with pytest.raises(ConfigError, match="`objectives` in the arm `arm`"):
        world.run("arm", 0, arms={"arm": {**plan, "objectives": "dpo()"}}, **options)


def test_scores_of_actions_are_the_log_probabilities():
    logp_XA = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]).log_softmax(1)
    reference_XA = torch.zeros(2, 3).log_softmax(1)
    choices = Choices(torch.tensor([0, 1]), {"chosen": torch.tensor([2, 0]), "rejected": torch.tensor([0, 1])})
    scores = score(logp_XA, reference_XA, choices, {"kl_policy_ref", "tilted@0.5"})
    assert scores.logp[:, 0].tolist() == [logp_XA[0, 2], logp_XA[1, 0], logp_XA[0, 0], logp_XA[1, 1]]
    kl_X = (logp_XA.exp() * (logp_XA - reference_XA)).sum(1)
    torch.testing.assert_close(scores.extras["kl_policy_ref"][:2, 0], kl_X)
    tilted_XA = (1.5 * logp_XA - 0.5 * reference_XA).log_softmax(1)
    torch.testing.assert_close(scores.extras["tilted@0.5"][0, 0], tilted_XA[0, 2])
    assert dpo()(scores).loss_P.shape == (2,)
    with pytest.raises(CapabilityError, match="entropy"):
        score(logp_XA, reference_XA, choices, {"entropi"})


def test_labels_follow_bradley_and_terry():
    reward_XA, many = torch.tensor([[0.0, 1.0]]), torch.zeros(20_000, dtype=torch.long)
    choices = judged(reward_XA, many, many, many + 1, torch.Generator().manual_seed(0))
    assert choices.actions["chosen"].float().mean().item() == pytest.approx(0.731, abs=0.01)  # sigma(1)
    mask_XA = torch.tensor([[1.0, 1.0, 0.0]])
    compared = labelled(torch.zeros(1, 3), 500, torch.Generator().manual_seed(0), mask_XA)
    assert set(compared.actions["chosen"].tolist()) == {0, 1}
    assert (compared.actions["chosen"] != compared.actions["rejected"]).all()


def test_flips_exchange_the_labels_of_their_share():
    compared = labelled(torch.zeros(1, 9), 10_000, torch.Generator().manual_seed(0))
    noisy = noisy_labels.flipped(compared, 0.3, torch.Generator().manual_seed(1))
    exchanged = noisy.actions["chosen"] == compared.actions["rejected"]
    assert exchanged.float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert (noisy.actions["rejected"][exchanged] == compared.actions["chosen"][exchanged]).all()


def test_the_uncovered_actions_of_the_reference_have_their_mass():
    world = coverage.draw_world(0)
    found = world.measure(world.policy()().detach())
    assert found["uncovered"] == pytest.approx(coverage.UNCOVERED_MASS)
    assert found["kl"] == pytest.approx(0, abs=1e-12)
    assert world.choices.actions["chosen"].max() < coverage.COVERED


def test_groups_make_all_pairs_that_differ():
    action_GK = torch.tensor([[0, 0, 1, 2, *[3] * 6]])
    reward_GK = action_GK.double()
    made = bins.pairs(action_GK, reward_GK)
    same = 1 + 15  # two zeros, six threes
    assert len(made.prompt_P) == 45 - same
    assert (made.actions["chosen"] > made.actions["rejected"]).all()
    assert bins.best(action_GK, reward_GK).actions["chosen"].tolist() == [3]
    assert bins.every(action_GK, reward_GK).columns["score"].tolist() == reward_GK[0].tolist()


def test_a_refresh_that_never_comes_is_no_refresh():
    arms = {"never": {"objective": "dpo()", "refresh": 1000}, "none": {"objective": "dpo()"}}
    assert bins.run("never", 0, arms=arms, steps=60) == bins.run("none", 0, arms=arms, steps=60)


def test_momentum_changes_what_is_returned_and_not_the_first_fit():
    arms = {"plain": {"objective": "dpo(beta=1.0)"}, "zero": {"objective": "dpo(beta=1.0)", "momentum": 0.0}}
    assert rounds.run("plain", 0, arms=arms, steps=5) == rounds.run("zero", 0, arms=arms, steps=5)


def test_a_log_linear_policy_starts_at_its_reference():
    policy = LogLinear(torch.randn(2, 3, 4), torch.randn(2, 3))
    assert divergence(policy().detach(), policy.reference_XA) == pytest.approx(0, abs=1e-6)
