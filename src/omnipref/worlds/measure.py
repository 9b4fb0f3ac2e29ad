"""What the picture world's model says about pictures, and how much of it is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from omnipref.evaluation import chair
from omnipref.worlds.base_model import templated
from omnipref.worlds.language import DESCRIBE, mentioned, says_yes, well_formed
from omnipref.worlds.pictures import Scene
from omnipref.worlds.probing import SPLITS, pope_questions
from omnipref.worlds.world import test_pictures

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

_ROWS = 512


@dataclass(frozen=True)
class Measured:
    """How a model describes pictures and answers about them; all are shares in [0, 1].

    Args:
        chair_i: hallucinated among all mentioned kinds.
        chair_s: captions with at least one hallucinated kind.
        coverage: mentioned among all present kinds.
        well_formed: captions of the right form.
        accuracy: right yes/no answers, by POPE's split.
    """

    chair_i: float
    chair_s: float
    coverage: float
    well_formed: float
    accuracy: dict[str, float]

    def __str__(self) -> str:
        accuracy = ", ".join(f"{split} {share:.1%}" for split, share in self.accuracy.items())
        return (
            f"CHAIR_i {self.chair_i:.1%}, CHAIR_s {self.chair_s:.1%}, coverage {self.coverage:.1%}, "
            f"well-formed {self.well_formed:.1%}; yes/no accuracy: {accuracy}"
        )


@torch.no_grad()
def answers(model: Any, processor: Any, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[str]:
    """The model's greedy answer to each prompt about its picture.

    Args:
        model: a vision-language model of transformers.
        processor: its processor, with a chat template and padding on the left.
        pictures: one for each prompt.
        prompts: what is asked.
    """
    texts = [templated(processor, prompt) for prompt in prompts]
    said: list[str] = []
    for start in range(0, len(texts), _ROWS):
        rows = slice(start, start + _ROWS)
        batch = processor(text=texts[rows], images=list(pictures[rows]), padding=True, return_tensors="pt")
        tokens = model.generate(**batch.to(model.device), do_sample=False)[:, batch["input_ids"].shape[1] :]
        said += processor.batch_decode(tokens, skip_special_tokens=True)
    return said


def measure(model: LlavaForConditionalGeneration, processor: LlavaProcessor, n: int = 400, seed: int = 1) -> Measured:
    """Measures a model on `n` unbiased pictures.

    Source: CHAIR arXiv 1809.02156; POPE arXiv 2305.10355.
    """
    tested = test_pictures(n, seed)
    scenes, pictures = [item.scene for item in tested], [item.image for item in tested]
    captions = answers(model, processor, pictures, [DESCRIBE] * n)
    counts = chair([set(mentioned(caption)) for caption in captions], [set(scene.kinds) for scene in scenes])
    return Measured(
        chair_i=counts.hallucinated.sum() / max(counts.mentioned.sum(), 1),
        chair_s=float((counts.hallucinated > 0).mean()),
        coverage=counts.found.sum() / counts.present.sum(),
        well_formed=sum(map(well_formed, captions)) / n,
        accuracy={split: _accuracy(model, processor, scenes, pictures, split, seed) for split in SPLITS},
    )


def _accuracy(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: Sequence[Scene],
    pictures: Sequence[Image.Image],
    split: str,
    seed: int,
) -> float:
    asked = pope_questions(scenes, split, seed)
    said = answers(model, processor, [pictures[question.picture] for question in asked], [q.text for q in asked])
    return sum(says_yes(text) is (q.label == "yes") for q, text in zip(asked, said, strict=True)) / len(asked)
