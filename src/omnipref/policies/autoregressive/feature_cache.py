"""Features of frozen encoders, kept by weights and content: in memory within a run, on disk between runs."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive.features import ItemFeatures
from omnipref.policies.caching.fingerprint import Fingerprints, acting, is_sharded
from omnipref.policies.caching.store import Store

logger = logging.getLogger(__name__)

CAPACITY = 2**28
"""Bytes of features kept in memory, on the device that made them."""


class FeatureCache:
    """Encodes each distinct item once while the weights behind its features are frozen, and otherwise every time.

    Which weights those are is seen by watching which parts of the model run while it encodes. Policy and reference
    share features where these weights are equal, a reference of its own (a frozen copy) included. An encoder that
    draws random numbers, changes its own buffers, or is sharded over processes is run every time.

    Args:
        capacity: most bytes kept in memory, the longest unused out first.
        directory: where features are kept on disk too; None for memory alone.
        strict: raise `ConfigError` where the disk cannot be used, instead of going on without.
    """

    def __init__(self, capacity: int = CAPACITY, directory: Path | None = None, *, strict: bool = False):
        self.capacity, self.directory, self.strict = capacity, directory, strict
        self._held: OrderedDict[tuple[str, str], ItemFeatures] = OrderedDict()
        self._bytes = 0
        self._parts: dict[tuple[type, str], frozenset[str]] = {}
        self._fingerprints = Fingerprints()
        self._stores: dict[str, Store] = {}
        self._said: set[str] = set()

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[int, Path | None]]:
        return FeatureCache, (self.capacity, self.directory)  # loader processes and copies need no features

    def gather(
        self,
        backbone: nn.Module,
        modality: str,
        keys: Sequence[str],
        encode: Callable[[Sequence[int]], list[ItemFeatures]],
    ) -> list[ItemFeatures]:
        """Features of all items, those that are kept without running the encoder.

        Args:
            backbone: the model that encodes, as it acts now.
            modality: kind of the items.
            keys: content of each item.
            encode: takes the numbers of items, ascending, and returns their features.
        """
        weights = self._weights(backbone, modality)
        names = [f"{modality}:{key}" for key in keys]
        found = self._find(weights, names, _device(backbone)) if weights else {}
        missing = [i for i, name in enumerate(names) if name not in found]
        if not missing:
            return [found[name] for name in names]
        before = _changeable(backbone)
        with self._watching(backbone, modality):
            fresh = encode(missing)
        weights = self._weights(backbone, modality)
        if weights and before == _changeable(backbone) and not any(t.requires_grad for f in fresh for t in f.tensors):
            self._keep(weights, {names[i]: features for i, features in zip(missing, fresh, strict=True)})
        found |= {names[i]: features for i, features in zip(missing, fresh, strict=True)}
        return [found[name] for name in names]

    @contextmanager
    def _watching(self, backbone: nn.Module, modality: str) -> Iterator[None]:
        """Note which children of the backbone run inside."""
        owner = {id(module): name for name, child in backbone.named_children() for module in child.modules()}
        ran: set[str] = set()

        def note(module: nn.Module, _: object) -> None:
            if id(module) in owner:
                ran.add(owner[id(module)])

        handle = register_module_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()
        place = (type(backbone), modality)
        self._parts[place] = self._parts.get(place, frozenset()) | ran

    def _weights(self, backbone: nn.Module, modality: str) -> str | None:
        """The fingerprint of the weights that encode; None where they are unknown yet, or features cannot be kept."""
        parts = self._parts.get((type(backbone), modality))
        if parts is None:
            return None
        found = acting(backbone, parts=parts)
        trained = next((name for name, value in found if isinstance(value, Tensor) and value.requires_grad), None)
        if trained:
            return self.not_kept(f"`{trained}` trains", "leave it out of training (see --lora-target-modules)")
        if any(map(is_sharded, backbone.modules())):
            return self.not_kept("the model is sharded over processes, which encode together", "use DDP")
        try:
            return self._fingerprints.of(backbone, parts)
        except CapabilityError as error:
            return self.not_kept(str(error), "use DDP")

    def not_kept(self, reason: str, cure: str) -> None:
        """Say once why features that are to be kept on disk are not.

        Args:
            reason: what is in the way.
            cure: what would mend it.
        """
        if self.directory and reason not in self._said:
            self._said.add(reason)
            logger.warning(
                "vision features are computed at every step: %s. To mend: %s, or drop --cache-vision-features",
                reason,
                cure,
            )

    def _find(self, weights: str, names: Sequence[str], device: torch.device) -> dict[str, ItemFeatures]:
        found = {name: self._held[weights, name] for name in names if (weights, name) in self._held}
        for name in found:
            self._held.move_to_end((weights, name))
        store = self._store(weights)
        elsewhere = [name for name in names if name not in found]
        if store and elsewhere:
            read = {name: ItemFeatures.unnamed(tensors) for name, tensors in store.get(elsewhere).items()}
            self._hold(weights, {name: features.map(lambda value: value.to(device)) for name, features in read.items()})
            found |= read
        return {name: features.map(lambda value: value.to(device)) for name, features in found.items()}

    def _keep(self, weights: str, fresh: dict[str, ItemFeatures]) -> None:
        fresh = {name: features.map(_alone) for name, features in fresh.items()}
        self._hold(weights, fresh)
        if store := self._store(weights):
            store.put({name: features.named() for name, features in fresh.items()})

    def _hold(self, weights: str, features: dict[str, ItemFeatures]) -> None:
        for name, value in features.items():
            if (weights, name) not in self._held:
                self._held[weights, name] = value
                self._bytes += _size(value)
        while self._bytes > self.capacity:
            _, value = self._held.popitem(last=False)
            self._bytes -= _size(value)

    def _store(self, weights: str) -> Store | None:
        if self.directory is None:
            return None
        if weights not in self._stores:
            path = self.directory / "vision_features" / f"{weights}.sqlite"
            self._stores[weights] = Store(path, strict=self.strict)
        return self._stores[weights]


def _size(features: ItemFeatures) -> int:
    return sum(value.nbytes for value in features.tensors)


def _alone(value: Tensor) -> Tensor:
    """A tensor that holds no other's memory: an item's part of a batch would keep the whole batch."""
    value = value.detach()
    return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _changeable(module: nn.Module) -> tuple[object, ...]:
    """What shows that a pass drew random numbers or changed buffers, so that another would give other features."""
    kind = _device(module).type
    states = [torch.get_rng_state(), *([] if kind == "cpu" else [torch.get_device_module(kind).get_rng_state()])]
    return (*(state.numpy().tobytes() for state in states), *(buffer._version for buffer in module.buffers()))
