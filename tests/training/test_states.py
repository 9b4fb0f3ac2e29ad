"""Running statistics of objectives go through checkpoints: a resumed run draws and shifts as if it went on."""

from __future__ import annotations

import torch
from training.test_trainer import losses, make

from omnipref.objectives import alpha_dpo, bco, beta_dpo, epsilon_dpo, sampo

OBJECTIVE = bco() + alpha_dpo() + beta_dpo() + epsilon_dpo(epsilon=0.5) + sampo()


def test_a_resumed_run_goes_on_with_its_statistics_to_the_last_digit(tmp_path):
    whole = make(tmp_path, objective=OBJECTIVE)
    whole.train()
    resumed = make(tmp_path, objective=OBJECTIVE)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(resumed) == losses(whole)
    state, start = whole.objective_state, OBJECTIVE.initial_state()
    assert state.keys() == start.keys() == resumed.objective_state.keys()
    assert all(torch.equal(state[name], resumed.objective_state[name]) for name in state)
    assert all(not torch.equal(state[name].float(), start[name].float()) for name in state)  # every one has moved
    assert state["beta_dpo/count"] == state["alpha_dpo/count"] == state["sampo/step"] == 6


def test_statistics_go_on_where_an_engine_loads_the_weights_itself(tmp_path, monkeypatch):
    whole = make(tmp_path, objective=OBJECTIVE)
    whole.train()
    resumed = make(tmp_path, objective=OBJECTIVE)
    monkeypatch.setattr(type(resumed), "_load_from_checkpoint", lambda *_: None)  # with DeepSpeed it is not called
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert all(torch.equal(value, resumed.objective_state[name]) for name, value in whole.objective_state.items())
