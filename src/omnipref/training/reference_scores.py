"""Scores that need no pass of their model: kept on disk by weights and content, or held in memory for one run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive.backbone import language_model
from omnipref.policies.caching.fingerprint import Fingerprints
from omnipref.policies.caching.store import Store
from omnipref.policies.policy import Batch, Policy, Reference
from omnipref.scores import Scores
from omnipref.training.data import EncodedPreferences

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
CaseScores = Mapping[str, Tensor]
"""`logp` `[U]` and `mask` `[U]` of one case."""


class ScoreCache:
    """Per-token scores of cases on disk: a file per model as it acts (adapters, autocast), in it a value per case.

    Args:
        directory: of the caches.
        strict: raise an error where the cache cannot be used, instead of going on without it.
    """

    def __init__(self, directory: Path, *, strict: bool = False):
        self.directory, self.strict = directory, strict
        self._fingerprints = Fingerprints()
        self._stores: dict[str, Store] = {}
        self._told = False

    def weights(self, model: nn.Module) -> str:
        """What a model's scores are kept under, as it acts now; nothing where its weights cannot be told.

        Args:
            model: with whatever wraps it.

        Raises:
            CapabilityError: its weights cannot be told, if `strict`.
        """
        try:
            return self._fingerprints.of(language_model(model))
        except CapabilityError as error:
            if self.strict:
                raise
            if not self._told:
                logger.warning("scores are not kept: %s", error)
            self._told = True
            return ""

    def find(self, weights: str, keys: Sequence[str]) -> dict[str, CaseScores]:
        """The scores of those cases that are there.

        Args:
            weights: from `weights`.
            keys: of cases.
        """
        return dict(self._store(weights).get(list(keys))) if weights else {}

    def add(self, weights: str, scores: Mapping[str, CaseScores]) -> None:
        """Keep the scores of cases by key.

        Args:
            weights: from `weights`.
            scores: from `by_case`.
        """
        if weights:
            finite = {key: value for key, value in scores.items() if value["logp"].isfinite().all()}
            self._store(weights).put(finite)

    def _store(self, weights: str) -> Store:
        if weights not in self._stores:
            path = self.directory / "reference_scores" / f"{weights}.sqlite"
            self._stores[weights] = Store(path, strict=self.strict)
        return self._stores[weights]


def by_case(batch: Batch, logp_NU: Tensor, mask_NU: Tensor) -> dict[str, CaseScores]:
    """The scores of a batch's cases by key, without padding, on the CPU; none where cases have no keys.

    Args:
        batch: what was scored.
        logp_NU: per-unit log-likelihoods.
        mask_NU: units that count.
    """
    logp_NU, mask_NU = logp_NU.detach().cpu(), mask_NU.cpu()
    found = {}
    for key, logp, mask in zip(batch.inputs.get("case_keys", ()), logp_NU, mask_NU, strict=False):
        length = int(mask.nonzero().max()) + 1 if mask.any() else 0
        found[key] = {"logp": logp[:length].clone(), "mask": mask[:length].clone()}
    return found


def stacked(values: Sequence[Tensor], units: int = 0) -> Tensor:
    """Rows of different lengths as `[N, U]`, padded with zeros.

    Args:
        values: `[own U]` each.
        units: least width, U.

    Example:
        >>> stacked([torch.tensor([1.0]), torch.tensor([2.0, 3.0])]).tolist()
        [[1.0, 0.0], [2.0, 3.0]]
    """
    width = max(units, *(len(value) for value in values))
    return torch.stack([nn.functional.pad(value, (0, width - len(value))) for value in values])


class ReferenceScores:
    """Reference scores of a run: those made ahead are held in memory, those on disk are taken and added to.

    Args:
        reference: makes the scores; may be let go (set to None) once all are held.
        disk: None for memory alone.
    """

    def __init__(self, reference: Reference | None, disk: ScoreCache | None = None):
        self.reference, self.disk = reference, disk
        self.held: dict[str, Tensor] = {}
        self._weights = ""

    @torch.no_grad()
    def find(self, model: nn.Module, batch: Batch) -> list[Tensor] | None:
        """Reference scores of each case `[own U]`, or None if any case of any process is not there.

        Every process must call it before it scores, because a pass of the reference may be one of all processes.

        Args:
            model: the policy's model, which the reference may share weights with.
            batch: what will be scored.
        """
        keys: Sequence[str] = batch.inputs.get("case_keys", ())
        found = {key: self.held[key] for key in keys if key in self.held}
        if self.disk and self.reference and len(found) < len(set(keys)):
            with self.reference(model) as scored:
                self._weights = self.disk.weights(scored)
            found |= {key: value["logp"] for key, value in self.disk.find(self._weights, keys).items()}
        missing = not keys or len(found) < len(set(keys))
        return None if _anywhere(missing, next(model.parameters()).device) else [found[key] for key in keys]

    def add(self, batch: Batch, scores: Scores) -> None:
        """Keep what the reference gave for a batch that was not found.

        Args:
            batch: what was scored.
            scores: under the policy, with `ref_logp` beside.
        """
        if self.disk and scores.ref_logp is not None:
            self.disk.add(self._weights, by_case(batch, scores.ref_logp, scores.mask))

    @torch.no_grad()
    def score_ahead(
        self, policy: Policy, model: nn.Module, data: EncodedPreferences, batch_size: int = 8, *, progress: bool = True
    ) -> None:
        """Hold the scores of all records; processes share out those that are not on disk.

        Args:
            policy: scores.
            model: its model, which the reference may share weights with.
            data: encoded records.
            batch_size: records at once.
            progress: whether to show bars.
        """
        if self.reference is None:
            raise ValueError("the reference has been let go")
        numbers = tqdm(range(len(data)), desc="keys of cases", unit="record", leave=False, disable=not progress)
        keys = [policy.case_keys(data[i]) for i in numbers]
        with self.reference(model) as scored:
            if self.disk:
                self._weights = self.disk.weights(scored)
                self._hold(self.disk.find(self._weights, list({key: None for own in keys for key in own})))
            missing = [i for i, own in enumerate(keys) if any(key not in self.held for key in own)]
            missing = sorted(set().union(*_everyone(missing)))
            for fresh in _scored(policy, scored, data, missing, batch_size, progress):
                self._hold(fresh)
                if self.disk and os.environ.get("LOCAL_RANK", "0") == "0":  # one process of each machine writes
                    self.disk.add(self._weights, fresh)

    def _hold(self, scores: Mapping[str, CaseScores]) -> None:
        self.held |= {key: value["logp"] for key, value in scores.items()}


def _scored(
    policy: Policy, model: nn.Module, data: EncodedPreferences, numbers: Sequence[int], batch_size: int, progress: bool
) -> Iterator[dict[str, CaseScores]]:
    """Scores of some records, each process a share of every round; all processes get all scores."""
    device, count = next(model.parameters()).device, _processes()
    rank = dist.get_rank() if count > 1 else 0
    rounds = range(0, len(numbers), batch_size * count)
    for start in tqdm(rounds, desc="reference scores", unit="batch", leave=False, disable=not progress or rank > 0):
        together = numbers[start : start + batch_size * count]
        own = together[rank::count] or together[:1]  # a pass may be one of all processes
        batch = policy.collate([data[i] for i in own]).to(device)
        scores = policy.score(model, batch)
        fresh = by_case(batch, scores.logp, scores.mask)
        yield {key: value for part in _everyone(fresh) for key, value in part.items()}


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _everyone(value: Value) -> list[Value]:
    """A value of every process."""
    if _processes() == 1:
        return [value]
    found = [value] * _processes()
    dist.all_gather_object(found, value)
    return found


def _anywhere(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set in any process."""
    if _processes() == 1:
        return flag
    found = torch.tensor(int(flag), device=device)
    dist.all_reduce(found)
    return bool(found.item())
