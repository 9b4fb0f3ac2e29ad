"""The hand-written peers: a padded loop as a good engineer writes it, and the same over a plain sequence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from omnipref.policies.autoregressive.encode import EncodedCase, EncodedPreference, EncodedPrompt
from omnipref.policies.autoregressive.implementation import set_text_attention
from omnipref.policies.autoregressive.media import MediaItem
from omnipref.preferences import Case, Preference
from side_by_side.scoring.samples import Sample

BETA = 0.1
Loss = Callable[[Tensor], Tensor]
"""From rewards of the scored stretches `[P, S]` to a loss per preference `[P]`."""


class Side(Protocol):
    """One way to do a step; gradients stay in the policy."""

    def ready(self) -> None:
        """Set the models up, outside the clock."""
        ...

    def prepare(self, samples: Sequence[Sample]) -> Any:
        """A batch on the device, outside the clock."""
        ...

    def step(self, batch: Any) -> Tensor:
        """Policy forward and backward with the reference; returns the loss."""
        ...

    def pushed(self, batch: Any) -> int:
        """Tokens that go through the backbone, padding included."""
        ...


@dataclass(frozen=True)
class Padded:
    """Rows padded on the right, and what is scored in them.

    Args:
        ids: `[R, T]`.
        mask: 1 for tokens, `[R, T]`; None without padding.
        predictor: place of the state that predicts each scored token, in the flattened rows, `[M]`.
        target: the scored tokens, `[M]`.
        stretch: the stretch that each belongs to, `[M]`; `count` of them in `preferences` preferences.
        count: stretches.
        preferences: preferences.
        media: pictures, as the model takes them.
    """

    ids: Tensor
    mask: Tensor | None
    predictor: Tensor
    target: Tensor
    stretch: Tensor
    count: int
    preferences: int
    media: dict[str, Tensor]


@dataclass(frozen=True)
class Loop:
    """A hand-written loop over padded rows: stock backbone, logits at the scored places only.

    Cases that continue one another (steps of one path) share a row, as a careful loop would have it.

    Args:
        policy: the model in training.
        reference: the frozen model.
        loss: of the rewards.
        device: of both.
    """

    policy: nn.Module
    reference: nn.Module
    loss: Loss
    device: str = "cpu"

    def prepare(self, samples: Sequence[Sample]) -> Padded:
        """Rows, mask and scored places of a batch."""
        rows: list[EncodedCase] = []
        predictor, target, stretch, count = [], [], [], 0
        for sample in samples:
            rows_here = longest_paths(sample.encoded.cases)
            for case in sample.encoded.cases:
                row = len(rows) + next(r for r, other in enumerate(rows_here) if _continues(other, case))
                places = np.arange(len(case.prompt.ids), case.length) - 1
                predictor.append((row, places))
                target.append(case.response)
                stretch.append(np.full(len(places), count))
                count += 1
            rows += rows_here
        width = max(row.length for row in rows)
        ids, mask, types = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(3))
        for number, row in enumerate(rows):
            ids[number, : row.length], mask[number, : row.length] = row.ids, 1
            types[number, : row.length] = row.token_type
        flat = [row * width + places for row, places in predictor]
        flat_M, target_M, stretch_M = (torch.from_numpy(np.concatenate(part)) for part in (flat, target, stretch))
        return Padded(
            torch.from_numpy(ids).to(self.device),
            None if mask.all() else torch.from_numpy(mask).to(self.device),
            flat_M.to(self.device),
            target_M.to(self.device),
            stretch_M.to(self.device),
            count,
            len(samples),
            self._media(rows, types),
        )

    def _media(self, rows: Sequence[EncodedCase], types: np.ndarray) -> dict[str, Tensor]:
        """The pictures of each row, one after the other, as a processor gives them."""
        items: list[MediaItem] = [item for row in rows for item in row.prompt.items]
        if not items:
            return {}
        names = items[0].features
        found = {name: torch.cat([item.features[name] for item in items]) for name in names}
        if "mm_token_type_ids" in inspect.signature(self.policy.model.forward).parameters:  # type: ignore[union-attr]
            found["mm_token_type_ids"] = torch.from_numpy(types)
        return {name: value.to(self.device) for name, value in found.items()}

    def ready(self) -> None:
        """Both models attend by PyTorch's `sdpa`."""
        plain_attention(self.policy, self.reference)

    def step(self, batch: Padded) -> Tensor:
        """Log-ratios, the loss, and its gradient."""
        with torch.no_grad():
            reference = self.logps(self.reference, batch)
        rewards = BETA * (self.logps(self.policy, batch) - reference)
        loss = self.loss(rewards.view(batch.preferences, -1)).mean()
        loss.backward()
        return loss.detach()

    def logps(self, model: Any, batch: Padded) -> Tensor:
        """Log-likelihood of each stretch, float32."""
        output = model.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **batch.media)
        states = output.last_hidden_state.flatten(0, 1)[batch.predictor]
        scores = model.lm_head(states).float().log_softmax(-1).gather(1, batch.target[:, None]).squeeze(1)
        return scores.new_zeros(batch.count).index_add(0, batch.stretch, scores)

    def pushed(self, batch: Padded) -> int:
        """Rows times the longest."""
        return batch.ids.numel()


