"""What a policy is: it encodes preferences, collates them into batches, and scores the cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from omnipref.preferences import Preference
from omnipref.scores import Cases, Scores


@dataclass(frozen=True)
class Batch:
    """Encoded preferences, ready to be scored.

    Args:
        cases: which case is what.
        inputs: tensors and plain values that the policy's `score` understands.
    """

    cases: Cases
    inputs: Mapping[str, Any]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on another device."""
        return Batch(self.cases.to(device), {name: _to(value, device) for name, value in self.inputs.items()})

    def plus(self, **inputs: Any) -> Batch:
        """The same batch with further inputs."""
        return Batch(self.cases, {**self.inputs, **inputs})


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _to(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to(item, device) for item in value)
    return value


class Policy(Protocol):
    """A model family's way to turn preferences into scores.

    `model` is passed to `score` rather than held, because trainers wrap it (DDP, FSDP, DeepSpeed); everything else a
    policy needs (tokenizer, processor, noise schedule) it holds.
    """

    @property
    def stochastic(self) -> bool:
        """Whether scores depend on `seed`, so that reference scores cannot be computed once and kept."""
        ...

    def encode(self, preference: Preference) -> Any:
        """Tokenise and load media of one preference; runs in data-loader workers.

        Raises:
            DataError: the record cannot be encoded; names the field.
        """
        ...

    def tokens(self, encoded: Sequence[Any]) -> int:
        """Tokens that the model sees when these are one batch.

        Raises:
            CapabilityError: the policy's model has no tokens.
        """
        ...

    def case_keys(self, encoded: Any) -> tuple[str, ...]:
        """The content of each case of an encoded preference, under which its scores can be kept; empty where they
        depend on `seed`. Batches carry them as `case_keys`."""
        ...

    def collate(self, encoded: Sequence[Any]) -> Batch:
        """Lay encoded preferences out as one batch of tensors on the CPU."""
        ...

    def score(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        extras: frozenset[str] = frozenset(),
        seed: int = 0,
        reference: Reference | None = None,
    ) -> Scores:
        """Per-unit log-likelihoods under `model`, float32, with gradient where enabled.

        Args:
            extras: what to compute besides; `omnipref.scores.Scores` has the names.
            seed: from which everything random (noise, timesteps) is drawn, together with the record number, so that
                the same record gives the same draw in any batch, on any process, and under policy and reference.
            reference: is run first, without gradient, and gives `ref_logp`, which is None otherwise. Extras that
                `omnipref.scores.reads_reference` tells need it even where `ref_logp` is known, from a cache say:
                they are made of its distributions or states, which log-likelihoods of the units do not give.

        Raises:
            CapabilityError: an extra that the policy does not have, or that reads a reference which is not given.
        """
        ...


class Reference(Protocol):
    """The model that log-ratios are measured against: a context that yields it."""

    def __call__(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """Enter the reference of `model` and yield the module to score with."""
        ...

    def place(self, prepare: Callable[[nn.Module], nn.Module]) -> None:
        """Put weights of its own, if it has any, where the policy's are.

        Args:
            prepare: gives a frozen model back as it is to be run: moved to a device, or in shards over processes.
        """
        ...
