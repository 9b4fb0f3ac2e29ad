"""The trainer: metrics, exact resuming, equal losses for equal batches, and what stops it."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import factories
import pytest
import torch
from transformers import TrainingArguments, set_seed

from omnipref.errors import NonFiniteError, OmniprefError
from omnipref.objectives import bco, dpo, sft
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import pair
from omnipref.training import PreferenceTrainer, checkpoint_to_resume, prepare

RECORDS = [pair(f"What is {i}? ", f"two {i}", "three cups", record=i) for i in range(24)]


def make(folder: Path, *, objective=None, records=RECORDS, batch=4, accumulate=1, steps=6, layout="forest", **more):
    model, owner = factories.llama()
    set_seed(0)
    policy = build_policy(model, owner, layout)
    objective = objective or 0.8 * dpo() + 0.2 * bco() + sft()
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        logging_steps=1,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        **{"save_steps": 2, **more},
    )
    return PreferenceTrainer(
        model=model,
        args=arguments,
        policy=policy,
        objective=objective,
        reference=frozen_copy(model),
        train_dataset=prepare(policy, records, objective.needs, folder / "aside.jsonl", progress=False),
        processing_class=owner,
    )


def losses(trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_first_step_has_the_values_of_an_untrained_policy_and_trl_names(tmp_path):
    trainer = make(tmp_path, steps=2, save_strategy="no")
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["dpo/loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert first["rewards/margins"] == 0 and first["rewards/accuracies"] == 0.5
    names = {"loss", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "grad_norm", "sft/loss"}
    assert names <= set(first)
    assert first["loss"] == pytest.approx(
        0.8 * first["dpo/loss"] + 0.2 * first["bco/loss"] + first["sft/loss"], abs=1e-5
    )


def test_training_prefers_the_chosen_responses(tmp_path):
    trainer = make(tmp_path, objective=dpo(), steps=12, save_strategy="no")
    trainer.train()
    last = trainer.state.log_history[-2]
    assert last["loss"] < 0.5 and last["rewards/accuracies"] == 1.0


@pytest.mark.parametrize("killed_at", [2, 4])
def test_a_killed_run_resumes_to_the_same_losses_to_the_last_digit(tmp_path, killed_at):
    whole = make(tmp_path / "whole")
    whole.train()
    resumed = make(tmp_path / "whole")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{killed_at}"))
    assert losses(resumed) == losses(whole)
    assert resumed.objective_state["bco/shift"].equal(whole.objective_state["bco/shift"])
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_forest_and_rows_train_alike(tmp_path):
    runs = [make(tmp_path / layout, layout=layout, save_strategy="no") for layout in ("forest", "rows")]
    for run in runs:
        run.train()
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), abs=1e-5)


def test_accumulated_batches_equal_the_whole_batch(tmp_path):
    objective = dpo() + sft()
    runs = [
        make(tmp_path / str(batch), objective=objective, batch=batch, accumulate=8 // batch, save_strategy="no")
        for batch in (8, 2)
    ]
    for run in runs:
        run.train()
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), abs=1e-5)


def test_nan_stops_the_run_with_the_records(tmp_path):
    trainer = make(tmp_path, objective=dpo(), records=RECORDS[:4], steps=2)
    with torch.no_grad():
        trainer.model.model.embed_tokens.weight[:] = float("nan")
    with pytest.raises(NonFiniteError, match=r"log-likelihoods, records \[0, 1, 2, 3\]|records \[.*\]"):
        trainer.train()


def test_incomplete_checkpoints_are_passed_over(tmp_path):
    trainer = make(tmp_path)
    trainer.train()
    assert checkpoint_to_resume(tmp_path, "auto") == tmp_path / "checkpoint-6"
    (tmp_path / "checkpoint-6" / "trainer_state.json").write_text('{"half": ')
    assert checkpoint_to_resume(tmp_path, "auto") == tmp_path / "checkpoint-4"
    assert checkpoint_to_resume(tmp_path, "never") is None


def test_a_full_disk_names_the_last_complete_checkpoint(tmp_path, monkeypatch):
    trainer = make(tmp_path)
    write = PreferenceTrainer._save_optimizer_and_scheduler

    def full(self, output_dir):
        if self.state.global_step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, output_dir)

    monkeypatch.setattr(PreferenceTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(OmniprefError, match=r"disk is full.*checkpoint-2"):
        trainer.train()
    monkeypatch.undo()
    resumed = make(tmp_path)
    resumed.train(resume_from_checkpoint=str(checkpoint_to_resume(tmp_path, "auto")))
    whole = make(tmp_path / "whole")
    whole.train()
    assert losses(resumed) == losses(whole)


def test_evaluation_has_the_same_metrics_and_leaves_statistics_alone(tmp_path):
    trainer = make(tmp_path, steps=2)
    trainer.train()
    before = dict(trainer.objective_state)
    metrics = trainer.evaluate(trainer.train_dataset)
    assert {"eval_loss", "eval_rewards/accuracies", "eval_dpo/loss"} <= set(metrics)
    assert all(torch.equal(before[name], trainer.objective_state[name]) for name in before)
    json.dumps(metrics)
