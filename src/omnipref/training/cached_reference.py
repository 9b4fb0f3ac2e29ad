"""Reference scores computed once before training, kept on disk, and never used for other data or weights."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from omnipref.policies.policy import Batch, Policy, Reference
from omnipref.training.data import EncodedPreferences

logger = logging.getLogger(__name__)


class WithReference(Dataset):
    """Encoded records beside their reference scores, `(encoded, [cases, U])`."""

    def __init__(self, data: EncodedPreferences, logps: Sequence[Tensor]):
        self.data, self.logps = data, logps

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.data[index], self.logps[index]


def collate_with_reference(policy: Policy) -> Callable[[Sequence[tuple[Any, Tensor]]], dict[str, Any]]:
    """A collator that adds `ref_logp_NU`, padded with zeros, to the batch's inputs."""

    def collate(pairs: Sequence[tuple[Any, Tensor]]) -> dict[str, Any]:
        batch = policy.collate([encoded for encoded, _ in pairs])
        units = max(logp.shape[1] for _, logp in pairs)
        padded = torch.cat([nn.functional.pad(logp, (0, units - logp.shape[1])) for _, logp in pairs])
        return {
            "record": batch.cases.record_P,
            "batch": Batch(batch.cases, {**batch.inputs, "ref_logp_NU": padded}),
        }

    return collate


@torch.no_grad()
def score_reference(
    policy: Policy,
    model: nn.Module,
    reference: Reference,
    data: EncodedPreferences,
    path: Path,
    batch_size: int = 8,
    *,
    progress: bool = True,
) -> WithReference:
    """Score all records under the reference, or read the scores if this very reference has scored these records.

    Args:
        policy: scores.
        model: the policy's model, which the reference may share weights with.
        reference: what to score with.
        data: encoded records.
        path: safetensors file to read or write.
        batch_size: records at once.
        progress: whether to show a bar.
    """
    with reference(model) as scored:
        key = fingerprint(scored, policy, data)
        found = _read(path, key)
        if found is None:
            found = list(_score(policy, scored, data, batch_size, progress))
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            save_file({str(i): logp for i, logp in enumerate(found)}, temporary, metadata={"key": key})
            os.replace(temporary, path)
    return WithReference(data, found)


def _score(
    policy: Policy, model: nn.Module, data: EncodedPreferences, batch_size: int, progress: bool
) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    starts = range(0, len(data), batch_size)
    for start in tqdm(starts, desc="reference scores", unit="batch", leave=False, disable=not progress):
        encoded = [data[i] for i in range(start, min(start + batch_size, len(data)))]
        batch = policy.collate(encoded).to(device)
        scores = policy.score(model, batch)
        for p in range(batch.cases.count):
            own = batch.cases.preference_N == p
            units = int(scores.mask[own].any(0).nonzero().max()) + 1
            yield scores.logp[own, :units].float().cpu().contiguous()


def fingerprint(model: nn.Module, policy: Policy, data: EncodedPreferences) -> str:
    """A hash of weights, which of them act, token ids and media, so that changed data or weights are scored anew."""
    digest = hashlib.sha256()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            digest.update(f"{module.active_adapters}{module.disable_adapters}".encode())
    for name, parameter in sorted(model.named_parameters()):
        value = parameter.detach().float()
        place = torch.arange(value.numel(), device=value.device).remainder(1009).view_as(value)
        sums = (value.sum().item(), value.abs().sum().item(), (value * place).sum().item())
        digest.update(f"{name}{tuple(value.shape)}{sums}".encode())
    for index in range(len(data)):
        inputs = policy.collate([data[index]]).inputs
        for name in sorted(inputs):
            _update(digest, inputs[name])
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(value.contiguous().cpu().numpy().tobytes())
    elif isinstance(value, dict):
        for name in sorted(value):
            _update(digest, value[name])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _update(digest, item)
    else:
        digest.update(repr(value).encode())


def _read(path: Path, key: str) -> list[Tensor] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return [file.get_tensor(str(i)) for i in range(len(file.keys()))]
    except Exception as error:  # a broken cache must cost a second pass, not the run
        logger.warning("the cached reference scores in %s cannot be read (%s); scoring again", path, error)
        return None
    logger.info("the cached reference scores in %s are for other data or weights; scoring again", path)
    return None
