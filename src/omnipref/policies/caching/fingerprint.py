"""Exact fingerprints of what a model computes: one changed bit in one weight gives another.

Weights are summed as integers, each value's bits times an odd multiplier that its place gives, modulo 2^64: a single
change cannot cancel, because an odd number has an inverse, and the order of summation, the device and the sharding do
not matter. What does not act is left out: adapters that are switched off, names that wrappers add, and settings that
only choose between equal kernels. So a model with its LoRA off has the fingerprint of the plain model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from omnipref.errors import CapabilityError

SCORING = 1
"""Number of our own way to compute scores and features; raised when it changes their values."""
PIECE = 2**20
"""Values looked at at once, so that the integers fit beside the model."""
SAMPLED = 32
"""Values of each tensor that tell whether it was written past PyTorch's own count of changes."""
KEPT_STATES = 8

_TRANSPARENT = frozenset({"_checkpoint_wrapped_module", "_orig_mod", "_fsdp_wrapped_module"})
_INSIDE = ("base_layer", "original_module")
_ORIGIN = {"_name_or_path", "_commit_hash", "transformers_version", "architectures"}
_KERNELS = {"_attn_implementation", "_experts_implementation", "use_cache", "dtype", "torch_dtype"}
_GENERATION = {"bos_token_id", "eos_token_id", "pad_token_id"}
_WITHOUT_EFFECT = _ORIGIN | _KERNELS | _GENERATION
"""Settings of a configuration that do not change scores; the weights' own types are looked at one by one."""


class Fingerprints:
    """Fingerprints of modules, taken anew when a weight, an adapter or autocast has changed since the last time.

    Example:
        >>> fingerprints, module = Fingerprints(), nn.Linear(2, 2)
        >>> first = fingerprints.of(module)
        >>> with torch.no_grad():
        ...     _ = module.weight[0, 0].mul_(2)
        >>> fingerprints.of(module) == first
        False
    """

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[nn.Module, list[tuple[list, list, str]]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Fingerprints], tuple[()]]:
        return Fingerprints, ()

    def of(self, module: nn.Module, parts: Collection[str] | None = None) -> str:
        """The fingerprint of a module as it acts now.

        Args:
            module: without wrappers around it.
            parts: only its own tensors and those of its children of these names.

        Raises:
            CapabilityError: a process does not hold or cannot gather the weights.
        """
        found = sorted(acting(module, parts=parts), key=lambda item: item[0])
        tensors = [value for _, value in found if isinstance(value, Tensor)]
        state: list[Any] = [_computation(tensors), _sampled(tensors)]
        state += [(name, id(v), v._version) if isinstance(v, Tensor) else (name, v) for name, v in found]
        known = self._seen.setdefault(module, [])
        for before, _, result in known:
            if before == state:
                return result
        result = fingerprint(module, parts)
        known.append((state, tensors, result))  # holding the tensors keeps their ids from being given anew
        del known[:-KEPT_STATES]
        return result


def fingerprint(module: nn.Module, parts: Collection[str] | None = None) -> str:
    """A hash of everything that shapes what a module computes, the same on every device and in every process.

    Under FSDP2 every process must call it, because shards are gathered one tensor at a time.

    Args:
        module: without wrappers around it.
        parts: only its own tensors and those of its children of these names.

    Raises:
        CapabilityError: a process does not hold or cannot gather the weights.
    """
    found = sorted(acting(module, parts=parts), key=lambda item: item[0])
    digest = hashlib.sha256(f"{SCORING} {transformers.__version__} {_own_class(module)}".encode())
    digest.update(_computation([value for _, value in found if isinstance(value, Tensor)]).encode())
    digest.update(_configuration(module).encode())
    done: dict[int, str] = {}
    for name, value in found:
        if isinstance(value, Tensor) and id(value) not in done:
            done[id(value)] = f"{tuple(value.shape)} {value.dtype} {checksums(value)}"
        digest.update(f"\n{name} {done[id(value)] if isinstance(value, Tensor) else value}".encode())
    return digest.hexdigest()[:32]


def acting(module: nn.Module, prefix: str = "", parts: Collection[str] | None = None) -> Iterator[tuple[str, Any]]:
    """Name and value of each parameter, kept buffer and adapter setting that acts in a module as it is now.

    Args:
        module: what to look at.
        prefix: before each name.
        parts: only the module's own tensors and those of its children of these names.
    """
    if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        inside = next(name for name in _INSIDE if name in module._modules)
        yield from acting(getattr(module, inside), prefix)
        if not module.disable_adapters:
            yield from _adapters(module, prefix, inside)
        return
    own = {**module._parameters, **module._buffers}
    for name, value in own.items():
        if value is not None and name not in module._non_persistent_buffers_set:
            yield prefix + name, value
    for name, child in module._modules.items():
        if child is not None and (parts is None or name in parts):
            yield from acting(child, prefix if name in _TRANSPARENT else f"{prefix}{name}.")


