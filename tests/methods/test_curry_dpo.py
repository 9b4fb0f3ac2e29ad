"""The file of Curry-DPO: its stages, builder and worked number (card curry-dpo, arXiv 2403.07230)."""

from __future__ import annotations

import math

import pytest
import torch

from omnipref.build import builder_of
from omnipref.objectives import parse_objective
from omnipref.preferences import ranked
from omnipref.registry import load_method
from omnipref.scores import pair_scores
from omnipref.training.schedules import CurriculumStages
from omnipref.worlds.sentences.curriculum import run


def test_worked_number_and_start_of_every_stage():
    objective = load_method("curry-dpo").objective
    logp = torch.tensor([[1.2], [-0.8]])
    assert objective(pair_scores(*logp, *torch.zeros(2, 1))).loss_P.item() == pytest.approx(0.598139, abs=1e-6)
    assert objective(pair_scores(*logp, *logp)).loss_P.item() == pytest.approx(math.log(2))


def test_builder_and_schedule_speak_of_the_same_stages():
    method = load_method("curry-dpo", {"stages": 2, "mode": "all", "refresh_reference": False})
    assert method.schedule == (CurriculumStages(stages=((0,), (1,)), refresh_reference=False),)
    columns = {f"score/response_{k}": score for k, score in enumerate([5, 4, 3, 1])}
    built = builder_of(method.builders[0])([ranked("q", "abcd", columns=columns)])
    parts = method.schedule[0].parts([one.columns for one in built.preferences])
    assert parts == ((0, 1, 2), (3, 4, 5))
    assert load_method("curry-dpo").schedule == (CurriculumStages(),)


def test_the_claim_trains_with_this_objective():
    default = run.__kwdefaults__["objective"]
    assert str(parse_objective(default)) == str(parse_objective("dpo()")) == str(load_method("curry-dpo").objective)


def test_one_stage_is_plain_dpo_whatever_the_reference():
    arms = {"stage": {"stages": ((0,),), "refresh": True}, "plain": {"stages": ((0,),), "refresh": False}}
    assert run("stage", 0, arms=arms, steps=12) == run("plain", 0, arms=arms, steps=12)
    three = {"follows": {}, "stays": {"refresh": False}}
    follows, stays = (run(arm, 0, arms=three, steps=12) for arm in three)
    assert follows["final"] != stays["final"]


def test_rewards_of_all_stages_add_up_to_those_against_the_first_reference():
    draw = torch.Generator().manual_seed(0)
    stages = [pair_scores(*torch.randn(2, 5, 3, generator=draw, dtype=torch.float64)) for _ in range(4)]
    objective = load_method("curry-dpo").objective

    def rewards(later: int, earlier: int) -> torch.Tensor:
        found = objective(stages[later].with_reference(stages[earlier].logp)).reward_N
        assert found is not None
        return found

    torch.testing.assert_close(rewards(1, 0) + rewards(2, 1) + rewards(3, 2), rewards(3, 0))
