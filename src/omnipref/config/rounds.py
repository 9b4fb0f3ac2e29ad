"""The configuration of `omnipref rounds`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from tyro.conf import Positional

from omnipref.config.base import Records


@dataclass(frozen=True, kw_only=True)
class RoundsConfig(Records):
    """Train in rounds, each from where the last one ended: sample, judge and pair anew, or go through a curriculum.

    With builders, a round makes its preferences from prompts with the model as it is. Without, every file of `dataset`
    is the data of one round, easy ones first. A killed run goes on where it stopped, in the middle of any step.

    Examples:
      omnipref rounds prompts.jsonl --model-name-or-path base --builders "best_vs_worst(reward=-count('fork'), n=6)" \\
          --rounds 3 --momentum 0.3 --train learning_rate=1e-5 lora_r=16 --output-dir rounds
      omnipref rounds easy.jsonl medium.jsonl hard.jsonl --model-name-or-path base --output-dir curriculum
    """

    dataset: Positional[list[str]]
    """Prompts, or without builders the preferences of each round."""
    model_name_or_path: str
    """Model of the first round: a folder, or a name on the Hugging Face hub."""
    output_dir: str = "omnipref-rounds"
    """Folder; round k is in `round-<k>`, the last model in `model`."""
    rounds: int = 3
    """How many; without builders one for each file."""
    builders: list[str] = field(default_factory=list)
    """What makes preferences of prompts, as in `omnipref build`; the sampler is the round's model."""
    train: dict[str, Any] = field(default_factory=dict)
    """Fields of `omnipref train` for every round, such as `objective`, `learning_rate` or `lora_r`."""
    reference: Literal["previous", "first"] = "previous"
    """What log-ratios are measured against: the model that the round starts from, or that of the first round."""
    prompts: Literal["all", "share"] = "all"
    """Whether every round sees all prompts, or a part of its own."""
    momentum: float = 0.0
    """Share of the change between the last two fits that is added after a round (arXiv 2410.06293)."""
    seed: int = 0
    """Draws whatever is random; every round draws anew."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"rounds": (1, inf), "momentum": (-0.99, 0.99)}

    def conflicts(self) -> Iterator[str]:
        """Fields that a round sets itself, and shares of what is no prompt."""
        own = {"model_name_or_path", "dataset", "output_dir", "ref_model", "adapter", "seed"}
        for name in sorted(own & {name.replace("-", "_") for name in self.train}):
            yield f"`{name}` stands in `train`, but each round sets it; give `omnipref rounds` its own"
        if not self.builders and self.prompts == "share":
            yield "`prompts: share` divides prompts among rounds, but without `builders` each file is a round"
