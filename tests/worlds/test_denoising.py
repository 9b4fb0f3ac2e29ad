"""The denoising world: its truth, its base model, and that its arms do what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omnipref.worlds import denoising as world
from omnipref.worlds.denoising_arms import ARMS, as_judged, coin_flip_labels, reversed_labels, run
from omnipref.worlds.train_denoising import save, train

torch.set_num_threads(1)
PERFECT = torch.tensor([[-0.5, 1, -0.5, 0.7, 0, 0, 0.8, 0.8]])


def test_true_reward():
    assert world.true_reward(PERFECT, ["large green"]).item() == pytest.approx(0, abs=1e-12)
    assert world.true_reward(PERFECT, ["small green"]).item() == pytest.approx(-2 * 1.4**2)
    assert world.true_reward(PERFECT, ["large red"]).item() == pytest.approx(-2 * 1.5**2)
    moved = PERFECT + torch.tensor([0, 0, 0, 0, 3, -3, 0, 0])
    assert world.true_reward(moved, ["large green"]).item() == pytest.approx(0, abs=1e-12)
    plain = PERFECT - torch.tensor([0, 0, 0, 0, 0, 0, 0.8, 0.8])
    assert world.true_reward(plain, ["large green"]).item() == pytest.approx(-2 * 0.8**2)
    right = [world.follows_prompt(PERFECT, [prompt]).item() for prompt in world.PROMPTS]
    assert [prompt for prompt, follows in zip(world.PROMPTS, right, strict=True) if follows] == ["large green"]


def test_data_follow_the_prompt_as_often_as_said():
    vectors, prompts = world.sample_data(20_000, torch.Generator().manual_seed(0))
    assert abs(world.follows_prompt(vectors, prompts).float().mean() - 0.7**2) < 0.01
    spread = 0.3 * 4.5 + 3 * 0.15**2 + 2 * (0.3 * 1.4**2 + 0.1**2) + 2 * (0.5**2 + 0.8**2)
    assert abs(world.true_reward(vectors, prompts).mean() + spread) < 0.05


def test_the_base_model_is_the_data():
    weights = sum(file.stat().st_size for file in world.base_model_path().iterdir())
    assert weights < 2**20
    vectors, prompts = world.sample_data(5_000, torch.Generator().manual_seed(0))
    samples = world.sample(world.load(), prompts[:1200], seed=3)
    assert abs(world.follows_prompt(samples, prompts[:1200]).float().mean() - 0.49) < 0.05
    assert (samples.mean(0) - vectors.mean(0)).abs().max() < 0.1
    assert (samples.std(0) - vectors.std(0)).abs().max() < 0.12
    null = world.sample(world.load(), [""] * 300, seed=3)
    assert abs(world.follows_prompt(null, ["large red"] * 300).float().mean() - 1 / 6) < 0.08


def test_training_the_base_is_reproducible_and_learns(tmp_path: Path):
    first, second = (train(steps=40, batch=64) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    save(first, tmp_path / "model")
    save(first, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = world.load(tmp_path / "model")
    torch.testing.assert_close(next(loaded.parameters()), next(first.parameters()))
    untrained = world.measure(world.build_model(0).eval(), 0, n=120)["reward"]
    assert world.measure(loaded, 0, n=120)["reward"] > untrained


def test_pairs_prefer_the_better_as_bradley_and_terry_say():
    pairs = world.preferences(600, seed=0)
    first, second, prompts = world.base_pool(600, 0)
    expected = (world.true_reward(first, prompts) - world.true_reward(second, prompts)).abs().sigmoid().mean()
    gaps = []
    for preference in pairs:
        vectors = [preference.cases[role].response[0].parts[0].value for role in ("chosen", "rejected")]
        rewards = world.true_reward(torch.stack(vectors), [preference.cases["chosen"].context[0].text] * 2)
        gaps.append(float(rewards[0] - rewards[1]))
    assert abs(torch.tensor([gap > 0 for gap in gaps]).float().mean() - expected) < 0.05
    assert [preference.record for preference in pairs] == list(range(600))


def test_relabelling():
    pairs = world.preferences(600, seed=0)
    changed = {
        relabel: sum(a.cases["chosen"] is b.cases["rejected"] for a, b in zip(pairs, relabel(pairs, 0), strict=True))
        for relabel in (as_judged, reversed_labels, coin_flip_labels)
    }
    assert changed[as_judged] == 0
    assert changed[reversed_labels] == 600
    assert abs(changed[coin_flip_labels] / 600 - 0.5) < 0.07


def test_arms_move_the_way_they_should():
    options = {"objective": "dpo(beta=250.0)", "pairs": 600, "batch": 32, "steps": 40, "learning_rate": 3e-4}
    reward = {arm: run(arm, 0, **options)["reward"] for arm in ("base", "method", "reversed_labels")}
    assert reward["method"] > reward["base"] + 0.2
    assert reward["reversed_labels"] < reward["base"] - 0.2
    assert run("method", 0, **options)["reward"] == reward["method"]


def test_the_controls_take_one_part_away():
    assert ARMS["independent_noise"].policy == {"share_noise": False}
    assert ARMS["sft_then_method"].first
    assert ARMS["sft_then_method"].method
    assert ARMS["base"] == type(ARMS["base"])(method=False)
