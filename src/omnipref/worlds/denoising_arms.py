"""One arm of a claim in the denoising world: train the base on pairs of its own samples, measure fresh samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from omnipref.objectives import Objective, parse_objective, sft
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import Preference
from omnipref.worlds.denoising import build_policy, load, measure, preferences

Relabel = Callable[[Sequence[Preference], int], list[Preference]]


def _swapped(preference: Preference) -> Preference:
    chosen, rejected = preference.cases["chosen"], preference.cases["rejected"]
    return replace(preference, cases={"chosen": rejected, "rejected": chosen})


def as_judged(pairs: Sequence[Preference], seed: int) -> list[Preference]:
    """The pairs as they are."""
    del seed
    return list(pairs)


def reversed_labels(pairs: Sequence[Preference], seed: int) -> list[Preference]:
    """Every loser made the winner."""
    del seed
    return [_swapped(preference) for preference in pairs]


def coin_flip_labels(pairs: Sequence[Preference], seed: int) -> list[Preference]:
    """The winner drawn by a fair coin."""
    flips = torch.rand(len(pairs), generator=torch.Generator().manual_seed(seed + 2)) < 0.5
    return [_swapped(preference) if flip else preference for preference, flip in zip(pairs, flips, strict=True)]


@dataclass(frozen=True)
class Arm:
    """What an arm does to the base.

    Args:
        first: whether it fine-tunes on the chosen samples, before anything else.
        method: whether it trains with the method's objective.
        relabel: what it does to the labels.
        policy: fields of its `DiffusionPolicy`.
    """

    first: bool = False
    method: bool = True
    relabel: Relabel = as_judged
    policy: dict[str, Any] = field(default_factory=dict)


ARMS: dict[str, Arm] = {
    "base": Arm(method=False),
    "method": Arm(),
    "coin_flip_labels": Arm(relabel=coin_flip_labels),
    "reversed_labels": Arm(relabel=reversed_labels),
    "independent_noise": Arm(policy={"share_noise": False}),
    "sft_chosen": Arm(first=True, method=False),
    "sft_then_method": Arm(first=True),
}


def fit(
    model: Any,
    objective: Objective,
    pairs: Sequence[Preference],
    *,
    steps: int,
    learning_rate: float,
    batch: int,
    seed: int,
    **policy: Any,
) -> None:
    """Train a model in place with `PreferenceTrainer`, against itself as it was.

    Args:
        model: the denoiser.
        objective: what is minimised.
        pairs: the data.
        steps: updates.
        learning_rate: constant.
        batch: pairs per update.
        seed: order, timesteps and noise.
        policy: fields of `DiffusionPolicy`.
    """
    from transformers import PrinterCallback, TrainingArguments

    from omnipref.training.data import prepare
    from omnipref.training.trainer import PreferenceTrainer

    scorer = build_policy(**policy)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
            use_cpu=True,
        )
        trainer = PreferenceTrainer(
            model=model,
            args=arguments,
            policy=scorer,
            objective=objective,
            reference=frozen_copy(model),
            train_dataset=prepare(scorer, pairs, objective.needs, Path(folder) / "aside.jsonl", progress=False),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def run(
    arm: str,
    seed: int,
    *,
    objective: str,
    steps: int = 500,
    learning_rate: float = 1e-4,
    sft_learning_rate: float = 1e-4,
    pairs: int = 4000,
    batch: int = 64,
) -> dict[str, float]:
    """Train one arm and measure 1200 fresh samples: `reward` (true, 0 is best) and `accuracy` (prompt followed).

    Args:
        arm: one of `ARMS`.
        seed: pairs, order, noise and fresh samples; the base is the shipped one.
        objective: the method's objective as text, such as `dpo(beta=250.0)`.
        steps: updates of each phase.
        learning_rate: of the method.
        sft_learning_rate: of the phase that fine-tunes on chosen samples.
        pairs: pairs of base samples.
        batch: pairs per update.
    """
    plan = ARMS[arm]
    model = load()
    data = plan.relabel(preferences(pairs, seed), seed) if plan.first or plan.method else []
    shared = {"steps": steps, "batch": batch, "seed": seed, **plan.policy}
    if plan.first:
        fit(model, sft(), data, learning_rate=sft_learning_rate, **shared)
    if plan.method:
        fit(model, parse_objective(objective), data, learning_rate=learning_rate, **shared)
    return measure(model, seed)
