"""Tensors kept by content, so that frozen encoders see each picture and each prompt once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class TensorCache:
    """Keeps tensors of one shape on the CPU by key, the longest unused out first.

    Args:
        capacity: most bytes kept.

    Example:
        >>> cache = TensorCache()
        >>> cache.gather(["a", "b", "a"], lambda new: torch.tensor([[10.0 * (i + 1)] for i in new])).flatten()
        tensor([10., 20., 10.])
        >>> cache.gather(["b"], lambda new: torch.zeros(0, 1)).flatten()
        tensor([20.])
    """

    def __init__(self, capacity: int = 2**30):
        self._capacity = capacity
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def gather(self, keys: Sequence[str], compute: Callable[[list[int]], Tensor]) -> Tensor:
        """Stack the tensors of all keys, `[len(keys), ...]`, on the CPU.

        Args:
            keys: contents, repeats allowed.
            compute: takes the places in `keys` that are not held (first place of each key) and returns their tensors,
                stacked. It is called only if there are any.
        """
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        found = {key: self._held[key] for key in first if key in self._held}
        new = sorted(place for key, place in first.items() if key not in found)
        if new:
            fresh = compute(new).detach().cpu()
            # Cloned, because a row would keep its whole batch in memory.
            found |= {keys[place]: value.clone() for place, value in zip(new, fresh, strict=True)}
        for key, value in found.items():
            self._held[key] = value
            self._held.move_to_end(key)
        self._trim()
        return torch.stack([found[key] for key in keys])

    def _trim(self) -> None:
        if not self._held:
            return
        each = max(1, next(iter(self._held.values())).nbytes)
        while len(self._held) * each > self._capacity:
            self._held.popitem(last=False)
