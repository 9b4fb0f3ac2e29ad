"""Preferences made at every step by the model as it is: on-policy, the same after a kill, errors by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import factories
import pytest
import torch
from training.test_run import losses, rows_of_text, write

from omnipref.cli.main import main
from omnipref.errors import DataError
from omnipref.objectives import dpo, grpo
from omnipref.policies.autoregressive.load import build_policy
from omnipref.preferences import pair
from omnipref.training.online import Online, together


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return factories.save(*factories.llama(), tmp_path_factory.mktemp("online") / "llama")


def online(builder: str, seed: int = 0) -> tuple[Online, torch.nn.Module]:
    model, owner = factories.llama()
    return Online(build_policy(model, owner), owner, [builder], dpo().needs, {"max_new_tokens": 6}, seed=seed), model


RECORDS = [pair(f"What is {i}? ", "two", "a fork", record=i) for i in range(3)]
GROUP = "group(reward=count('e'), n=4)"
JUDGED = "best_vs_worst(reward=-count('a'), n=8)"


def tokens(made: dict) -> list[list[int]]:
    return [part.inputs["target_NU"].tolist() for part in made["parts"]]


def test_samples_follow_seed_step_and_model():
    make, model = online(JUDGED)
    first = tokens(make(model, RECORDS, 0))
    assert tokens(make(model, RECORDS, 0)) == first
    assert tokens(make(model, RECORDS, 1)) != first
    assert tokens(online(JUDGED, seed=1)[0](model, RECORDS, 0)) != first
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    assert tokens(make(model, RECORDS, 0)) != first
    assert together(RECORDS)["record"].tolist() == [0, 1, 2]


def test_sampling_leaves_the_model_in_its_mode():
    make, model = online(JUDGED)
    model.train()
    make(model, RECORDS, 0)
    assert all(module.training for module in model.modules())


def test_judgements_that_never_differ_end_with_the_reason():
    make, model = online("best_vs_worst(reward=-count('nothing says this'), n=2)")
    with pytest.raises(DataError, match=r"no preference in 4 draws from 3 records"):
        make(model, RECORDS, 0)


def words(model: Path, folder: Path, steps: int, *more: str) -> list[str]:
    data = write(folder / "pairs.jsonl", rows_of_text())
    given = ["train", "--model-name-or-path", str(model), "--dataset", str(data), "--output-dir", str(folder / "run")]
    given += ["--per-device-train-batch-size", "4", "--learning-rate", "1e-3", "--logging-steps", "1"]
    given += ["--training-arguments", "use_cpu=true", "--online-sampling", "max_new_tokens=6"]
    return [*given, "--max-steps", str(steps), "--save-steps", "2", "--lr-scheduler-type", "constant", *more]


@pytest.mark.parametrize(
    "method",
    [
        ["--online", "own_samples(n=2)", "--objective", "dpo(beta=0.1) + 0.1 * sampled_kl()"],
        ["--online", JUDGED, "--objective", "dpo(beta=0.1)", "--lora-r", "2", "--max-batch-tokens", "64"],
        ["--online", GROUP, "--objective", "grpo(normalise='batch')", "--max-batch-tokens", "96"],
    ],
    ids=["penalty on own samples", "online dpo", "group relative"],
)
def test_an_interrupted_run_goes_on_to_the_same_numbers(llama, tmp_path, method):
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    assert main(words(llama, tmp_path / "once", 4, *method)) == 0
    assert main(words(llama, tmp_path / "twice", 2, *method)) == 0
    assert main(words(llama, tmp_path / "twice", 4, *method)) == 0
    assert losses(tmp_path / "twice" / "run") == losses(tmp_path / "once" / "run")


def test_group_relative_training_raises_the_reward(llama, tmp_path):
    given = words(llama, tmp_path, 10, "--online", GROUP, "--objective", "grpo(beta=0.01)", "--seed", "1")
    given[given.index("--learning-rate") + 1] = "1e-2"
    assert main(given) == 0
    logged = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    score = [line["grpo/score"] for line in logged if "grpo/score" in line]
    assert len(score) == 10 and sum(score[-3:]) > 1.5 * sum(score[:3])
    assert all(line["grpo/outside"] == 0 for line in logged if "grpo/outside" in line)


def test_equal_samples_are_all_trained_on(llama):
    model, owner = factories.llama()
    sampling = {"max_new_tokens": 3, "top_p": 0.001}  # the likeliest tokens alone
    make = Online(build_policy(model, owner), owner, [GROUP], grpo().needs, sampling)
    (batch,) = make(model, RECORDS, 0)["parts"]
    assert batch.cases.preference_N.bincount().tolist() == [4, 4, 4]
    logp = make.policy.score(model, batch).logp.unflatten(0, (3, 4))
    assert logp.abs().min() > 0
    torch.testing.assert_close(logp, logp[:, :1].expand_as(logp))


def test_prompts_are_enough(llama, tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": f"What is {i}? "} for i in range(8)])
    given = words(llama, tmp_path, 2, "--online", JUDGED)
    given[given.index("--dataset") + 1] = str(prompts)
    assert main(given) == 0
    assert len(losses(tmp_path / "run")) == 2


def test_options_that_have_no_place_are_refused(llama, tmp_path, capsys):
    assert main(words(llama, tmp_path, 2)) == 2
    assert "`online_sampling` is given without `online`" in capsys.readouterr().err


def test_an_unknown_way_of_sampling_is_named(llama, tmp_path, capsys):
    assert main(words(llama, tmp_path, 2, "--online", JUDGED, "--online-sampling", "max_tokens=5")) == 2
    assert "`max_tokens` in `online_sampling`" in capsys.readouterr().err


def test_a_record_over_the_limit_costs_itself_and_not_the_run():
    make, model = online("own_samples(n=1)")
    long = pair("What is " + "one plus " * 30 + "? ", "two", "a fork", record=9)
    fits = max(make.policy.tokens([make.policy.encode(each)]) for each in RECORDS)
    strict = replace(make, policy=replace(make.policy, max_tokens=fits))
    made = strict(model, [*RECORDS, long], 0)
    assert made["record"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="at most"):
        strict(model, [long], 0)
