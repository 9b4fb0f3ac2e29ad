"""Online training: the preferences of a step are made when it begins, with the model as it is then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from omnipref.build import Builder, builder_of
from omnipref.build.files import chained
from omnipref.errors import CapabilityError, ConfigError, DataError, nearest
from omnipref.objectives.objective import Needs
from omnipref.policies.autoregressive.flex import FLEX_ATTENTION
from omnipref.policies.autoregressive.implementation import set_text_attention, text_attention
from omnipref.policies.policy import Policy
from omnipref.policies.sampling import LocalSampler
from omnipref.preferences import Preference
from omnipref.training.data import check_needs, collator, narrowed

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""How often a batch is drawn anew when nothing usable came out of it, as when all samples are judged alike."""


class RawRecords(Dataset):
    """Records as they are, by index.

    Args:
        records: prompts or preferences.
    """

    def __init__(self, records: Sequence[Preference]):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Preference:
        return self.records[index]


def together(records: Sequence[Preference]) -> dict[str, Any]:
    """The data loader's last step in online training: record numbers and the records themselves."""
    return {"record": torch.tensor([each.record for each in records]), "records": list(records)}


@dataclass(frozen=True)
class Online:
    """Makes the batch of a step from its records.

    What is drawn depends on the seed, the step and the prompt alone, so an interrupted run goes on to the same numbers.
    A record that cannot be encoded, such as one over a limit of tokens, is left out of its step with a warning.

    Args:
        policy: encodes what was made.
        owner: tokenizer or processor of the sampled model.
        builders: as in `omnipref build`, first to last; their sampler is the model.
        needs: what the objective reads.
        sampling: further arguments of `LocalSampler`, such as `max_new_tokens`.
        max_tokens: most tokens of a part of the batch.
        seed: of the samples.

    Raises:
        ConfigError: `sampling` names no field of `LocalSampler`, or the model has no tokenizer.
    """

    policy: Policy
    owner: Any
    builders: Sequence[str]
    needs: Needs
    sampling: Mapping[str, Any]
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.owner is None:
            raise ConfigError("`online` samples text, and this model emits none; make its preferences before training")
        known = {field.name for field in fields(LocalSampler)} - {"model", "owner", "seed"}
        for name in self.sampling:
            if name not in known:
                raise ConfigError(f"found `{name}` in `online_sampling`; {nearest(name, known)}")

    def __call__(self, model: nn.Module, records: Sequence[Preference], step: int) -> dict[str, Any]:
        """The batch of a step, as the trainer takes it.

        Args:
            model: sampled as it is, with dropout off.
            records: of the step.
            step: its number.

        Raises:
            CapabilityError: the model is in shards over processes, which cannot be sampled alone.
            DataError: nothing usable was made, several times; with the first reason.
            NeedsError: what was made lacks what the objective reads.
        """
        if any(type(p).__name__ == "DTensor" or hasattr(p, "ds_id") for p in model.parameters()):
            raise CapabilityError(
                "a model in shards cannot be sampled while it trains; use DDP, or alternate `omnipref build` and "
                "`omnipref train`"
            )
        reasons: list[str] = []
        for attempt in range(ATTEMPTS):
            built = self._builder(model, (self.seed * 1_000_003 + step) * ATTEMPTS + attempt)(records)
            for preference in built.preferences:
                check_needs(self.needs, preference)
            reasons += map(str, built.dropped)
            encoded = []
            for preference in built.preferences:
                try:
                    encoded.append(self.policy.encode(narrowed(preference, self.needs)))
                except DataError as error:
                    logger.warning("left out of step %d: %s", step, error)
                    reasons.append(str(error))
            if encoded:
                return collator(self.policy, self.max_tokens)(encoded)
        reason = reasons[0] if reasons else "the builders gave none"
        raise DataError(
            f"no preference in {ATTEMPTS} draws from {len(records)} records ({reason})",
            "at least one",
            cure="larger batches, more samples of each prompt, or a reward that tells them apart",
        )

    def _builder(self, model: nn.Module, seed: int) -> Builder:
        def sampler() -> Callable[..., list[list[str]]]:
            own = LocalSampler(model, self.owner, seed=seed, **{"progress": False, **self.sampling})

            def draw(contexts: Sequence[Any], *, n: int = 1) -> list[list[str]]:
                with _samplable(model):
                    return own(contexts, n=n)

            return draw

        return chained([builder_of(text, {"seed": lambda: seed, "sampler": sampler}) for text in self.builders])


@contextmanager
def _samplable(model: nn.Module) -> Iterator[None]:
    """Another attention than FlexAttention, which would be compiled for every length."""
    own = text_attention(model)
    if own == FLEX_ATTENTION:
        set_text_attention(model, "sdpa")
    try:
        yield
    finally:
        if own == FLEX_ATTENTION:
            set_text_attention(model, own)
