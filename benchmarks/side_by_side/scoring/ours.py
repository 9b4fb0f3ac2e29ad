"""Our sides: what `PreferenceTrainer` does with a batch, in any layout, with a live or a cached reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainingArguments

from omnipref.objectives import Objective
from omnipref.policies.autoregressive.encode import EncodedPreference
from omnipref.policies.autoregressive.feature_cache import FeatureCache
from omnipref.policies.autoregressive.implementation import set_text_attention, text_attention
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.autoregressive.prompts import TextOwner
from omnipref.policies.reference import FrozenCopy
from omnipref.training.data import EncodedPreferences
from omnipref.training.reference_scores import ReferenceScores
from omnipref.training.trainer import PreferenceTrainer
from side_by_side.scoring.samples import Sample


@dataclass(frozen=True)
class Ours:
    """A training step of the trainer, metrics included, with the policy that `omnipref train` would build.

    Args:
        trainer: holds policy, objective and reference.
        reference: the frozen model.
        attention: the attention implementation that the library chose for the layout.
    """

    trainer: PreferenceTrainer
    reference: nn.Module
    attention: str

    @staticmethod
    def built(
        model: nn.Module,
        reference: nn.Module,
        owner: TextOwner,
        objective: Objective,
        device: str,
        folder: Path,
        *,
        layout: str = "forest",
        cached: bool = False,
        max_batch_tokens: int | None = None,
    ) -> Ours:
        """The trainer around both models.

        Args:
            model: the model in training.
            reference: the frozen model.
            owner: tokenizer or processor.
            objective: what is minimised.
            device: `cpu` or `cuda`.
            folder: for what the trainer writes.
            layout: `forest` or `rows`.
            cached: score under the reference once, outside the clock.
            max_batch_tokens: most tokens that the model sees at once.
        """
        set_text_attention(model, "sdpa")
        policy = build_policy(model, owner, layout)
        arguments = TrainingArguments(output_dir=str(folder), use_cpu=device == "cpu", report_to="none")
        frozen = FrozenCopy(reference)
        trainer = PreferenceTrainer(
            model=model,
            args=arguments,
            policy=policy,
            objective=objective,
            reference=None if cached else frozen,
            max_batch_tokens=max_batch_tokens,
        )
        trainer.current_gradient_accumulation_steps = 1
        if cached:
            trainer.reference_scores = ReferenceScores(frozen)
        return Ours(trainer, reference, text_attention(model))

    def ready(self) -> None:
        """Both models attend as the library chose."""
        for model in (self.trainer.model, self.reference):
            set_text_attention(model, self.attention)  # type: ignore[arg-type]

    def prepare(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What the data loader gives; reference scores are made now where they are cached."""
        return self.laid_out([sample.encoded for sample in samples])

    def laid_out(self, encoded: Sequence[EncodedPreference]) -> dict[str, Any]:
        """The same from encoded preferences."""
        trainer, policy = self.trainer, self.trainer.policy
        if trainer.reference_scores:
            self.ready()
            data = EncodedPreferences(policy, [each.preference for each in encoded], dict(enumerate(encoded)))
            trainer.reference_scores.score_ahead(_apart(policy), trainer.model, data, len(encoded), progress=False)  # type: ignore[arg-type]
        batch: dict[str, Any] = trainer.data_collator(list(encoded))  # type: ignore[assignment]
        return batch | {"parts": [part.to(trainer.args.device) for part in batch["parts"]]}

    def step(self, batch: dict[str, Any]) -> Tensor:
        """The trainer's forward and backward passes."""
        return self.trainer.training_step(self.trainer.model, dict(batch))  # type: ignore[arg-type]

    def pushed(self, batch: dict[str, Any]) -> int:
        """Tokens of all rows of all parts, padding included."""
        return sum(part.inputs["ids_BT"].numel() for part in batch["parts"])


def _apart(policy: Any) -> Any:
    """The same policy, which keeps features of pictures for itself: those of the clocked steps are not made ahead."""
    kept = {"features": FeatureCache()} if hasattr(policy.layout, "features") else {}
    return replace(policy, layout=replace(policy.layout, **kept))
