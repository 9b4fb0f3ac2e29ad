"""What a model's encoder of pictures or clips gives, item by item, and put together for its forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from omnipref.errors import CapabilityError

Counts = Sequence[Mapping[str, int]]
"""First-axis lengths of the features of some items."""


@dataclass(frozen=True)
class ItemFeatures:
    """Encoded features of one item.

    Args:
        pooled: what stands in for its tokens: one entry for the item, or for each of its slices or frames.
        layers: the same for each inner layer that the model reads too ("deepstack").
        batched: whether the model itself gives features as one tensor with a batch of one, rather than as a list.
    """

    pooled: tuple[Tensor, ...]
    layers: tuple[tuple[Tensor, ...], ...] = ()
    batched: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return (*self.pooled, *(entry for layer in self.layers for entry in layer))

    def map(self, change: Callable[[Tensor], Tensor]) -> ItemFeatures:
        """The same with every tensor changed."""
        layers = tuple(tuple(map(change, layer)) for layer in self.layers)
        return ItemFeatures(tuple(map(change, self.pooled)), layers, self.batched)

    def named(self) -> dict[str, Tensor]:
        """The tensors by name; `unnamed` is the way back.

        Example:
            >>> ItemFeatures.unnamed(ItemFeatures((torch.ones(1),), batched=True).named())
            ItemFeatures(pooled=(tensor([1.]),), layers=(), batched=True)
        """
        kind = "batched" if self.batched else "listed"
        found = {f"{kind}.{i}": entry for i, entry in enumerate(self.pooled)}
        return found | {f"layer.{i}.{j}": entry for i, own in enumerate(self.layers) for j, entry in enumerate(own)}

    @staticmethod
    def unnamed(tensors: Mapping[str, Tensor]) -> ItemFeatures:
        """Features from their tensors by name."""
        pooled: dict[int, Tensor] = {}
        layers: dict[int, dict[int, Tensor]] = {}
        for name, value in tensors.items():
            _, *places = name.split(".")
            if len(places) == 1:
                pooled[int(places[0])] = value
            else:
                layers.setdefault(int(places[0]), {})[int(places[1])] = value
        listed = tuple(_in_order(layers[i]) for i in sorted(layers))
        return ItemFeatures(_in_order(pooled), listed, any(name.startswith("batched") for name in tensors))


def _in_order(values: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
    return tuple(values[i] for i in sorted(values))


def encode_items(
    encoder: Callable[..., Any], groups: Sequence[Mapping[str, Tensor]], counts: Counts, wanted: Sequence[int]
) -> list[ItemFeatures]:
    """Run a model's encoder once per group on those items that are wanted.

    Args:
        encoder: such as `get_image_features`.
        groups: the encoder's arguments for the items of one shape, joined along their first axis.
        counts: of every item, group after group.
        wanted: numbers of the items to encode, ascending.

    Raises:
        CapabilityError: what the model returns cannot be told apart by item.
    """
    found: list[ItemFeatures] = []
    names = set(inspect.signature(encoder).parameters)
    start = 0
    for group, part in item_groups(groups, counts):
        own = [number - start for number in wanted if start <= number < start + len(part)]
        start += len(part)
        if not own:
            continue
        if len(own) < len(part):
            pieces = split_items(group, part)
            group = {name: torch.cat([pieces[i][name] for i in own]) for name in group}
        declared = {name: value for name, value in group.items() if name in names}
        output = encoder(**(declared or group), return_dict=True)  # a wrapper declares nothing and takes all
        found += _by_item(output, [part[i] for i in own])
    return found


def _by_item(output: Any, counts: Counts) -> list[ItemFeatures]:
    pooled = _divide(output.pooler_output, counts)
    layers = [_divide(layer, counts) for layer in getattr(output, "deepstack_features", None) or ()]
    batched = isinstance(output.pooler_output, Tensor)
    return [ItemFeatures(pooled[i], tuple(layer[i] for layer in layers), batched) for i in range(len(counts))]


def _divide(features: Any, counts: Counts) -> list[tuple[Tensor, ...]]:
    """Features of each item: encoders give one entry per item, per slice of its inputs (tiles), or per frame."""
    entries = list(features)
    equal = len(entries) // len(counts)
    candidates = [[1] * len(counts), *([count[name] for count in counts] for name in counts[0]), [equal] * len(counts)]
    for sizes in candidates:
        if sum(sizes) == len(entries):
            ends = np.cumsum(sizes)
            return [tuple(entries[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    raise CapabilityError(
        f"the model encodes {len(counts)} media as {len(entries)} entries, which cannot be told apart"
    )


def placed(items: Sequence[ItemFeatures], order: Sequence[int]) -> BaseModelOutputWithPooling:
    """Features by placement, as the model's forward pass takes them in `mm_encoder_outputs`.

    Args:
        items: of each distinct item.
        order: the item of each placement, in reading order.
    """
    entries: Any = [entry for i in order for entry in items[i].pooled]
    if items[0].batched:
        entries = torch.cat([entry.reshape(-1, entry.shape[-1]) for entry in entries])[None]
    found = BaseModelOutputWithPooling(pooler_output=entries)
    if items[0].layers:
        depth = range(len(items[0].layers))
        found["deepstack_features"] = [[entry for i in order for entry in items[i].layers[k]] for k in depth]
    return found


def item_groups(
    groups: Sequence[Mapping[str, Tensor]], counts: Counts
) -> Iterator[tuple[Mapping[str, Tensor], Counts]]:
    """Each group with the counts of its own items.

    Args:
        groups: features of several items, joined along their first axis.
        counts: of every item, group after group.
    """
    start = 0
    for group in groups:
        name, length, end = next(iter(group)), 0, start
        while length < len(group[name]):
            length += counts[end][name]
            end += 1
        yield group, counts[start:end]
        start = end


def split_items(group: Mapping[str, Tensor], counts: Counts) -> list[dict[str, Tensor]]:
    """Undo the joining of a group of features.

    Args:
        group: features of several items, joined along their first axis.
        counts: of each item.
    """
    pieces = {name: value.split([count[name] for count in counts]) for name, value in group.items()}  # type: ignore[misc]
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(len(counts))]
