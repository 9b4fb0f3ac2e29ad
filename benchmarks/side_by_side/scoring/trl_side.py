"""TRL's side: its DPOTrainer with its own collator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from side_by_side.scoring.peers import BETA, plain_attention
from side_by_side.scoring.samples import Sample


@dataclass(frozen=True)
class Trl:
    """TRL's DPOTrainer: its own collator, its own `compute_loss`, its metrics."""

    trainer: Any
    reference: nn.Module

    @staticmethod
    def built(policy: Any, reference: Any, owner: Any, example: Any, device: str, folder: Path) -> Trl:
        """The trainer around both models.

        Args:
            policy: the model in training.
            reference: the frozen model.
            owner: tokenizer or processor.
            example: one of the examples, which tells TRL whether there are pictures.
            device: `cpu` or `cuda`.
            folder: for what the trainer writes.
        """
        from datasets import Dataset
        from datasets.utils.logging import disable_progress_bar
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        arguments = DPOConfig(
            output_dir=str(folder),
            beta=BETA,
            max_length=None,
            use_cpu=device == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
        )
        disable_progress_bar()
        row: dict[str, Any] = {"prompt": "w16", "chosen": " w17", "rejected": " w18"}
        if "images" in example:
            row["images"] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = DPOTrainer(
                model=policy,
                ref_model=reference,
                args=arguments,
                train_dataset=Dataset.from_list([row]),
                processing_class=owner,
            )
        return Trl(trainer, reference)

    def ready(self) -> None:
        """Both models attend by PyTorch's `sdpa`."""
        plain_attention(self.trainer.model, self.reference)

    def prepare(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """What TRL's collator makes of the same token ids and pictures.

        Raises:
            ValueError: its token ids are not those of the other sides.
        """
        batch = self.trainer.data_collator([dict(sample.peer or {}) for sample in samples])
        lines = [sample.encoded.cases[side].ids for side in (0, 1) for sample in samples]
        for line, ids, mask in zip(lines, batch["input_ids"], batch["attention_mask"], strict=True):
            if ids[mask.bool()].tolist() != line.tolist():
                raise ValueError("TRL's collator made other token ids of a sample than the other sides score")
        return self.trainer._prepare_inputs(dict(batch))

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        """Its loss, and the gradient."""
        loss = self.trainer.compute_loss(self.trainer.model, batch)
        loss.backward()
        return loss.detach()

    def pushed(self, batch: dict[str, Tensor]) -> int:
        """Rows times the longest."""
        return batch["input_ids"].numel()
