"""Tasks with exact judges, and a small transformer that writes as the careless writer does."""

from __future__ import annotations

from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from omnipref.errors import NeedsError
from omnipref.objectives import parse_objective
from omnipref.worlds.texts import tasks
from omnipref.worlds.texts.base import base_folder, tokenizer
from omnipref.worlds.texts.compared import JUDGE_NOISE, RECORDS, TESTS, TextWorld

TASKS = {"dialogue": tasks.dialogue, "arithmetic": tasks.arithmetic}


@pytest.fixture(params=TASKS)
def make(request):
    return TASKS[request.param]


def test_prompts_and_answers_are_made_of_the_tasks_words(make):
    task, draw = make(), Random(0)
    for prompt in tasks.prompts(task, 50, 0):
        assert set(f"{prompt} {task.write(prompt, draw)}".split()) <= set(task.words)
    owner = tokenizer(task)
    text = " ".join(task.words)
    assert owner.decode(owner.encode(text)) == text


def test_prompts_follow_the_seed_and_differ(make):
    task = make()
    assert tasks.prompts(task, 60, 1) == tasks.prompts(task, 60, 1) != tasks.prompts(task, 60, 2)
    assert len(set(tasks.prompts(task, 300, 1))) == 300


def test_a_faultless_dialogue_has_the_largest_reward():
    task, prompt = tasks.dialogue(), "hey tell me of moon and bee :"
    faultless = " ".join([*tasks.FACTS["moon"], *tasks.FACTS["bee"], tasks.THANKS, "."])
    assert task.reward(prompt, faultless) == 6 + 0.5 + 0.5
    for worse in (faultless.removesuffix(" ."), f"um {faultless}", f"cat-one {faultless}", faultless.partition(" ")[2]):
        assert task.reward(prompt, worse) < task.reward(prompt, faultless)
    assert task.reward(prompt, "moon-one moon-one .") == task.reward(prompt, "moon-one ."), "said twice counts once"


def test_a_sum_counts_up_to_its_first_wrong_step():
    task, prompt = tasks.arithmetic(), "3 5 9 4 7 ="
    right = " ".join([*tasks.running_sums(prompt), "."])
    assert task.judge(prompt, right) == {"steps": 1.0, "whole": 1.0}
    assert task.judge(prompt, "8 7 0 8 .") == {"steps": 0.5, "whole": 0.0}
    assert task.judge(prompt, "") == {"steps": 0.0, "whole": 0.0}
    assert task.judge(prompt, "8 7 1 8 8 .") == {"steps": 1.0, "whole": 0.0}


def test_the_careless_writer_is_right_as_often_as_it_says():
    task, draw = tasks.arithmetic(), Random(0)
    first = [task.write(p, draw).split()[0] == tasks.running_sums(p)[0] for p in tasks.prompts(task, 2000, 0)]
    assert sum(first) / len(first) == pytest.approx(tasks.RIGHT + (1 - tasks.RIGHT) / 10, abs=0.03)


def test_the_base_model_writes_like_the_careless_writer(make):
    folder, task, draw = base_folder(make), make(), Random(1)
    assert folder == base_folder(make)
    AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    world = TextWorld(make, 0)
    model = world.start[0]
    found = world.measure(model, model)
    asked = world.asked[RECORDS:]
    written = sum(task.reward(prompt, task.write(prompt, draw)) for prompt in asked) / len(asked)
    best = max(task.reward(asked[0], answer) for answer in _answers(task, asked[0]))
    assert found["kl"] == pytest.approx(0, abs=1e-5)
    assert abs(found["reward"] - written) < 0.12 * best


def _answers(task, prompt):
    draw = Random(2)
    return [task.write(prompt, draw) for _ in range(500)]


def test_records_are_ranked_by_the_true_reward_with_noise(make):
    world = TextWorld(make, 3)
    assert set(world.asked[:RECORDS]).isdisjoint(world.asked[RECORDS:]) and len(world.asked) == RECORDS + TESTS
    noise = []
    for each in world.lists:
        scores = [each.columns[f"score/{role}"] for role in each.cases]
        assert scores == sorted(scores, reverse=True) and len(scores) > 1
        noise += [
            s - world.task.reward(c.context[-1].text, c.text) for s, c in zip(scores, each.cases.values(), strict=True)
        ]
    assert torch.tensor(noise).std().item() == pytest.approx(JUDGE_NOISE, rel=0.15)


@pytest.mark.parametrize(
    "objective", ["dpo(beta=0.1)", "plackett_luce()", "sft('completion')", "kto(baseline='batch')"]
)
def test_pairs_lists_and_single_answers_are_learned_from(objective):
    world = TextWorld(tasks.arithmetic, 0)
    path = dict(world.walk(parse_objective(objective), 0, 12, 3e-4, {12}))
    assert path[12]["kl"] > 0.001
    assert path == dict(world.walk(parse_objective(objective), 0, 12, 3e-4, {12}))


def test_what_the_world_has_not_is_refused():
    world = TextWorld(tasks.arithmetic, 0)
    with pytest.raises(NeedsError, match="mismatched"):
        next(world.walk(parse_objective("kto()"), 0, 1, 1e-4, {1}))
