"""Trains one arm of the demo: the public trainer on the demo's preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed
from transformers.utils import logging

from omnipref.demo.arms import DemoArm
from omnipref.objectives import parse_objective
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import Preference
from omnipref.training import PreferenceTrainer, prepare
from omnipref.training.progress import show_progress
from omnipref.training.reference_scores import ReferenceScores, ScoreCache
from omnipref.worlds import load

BATCH = 32
STEPS = 80


def load_base() -> tuple[Any, Any, AutoregressivePolicy]:
    """The shipped base model, its processor and its policy."""
    logging.disable_progress_bar()
    model, processor = load()
    return model, processor, build_policy(model, processor)


def train_arm(
    arm: DemoArm,
    preferences: list[Preference],
    folder: Path,
    *,
    steps: int,
    seed: int,
    progress: bool = True,
    position: int = 0,
) -> tuple[Any, list[dict[str, float]]]:
    """The base model trained with an arm's objective, and the trainer's log.

    Args:
        arm: objective and learning rate.
        preferences: as `build_preferences` makes them.
        folder: where the model and the reference scores are written.
        steps: optimiser steps.
        seed: draws the order of the data.
        progress: whether to show a bar.
        position: line of the bar, where several are shown at once.
    """
    model, processor, policy = load_base()
    if not arm.objective:
        return model, []
    set_seed(seed)
    objective = parse_objective(arm.objective)
    data = prepare(policy, preferences, objective.needs, folder / "train.quarantine.jsonl", progress=False)
    reference = frozen_copy(model)
    trainer = PreferenceTrainer(
        model=model,
        args=TrainingArguments(
            str(folder),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=arm.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            logging_steps=max(1, steps // 20),
            save_strategy="no",
            seed=seed,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.accelerator.is_available(),
        ),
        policy=policy,
        objective=objective,
        reference=reference,
        train_dataset=data,
        processing_class=processor,
    )
    trainer.reference_scores = ReferenceScores(reference, ScoreCache(folder.parent / "cache"))
    trainer.reference_scores.score_ahead(policy, model, data, 64, progress=False)
    show_progress(trainer, arm.name, position) if progress else trainer.callback_handler.callbacks.clear()
    trainer.train()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), trainer.state.log_history
