"""Keys of contents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def content_hash(*values: Any) -> str:
    """A name for some values: arrays, tensors, mappings of these, and what prints the same when it is the same.

    Shapes and types count, so that equal bytes of other things have other names.

    Args:
        values: in order.

    Example:
        >>> content_hash(np.arange(4)) == content_hash(torch.arange(4)), len(content_hash("a"))
        (True, 32)
        >>> content_hash(np.arange(4)) == content_hash(np.arange(4).reshape(2, 2))
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, Mapping):
            value = content_hash(*(part for name in sorted(value) for part in (name, value[name])))
        if isinstance(value, (Tensor, np.ndarray)):
            digest.update(f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')};".encode())
            digest.update(_bytes(value).data)
        else:
            digest.update(f"{value!r};".encode())
    return digest.hexdigest()


def _bytes(value: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)
