"""The one trainer: asks the policy for scores and the objective for the loss."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, ProcessorMixin, Trainer, TrainerCallback, TrainingArguments

from omnipref.errors import ConfigError, NonFiniteError, OmniprefError
from omnipref.objectives import Objective, preference_metrics, reduce_loss
from omnipref.objectives.objective import Outcome
from omnipref.policies.policy import Batch, Policy, Reference
from omnipref.scores import Scores
from omnipref.training.checkpoints import checkpoint_to_resume, read_state, write_state
from omnipref.training.data import collator


class PreferenceTrainer(Trainer):
    """`transformers.Trainer` whose loss is an objective over a policy's scores.

    Everything else (Accelerate, FSDP, DeepSpeed, PEFT, callbacks, trackers, resuming) is the parent's.

    Args:
        model: what is trained, possibly with adapters.
        args: transformers.TrainingArguments.
        policy: scores the cases.
        objective: what is minimised.
        reference: what log-ratios are measured against; may be None if the objective needs none, or if every record
            comes with reference scores.
        train_dataset: encoded records, from `omnipref.training.prepare`.
        eval_dataset: the same, for evaluation.
        processing_class: tokenizer or processor, saved with the model.
        callbacks: as in transformers.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        policy: Policy,
        objective: Objective,
        reference: Reference | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        if args.n_gpu > 1:
            raise ConfigError("several GPUs without a launcher; start with `accelerate launch -m omnipref train ...`")
        args.remove_unused_columns = False
        args.prediction_loss_only = True
        super().__init__(
            model=model,
            args=args,
            data_collator=collator(policy),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=list(callbacks),
        )
        self.policy, self.objective, self.reference = policy, objective, reference
        self.objective_state = objective.initial_state()
        self.model_accepts_loss_kwargs = False
        self.can_return_loss = True
        self._sums: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        if reference is not None:
            reference.place(self.args.device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean loss of the batch, from scores under policy and reference."""
        del num_items_in_batch
        batch: Batch = inputs["batch"].to(self.args.device)
        scores = self.scores(model, batch)
        outcome = self.objective(scores, {k: v.to(scores.logp.device) for k, v in self.objective_state.items()})
        check_finite(scores, outcome)
        if model.training:
            self.objective_state = outcome.state
        self._record("train" if model.training else "eval", preference_metrics(scores, outcome), batch.cases.count)
        loss = reduce_loss(outcome.loss_P, scores.cases)
        return (loss, {}) if return_outputs else loss

    def scores(self, model: nn.Module, batch: Batch) -> Scores:
        """Scores under the policy, and under the reference if the objective reads it."""
        needs = self.objective.needs
        seed = self.args.seed * 100_003 + (int(self.state.epoch or 0) if model.training else 99_991)
        # Accelerate would autocast in the model's own forward pass, which scoring does not go through.
        with self.accelerator.autocast():
            scores = self.policy.score(model, batch, extras=needs.extras, seed=seed)
        if not needs.reference:
            return scores
        cached = batch.inputs.get("ref_logp_NU")
        if cached is not None:
            return scores.with_reference(cached)
        if self.reference is None:
            raise OmniprefError("the objective compares with a reference, but the trainer has none; pass `reference`")
        with torch.no_grad(), self.reference(model) as reference, self.accelerator.autocast():
            return scores.with_reference(self.policy.score(reference, batch, seed=seed).logp)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple:
        """Loss of an evaluation batch; metrics are collected on the side."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the metrics since the last log."""
        split = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        prefix = "eval_" if split == "eval" else ""
        logs |= {f"{prefix}{name}": value for name, value in self._means(split).items()}
        super().log(logs, start_time)

    def _record(self, split: str, metrics: dict[str, Tensor], weight: int) -> None:
        for name, value in metrics.items():
            total, count = self._sums[split].get(name) or (0.0, 0)
            self._sums[split][name] = [total + float(value) * weight, count + weight]

    def _means(self, split: str) -> dict[str, float]:
        own, self._sums[split] = dict(self._sums[split]), defaultdict(list)
        everyone = gather_object([own]) if self.args.world_size > 1 else [own]
        names = sorted({name for sums in everyone for name in sums})
        means = {}
        for name in names:
            total, count = (
                sum(column) for column in zip(*(sums[name] for sums in everyone if name in sums), strict=True)
            )
            means[name] = total / count
        return means

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"checkpoint-{self.state.global_step}"
        with _disk_errors(run):
            if self.args.should_save:
                write_state(folder, self.objective_state)
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.objective_state = {**self.objective_state, **read_state(Path(resume_from_checkpoint))}


@contextmanager
def _disk_errors(run: Path):
    """Say what is lost and how to go on when a checkpoint cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error)
        last = checkpoint_to_resume(run, "auto")
        raise OmniprefError(
            f"could not write a checkpoint in {run}: {'the disk is full' if full else error}. "
            f"The last complete checkpoint is {last or 'none yet'}. To mend: make room and run the same command again"
        ) from error


def check_finite(scores: Scores, outcome: Outcome) -> None:
    """Stop at NaN or infinity.

    Raises:
        NonFiniteError: names the records, and whether scores or loss went wrong first.
    """
    if torch.isfinite(outcome.loss_P).all():
        return
    parts = {"log-likelihoods": scores.logp, "reference log-likelihoods": scores.ref_logp}
    bad = torch.zeros_like(scores.cases.preference_N, dtype=torch.bool)
    where = "the loss"
    for name, value in parts.items():
        if value is not None and not torch.isfinite(value).all():
            where, bad = f"the {name}", bad | ~torch.isfinite(value).all(1)
    preferences = scores.cases.preference_N[bad].unique() if bad.any() else ~torch.isfinite(outcome.loss_P)
    records = scores.cases.record_P[preferences].tolist()
    raise NonFiniteError(
        f"found NaN or infinity in {where}, records {records}. Common causes: float16 (use --bf16), a learning rate "
        "that is too high, broken weights or media. To mend: look at those records with `omnipref data inspect`, "
        "then run the same command again; it resumes from the last complete checkpoint"
    )