def _adapters(module: Any, prefix: str, inside: str) -> Iterator[tuple[str, Any]]:
    """What active adapters add to a layer, by their places in the list of active ones: their names do not matter."""
    if module.merged_adapters:
        yield f"{prefix}merged", sorted(module.merged_adapters)
    for place, adapter in enumerate(module.active_adapters):
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            path = name.split(".")
            if path[0] != inside and adapter in path:
                yield prefix + ".".join(f"{place}" if step == adapter else step for step in path), value
        for name in module.other_param_names:
            settings = getattr(module, name, None)
            value = settings.get(adapter) if isinstance(settings, Mapping) else settings
            if isinstance(value, (bool, int, float, str)):
                yield f"{prefix}{name}.{place}", value


def checksums(tensor: Tensor) -> list[int]:
    """Two's-complement sums of a tensor's bits, each piece of 2^20 values for itself.

    Args:
        tensor: of any type; a sharded one is gathered.

    Raises:
        CapabilityError: it is partitioned in a way that cannot be gathered here.
    """
    if hasattr(tensor, "ds_id") or hasattr(tensor, "_fsdp_flattened") or tensor.is_meta:
        raise CapabilityError(
            "the weights are spread over processes by DeepSpeed ZeRO-3 or FSDP version 1, so what is kept cannot be "
            "told apart by them. To mend: use DDP, ZeRO-2 or FSDP version 2"
        )
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
    bits = _bits(whole.detach().reshape(-1))
    odd = _multipliers(bits.device)
    sums = [(piece.to(torch.int64) * odd[: len(piece)]).sum() for piece in bits.split(PIECE) if len(piece)]
    return torch.stack(sums).tolist() if sums else []


def _bits(flat: Tensor) -> Tensor:
    """A tensor's bits as integers of at most 32 bits: in 64, two changes of sign would cancel."""
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    if flat.element_size() == 8:
        return flat.contiguous().view(torch.int32)
    return flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[flat.element_size()])


@lru_cache(maxsize=8)
def _multipliers(device: torch.device) -> Tensor:
    """Odd numbers without pattern for each place in a piece (the finaliser of splitmix64, with signed shifts)."""
    value = torch.arange(1, PIECE + 1, dtype=torch.int64, device=device) * -7046029254386353131
    value = (value ^ (value >> 30)) * -4658895280553007687
    value = (value ^ (value >> 27)) * -7723592293110705685
    return (value ^ (value >> 31)) | 1


def _sampled(tensors: list[Tensor]) -> int:
    """A checksum over a few values of each tensor: tells of writing through `.data`, which counts no change."""
    few = []
    for tensor in tensors:
        if tensor.numel() and not hasattr(tensor, "full_tensor") and not tensor.is_meta:
            flat = tensor.detach().reshape(-1)
            few.append(_bits(flat[:: max(1, len(flat) // SAMPLED)]).to(torch.int64))
    by_device: dict[torch.device, list[Tensor]] = {}
    for values in few:
        by_device.setdefault(values.device, []).append(values)
    return sum(sum(checksums(torch.cat(values).to(torch.int32))) for values in by_device.values())


def _computation(tensors: list[Tensor]) -> str:
    """The types that a pass computes in: autocast's, where it is on."""
    kind = tensors[0].device.type if tensors else "cpu"
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return str(torch.get_autocast_dtype(kind)) if on else "as stored"


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has put itself before a module's class, so that its pass is one of all processes together."""
    return type(module).__mro__[0].__module__.startswith("torch.distributed")


def _own_class(module: nn.Module) -> str:
    """The module's class, whatever FSDP2 has put before it."""
    own = next(kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.distributed"))
    return f"{own.__module__}.{own.__qualname__}"


def _configuration(module: nn.Module) -> str:
    config = getattr(module, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}  # type: ignore[union-attr,operator]
    return json.dumps(_effective(settings), sort_keys=True, default=str)


def _effective(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _effective(item) for name, item in value.items() if name not in _WITHOUT_EFFECT}
    return [_effective(item) for item in value] if isinstance(value, (list, tuple)) else value