def _continues(longer: EncodedCase, case: EncodedCase) -> bool:
    return np.array_equal(longer.identity[: case.length], case.identity)


def longest_paths(cases: Sequence[EncodedCase]) -> list[EncodedCase]:
    """Cases that no other continues; of equal ones, the first."""
    return [
        case
        for n, case in enumerate(cases)
        if not any(_continues(other, case) and (other.length > case.length or m < n) for m, other in enumerate(cases))
    ]


@dataclass(frozen=True)
class Unrolled:
    """As many distinct tokens as a preference has, as one plain sequence with as many scored places.

    Args:
        loop: scores it.
        tokens: the distinct tokens of a preference and how many of them are scored.
    """

    loop: Loop
    tokens: Callable[[EncodedPreference], tuple[np.ndarray, int]]

    def prepare(self, samples: Sequence[Sample]) -> Padded:
        """One row per preference."""
        return self.loop.prepare([Sample(self._unrolled(sample.encoded)) for sample in samples])

    def _unrolled(self, encoded: EncodedPreference) -> EncodedPreference:
        ids, scored = self.tokens(encoded)
        prompt, zeros = ids[:-scored], np.zeros_like(ids)
        context = EncodedPrompt(prompt, prompt.copy(), zeros[:-scored], ())
        case = EncodedCase(context, ids[-scored:], zeros[-scored:], np.arange(len(ids))[None])
        return EncodedPreference(Preference({"sequence": Case.raw("", "-")}), (case,))

    def ready(self) -> None:
        """As the loop."""
        self.loop.ready()

    def step(self, batch: Padded) -> Tensor:
        """Its likelihood against the reference, and the gradient."""
        return self.loop.step(batch)

    def pushed(self, batch: Padded) -> int:
        """Rows times the longest."""
        return self.loop.pushed(batch)


def plain_attention(*models: nn.Module) -> None:
    """Have models attend by PyTorch's `sdpa`, as `transformers` does by itself."""
    for model in models:
        set_text_attention(model, "sdpa")


def likelihood(rewards: Tensor) -> Tensor:
    """The negative sum of the rewards, for sequences that are compared with nothing."""
    return -rewards.sum(1)


def pairs(*compared: tuple[int, int]) -> Loss:
    """Sum over pairs (better, worse) of stretches of `-log σ(r_better - r_worse)`."""
    better, worse = ([pair[side] for pair in compared] for side in (0, 1))
    return lambda rewards: -logsigmoid(rewards[:, better] - rewards[:, worse]).sum(1)


def ranking(rewards: Tensor) -> Tensor:
    """Plackett-Luce of stretches that stand best first."""
    return (rewards.flip(1).logcumsumexp(1).flip(1) - rewards).sum(1)
