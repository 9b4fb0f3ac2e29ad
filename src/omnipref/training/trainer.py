"""The one trainer: asks the policy for scores and the objective for the loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, ProcessorMixin, Trainer, TrainerCallback, TrainingArguments

from omnipref.errors import ConfigError, OmniprefError
from omnipref.objectives import Objective, preference_metrics, reduce_loss
from omnipref.policies.policy import Batch, Policy, Reference
from omnipref.scores import Scores, reads_reference
from omnipref.training.checkpoints import disk_errors, read_state, write_state
from omnipref.training.compiling import compile_layers
from omnipref.training.data import collator
from omnipref.training.finite import check_finite
from omnipref.training.learned_extras import learned_by
from omnipref.training.online import Online, together
from omnipref.training.parts import Part, join, surrogate, values_of
from omnipref.training.reference_scores import ReferenceScores, stacked
from omnipref.training.reference_updates import ReferenceUpdates
from omnipref.training.sharding import place_frozen, settle_sharding


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
        max_batch_tokens: compute larger batches in parts of at most so many tokens, to the same gradients.
        online: makes the batches of records that are not preferences yet; the data sets then hold records.
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
        max_batch_tokens: int | None = None,
        online: Online | None = None,
    ):
        if args.n_gpu > 1:
            raise ConfigError("several GPUs without a launcher; start with `accelerate launch -m omnipref train ...`")
        args.remove_unused_columns = False
        args.prediction_loss_only = True
        super().__init__(
            model=model,
            args=args,
            data_collator=together if online else collator(policy, max_batch_tokens),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=list(callbacks),
        )
        self.policy, self.objective, self.reference, self.online = policy, objective, reference, online
        self.reference_scores: ReferenceScores | None = None
        self.reference_updates: ReferenceUpdates | None = None
        self.objective_state = objective.initial_state()
        self.model_accepts_loss_kwargs = False
        self.can_return_loss = True
        self._sums: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        self.learned = learned_by(objective.needs.extras, model, self.accelerator, args.seed)
        self.add_callback(self.learned)
        if reference is not None:
            reference.place(partial(place_frozen, self.accelerator))
        settle_sharding(self.accelerator, model)
        compile_layers(self.accelerator, args, model, getattr(reference, "model", None))

    def move_reference(self, mixup: float, steps: int) -> None:
        """Let the reference follow the policy, see `ReferenceUpdates`; its weights are kept in checkpoints."""
        if self.reference is not None:
            self.reference_updates = ReferenceUpdates(self.reference, self._whole_model, mixup, steps)
            self.add_callback(self.reference_updates)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean loss of a batch, or of a part of one: `parts`, and in a part's inputs its `share` or `gradients`."""
        del num_items_in_batch
        scores = join([self.scores(model, batch.to(self.args.device)) for batch in inputs["parts"]])
        share = inputs.get("share", 1.0)
        if "gradients" in inputs:
            loss = inputs["loss"] + surrogate(scores, inputs["gradients"])
        else:
            loss = share * self._loss(scores, model.training, counted=share > 0)
        if scores.auxiliary is not None and share > 0:
            loss = loss + share * scores.auxiliary
            self._record("train" if model.training else "eval", {"aux_loss": scores.auxiliary}, scores.cases.count)
        return (loss, {}) if return_outputs else loss

    def _loss(self, scores: Scores, training: bool, counted: bool = True) -> Tensor:
        """The objective's mean, with its metrics noted and its state carried on."""
        outcome = self.objective(scores, {k: v.to(scores.logp.device) for k, v in self.objective_state.items()})
        check_finite(scores, outcome)
        if training:
            self.objective_state = outcome.state
        if counted:
            self._record("train" if training else "eval", preference_metrics(scores, outcome), scores.cases.count)
        return reduce_loss(outcome.loss_P, scores.cases)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of a batch, part after part where it has several; the gradient is the whole batch's."""
        inputs = self._made(inputs)
        parts = self._parts(inputs["parts"])
        steps: Sequence[dict[str, Any]] = [inputs]
        if len(parts) > 1:
            steps = self._coupled(model, parts) if self.objective.needs.batch else self._separate(parts)
        loss = torch.zeros((), device=self.args.device)
        for number, step in enumerate(steps):
            with self._unsynchronised(model) if number < len(steps) - 1 else nullcontext():
                loss = loss + super().training_step(model, step, num_items_in_batch)  # type: ignore[arg-type]
        if self.accelerator.sync_gradients:
            self.learned.share_gradients()
        return loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The parent's, which trains networks that make extras too."""
        new, optimizer = self.optimizer is None, super().create_optimizer(model)
        if new:
            self.learned.join(optimizer)
        return optimizer

    @property
    def _whole_model(self) -> nn.Module:
        assert isinstance(self.model, nn.Module)
        return self.model

    def _made(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch itself, or in online training what is made of its records now."""
        if not self.online:
            return inputs
        with self.accelerator.autocast():
            return self.online(self._whole_model, inputs["records"], self.state.global_step)

    def _parts(self, parts: Sequence[Batch]) -> list[Part]:
        """Parts with their share of the batch; as many on every process, since forward passes wait for each other."""
        count = sum(part.cases.count for part in parts)
        shared = [Part(part, part.cases.count / count) for part in parts]
        if self.args.world_size > 1:
            most = max(gather_object([len(parts)]))
            shared += [Part(parts[-1], 0.0)] * (most - len(parts))
        return shared

    def _separate(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """Losses of preferences that do not depend on each other: the batch's mean is a weighted sum of the parts'."""
        return [{"parts": [part.batch], "share": part.share} for part in parts]

    def _coupled(self, model: nn.Module, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """A loss that couples the batch: scores of all parts first, its gradient in them, and then part by part again.

        Costs one more forward pass and is exact; a LoRA's dropout is drawn twice.
        """
        model.train()
        own = [part for part in parts if part.share]
        with torch.no_grad():
            first = [self.scores(model, part.batch.to(self.args.device)) for part in parts]  # idle ones keep step too
        batches = [
            part.batch if scores.ref_logp is None else part.batch.plus(ref_logp_NU=scores.ref_logp)
            for part, scores in zip(parts, first, strict=True)
        ]
        whole = join(first[: len(own)]).with_gradient(self.objective.needs.extras)
        with torch.enable_grad():
            loss = self._loss(whole, training=True)
            values = values_of(whole)
            found = torch.autograd.grad(loss, list(values.values()), allow_unused=True)
        steps, start = [], 0
        for part, scores, batch in zip(own, first, batches, strict=False):
            rows, units = slice(start, start + len(scores.logp)), slice(0, scores.logp.shape[1])
            start = rows.stop
            own_gradients = {k: g[rows, units] for k, g in zip(values, found, strict=True) if g is not None}
            own_loss = part.share * loss.detach()
            steps.append({"parts": [batch], "gradients": own_gradients, "loss": own_loss, "share": part.share})
        nothing = {"gradients": {}, "loss": loss.detach() * 0, "share": 0.0}
        return steps + [{"parts": [idle], **nothing} for idle in batches[len(own) :]]

    @contextmanager
    def _unsynchronised(self, model: nn.Module) -> Iterator[None]:
        """Gradients stay on this process; the last part of a step shares the sum."""
        state = self.accelerator.gradient_state
        before = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(before)

    def scores(self, model: nn.Module, batch: Batch) -> Scores:
        """Scores under the policy, and under the reference if the objective reads it."""
        needs = self.objective.needs
        seed = self.args.seed * 100_003 + (int(self.state.epoch or 0) if model.training else 99_991)
        # Accelerate would autocast in the model's own forward pass, which scoring does not go through.
        with self.accelerator.autocast():
            cached = self._kept(model, batch) if needs.reference else None
            unknown = needs.reference and cached is None
            live = unknown or reads_reference(needs.extras)
            if live and self.reference is None:
                raise OmniprefError(
                    "the objective compares with a reference, but the trainer has none; pass `reference`"
                )
            reference = self.reference if live else None
            extras = self.learned.asked(needs.extras)
            scores = self.policy.score(model, batch, extras=extras, seed=seed, reference=reference)
        if unknown and self.reference_scores:
            self.reference_scores.add(batch, scores)
        if live or cached is None:
            return self.learned.added(scores, needs.extras)
        return scores.with_reference(stacked(list(cached), scores.logp.shape[1]).to(scores.logp))

    def _kept(self, model: nn.Module, batch: Batch) -> Sequence[Tensor] | None:
        """Reference scores of each case that need no pass of the reference: those of the batch, or kept ones."""
        given = batch.inputs.get("ref_logp_NU")
        return given if given is not None or not self.reference_scores else self.reference_scores.find(model, batch)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple:
        """Loss of an evaluation batch; metrics are collected on the side."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._made(inputs)).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the metrics since the last log."""
        split = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        prefix = "eval_" if split == "eval" else ""
        logs |= {f"{prefix}{name}": value for name, value in self._means(split).items()}
        super().log(logs, start_time)

    def _record(self, split: str, metrics: dict[str, Tensor], weight: int) -> None:
        for name, value in metrics.items():
            total, count = self._sums[split].get(name) or (0.0, 0)
            self._sums[split][name] = [total + float(value.detach()) * weight, count + weight]

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
        with disk_errors(run):
            if self.args.should_save:
                write_state(folder, self.objective_state)
                self.learned.save(folder)
                if self.reference_updates:
                    self.reference_updates.save(folder)
            super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """What stands beside the weights, too: DeepSpeed's engine loads the weights itself, and this comes after."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self.objective_state = {**self.objective_state, **read_state(Path(checkpoint))}
        self.learned.load(Path(checkpoint))
        if self.reference_updates:
            self.reference_updates.load(Path(checkpoint))
