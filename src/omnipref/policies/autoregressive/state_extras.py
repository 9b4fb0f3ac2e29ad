"""Extras made of inner states, where the others are made of next-token distributions; `omnipref.scores` has the names.

Nothing here carries a gradient. States of the reference are read by hooks while it computes its log-likelihoods: what
a layer is, is told by where it stands and by what it takes and holds, so that no model is known by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive.backbone import accepts, blocks_of
from omnipref.policies.autoregressive.places import Places
from omnipref.scores import LEARNED_EXTRAS, stretched

Reading = Callable[[], Tensor]
"""Gives what was read, `[N, U, ...]`, after the pass."""


def of_logits(extras: Collection[str]) -> frozenset[str]:
    """Those that are made of next-token distributions, or that nobody knows."""
    return frozenset(extras) - POLICY_STATES.keys() - REFERENCE_STATES.keys()


def check_given(extras: Collection[str], reference: bool) -> None:
    """Refuse what a policy cannot give.

    Args:
        extras: names.
        reference: whether there is one.

    Raises:
        CapabilityError: an extra is learned while training, or reads states of a reference that is not given.
    """
    if learned := sorted(name for name in extras if name.partition("@")[0] in LEARNED_EXTRAS):
        raise CapabilityError(
            f"found the extras {', '.join(learned)}, which a network makes that is trained with the policy; expected "
            "others. To mend: train with `omnipref train` or `PreferenceTrainer`, which own that network"
        )
    if not reference and (missing := sorted(REFERENCE_STATES.keys() & set(extras))):
        raise CapabilityError(f"found the extras {', '.join(missing)} without a reference; pass `reference`")


@contextmanager
def watched(model: nn.Module, places: Places, extras: Collection[str]) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Read states of a reference in the forward pass inside; what it yields gives the extras after that.

    Args:
        model: the reference.
        places: where to read.
        extras: names; others than those of the reference's states are passed over.

    Raises:
        CapabilityError: the model's blocks cannot be found.
    """
    named = {name: REFERENCE_STATES[name] for name in sorted(REFERENCE_STATES.keys() & set(extras))}
    with ExitStack() as stack:
        readings = {name: stack.enter_context(read(model, places)) for name, read in named.items()}
        if named and any(getattr(part, "_compiled_call_impl", None) for part in model.modules()):
            # Hooks that come and go would have compiled layers compiled anew at every pass.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield lambda: {name: reading() for name, reading in readings.items()}


def taps_of(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a block whose outputs are its activations, each with its kind, equal in all blocks of a model.

    The block itself, which gives the residual stream; the projections in a part that takes an attention mask (queries,
    keys, values and output, however a model divides them); of other parts with matrices (MLP, experts, mixers) what
    they return, and what their activation functions return.

    Args:
        block: of `blocks_of`.
    """
    block = getattr(block, "_checkpoint_wrapped_module", block)  # FSDP recomputes a block from around it
    yield "", block
    for name, part in _inside(block):
        if accepts(part.forward, "attention_mask"):
            yield from _projections(part, name)
            continue
        if any(_is_matrix(weight) for weight in part.parameters()):
            yield name, part
        for inner, leaf in part.named_modules(prefix=name):
            if not any(True for _ in (*leaf.children(), *leaf.parameters())) and not isinstance(leaf, _NO_CHANGE):
                yield inner, leaf


_NO_CHANGE = (nn.Dropout, nn.Identity)


def _inside(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a module by name, and in place of a list those in it."""
    for name, part in module.named_children():
        if isinstance(part, nn.ModuleList):
            yield from ((f"{name}.{inner}", each) for inner, each in _inside(part))
        else:
            yield name, part


def _projections(part: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Parts that hold a matrix; an adapter's own count with the projection that they change."""
    for child_name, child in part.named_children():
        inner = f"{name}.{child_name}"
        weight = getattr(child, "weight", None)
        if isinstance(weight, Tensor) and _is_matrix(weight):
            if not isinstance(child, nn.Embedding):  # of distances between tokens
                yield inner, child
        else:
            yield from _projections(child, inner)


def _is_matrix(weight: Tensor) -> bool:
    return len(getattr(weight, "ds_shape", weight.shape)) == 2  # DeepSpeed's shards tell the shape of the whole


@contextmanager
def _hooked(
    modules: Iterable[tuple[Any, nn.Module]], places: Places, keep: Callable[[Any, Tensor], None]
) -> Iterator[None]:
    """Give `keep` each key and its module's outputs at the states that predict, `[M, ...]`, if it has one per token."""

    def hook(key: Any, _module: nn.Module, _inputs: object, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if isinstance(value, Tensor) and value.dim() > 2 and tuple(value.shape[:2]) == places.shape_BT:
            keep(key, value.detach().flatten(0, 1)[places.state_M])

    hooks = [module.register_forward_hook(partial(hook, key)) for key, module in modules]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@contextmanager
def _block_states(model: nn.Module, places: Places) -> Iterator[Reading]:
    """`ref_hidden`, put together block by block, so that nothing of its size is held twice."""
    blocks, seen = blocks_of(model), set[int]()
    found: list[Tensor] = []

    def keep(number: int, value_MD: Tensor) -> None:
        if not found:
            found.append(value_MD.new_zeros(*places.mask_NU.shape, len(blocks), value_MD.shape[-1]))
        found[0][:, :, number] = places.spread(value_MD)
        seen.add(number)

    def read() -> Tensor:
        if len(seen) < len(blocks):
            raise CapabilityError(f"found states of {len(seen)} blocks in {type(model).__name__}, of {len(blocks)}")
        return found[0]

    with _hooked(enumerate(blocks), places, keep):
        yield read


@contextmanager
def _activations(model: nn.Module, places: Places) -> Iterator[Reading]:
    """`ref_activation`; of each tensor only its mean over features is kept."""
    kinds: dict[str, list[Tensor]] = {}

    def keep(kind: str, value: Tensor) -> None:
        mean_M = value.flatten(1).to(torch.promote_types(value.dtype, torch.float32)).mean(1)
        kinds.setdefault(kind, []).append(stretched(places.spread(mean_M), places.mask_NU))

    def read() -> Tensor:
        if not kinds:
            raise CapabilityError(f"found no activation of {type(model).__name__} with one row for each token")
        return torch.stack([torch.stack(same).mean(0) for same in kinds.values()]).mean(0)

    with _hooked((tap for block in blocks_of(model) for tap in taps_of(block)), places, keep):
        yield read


def _own_states(hidden_TD: Tensor, places: Places) -> Tensor:
    """The state of each unit's own token, which knows the unit, unlike the one that predicts it."""
    value_LD = hidden_TD.detach()[places.own_L]
    return places.at_units(value_LD.to(torch.promote_types(value_LD.dtype, torch.float32)))


POLICY_STATES: Mapping[str, Callable[[Tensor, Places], Tensor]] = {"hidden": _own_states}
"""Extras of the policy's last hidden states, `[T, D]` over all tokens of a batch."""
REFERENCE_STATES: Mapping[str, Callable[[nn.Module, Places], AbstractContextManager[Reading]]] = {
    "ref_activation": _activations,
    "ref_hidden": _block_states,
}
"""Extras of states inside the reference."""
