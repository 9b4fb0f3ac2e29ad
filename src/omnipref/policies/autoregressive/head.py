"""The language-model head over scored positions, in chunks, so that no `[tokens, vocabulary]` tensor is ever held.

A chunk's logits live while its quantities are computed. For the gradient they are computed again, but for one chunk,
which is kept; where the head itself is frozen, the states' gradient comes with the forward pass and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive.backbone import call_inside
from omnipref.policies.autoregressive.extras import LOGP, REF_LOGP, quantity
from omnipref.policies.autoregressive.fused import quantities_of
from omnipref.scores import reads_reference

CHUNK_ELEMENTS = 2**26
"""Logits held at a time; 256 MiB in float32."""

Logits = Callable[[Tensor], Tensor]
"""From hidden states `[M, D]` to logits `[M, V]`, soft-capping and scale included; treats each row alone."""


@dataclass(frozen=True)
class States:
    """Last hidden states of a model, and its head, which makes logits of them.

    Args:
        head: from hidden states to logits.
        hidden_MD: states that predict the targets.
    """

    head: Logits
    hidden_MD: Tensor


def token_scores(
    policy: States,
    target_M: Tensor,
    extras: frozenset[str] = frozenset(),
    *,
    reference: States | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> dict[str, Tensor]:
    """`logp`, the log-probability of each target, and extras, each `[M]` (`top_k@K`: `[M, K]`), float32 at least.

    Args:
        policy: what is scored.
        target_M: token ids.
        extras: see `omnipref.scores.Scores`.
        reference: the reference at the same places; adds `ref_logp`. It gets no gradient.
        chunk_elements: logits to hold at a time, the reference's included.

    Raises:
        CapabilityError: an extra is unknown, or reads a reference that is not given or has another vocabulary.

    Example:
        >>> states = States(torch.nn.Linear(8, 32), torch.randn(5, 8))
        >>> found = token_scores(states, torch.arange(5), frozenset({"entropy", "top_k@3"}))
        >>> {name: tuple(value.shape) for name, value in found.items()}
        {'logp': (5,), 'entropy': (5,), 'top_k@3': (5, 3)}
    """
    wanted = {"logp": LOGP, **{name: quantity(name) for name in sorted(extras)}}
    if reference is not None:
        wanted["ref_logp"] = REF_LOGP
    elif reads_reference(extras):
        raise CapabilityError(f"found the extras {', '.join(sorted(extras))} without a reference; pass `reference`")

    def scores(target: Tensor, hidden: Tensor, ref_hidden: Tensor | None = None) -> tuple[Tensor, ...]:
        ref_logits = None
        if reference is not None and ref_hidden is not None:
            with torch.no_grad():
                ref_logits = reference.head(ref_hidden)
        return quantities_of(policy.head(hidden), target, ref_logits, tuple(wanted.values()))

    sides = [policy] if reference is None else [policy, reference]
    width, trained = _probe(sides)
    count = -(-len(target_M) * width * len(sides) // chunk_elements) or 1
    rows = -(-len(target_M) // count) or 1
    pieces = list(zip(target_M.split(rows), *(side.hidden_MD.split(rows) for side in sides), strict=True))
    costs = sum(each.width for each in wanted.values() if each.gradient is not None)
    if len(pieces) == 1 or not torch.is_grad_enabled():
        found = [scores(*piece) for piece in pieces]
    elif not trained and costs <= len(sides):
        found = [_with_slopes(scores, *piece) for piece in pieces]
    else:
        found = [checkpoint(scores, *piece, use_reentrant=False) for piece in pieces[:-1]]
        found.append(scores(*pieces[-1]))
    return dict(zip(wanted, map(torch.cat, zip(*found, strict=True)), strict=True))


def _probe(sides: Sequence[States]) -> tuple[int, bool]:
    """Size of the vocabulary, and whether weights of the policy's head are trained; asked with no state at all."""
    with torch.enable_grad():
        empty = [side.head(side.hidden_MD[:0].detach()) for side in sides]
    widths = [logits.shape[-1] for logits in empty]
    if len(set(widths)) > 1:
        raise CapabilityError(
            f"found {widths[0]} logits in the policy and {widths[1]} in the reference; an extra that compares their "
            "distributions needs one vocabulary"
        )
    return widths[0], empty[0].requires_grad


class _Slopes(torch.autograd.Function):
    """Quantities whose gradients to the states are known up to each state's own factor, and kept in place of logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, scores: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            values = scores(leaf)
            moving = [value for value in values if value.requires_grad]
            slopes = [torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0] for value in moving]
        ctx.moves = [value.requires_grad for value in values]
        ctx.save_for_backward(*slopes)
        ctx.set_materialize_grads(False)
        found = tuple(value.detach() for value in values)
        ctx.mark_non_differentiable(*(value for value, moves in zip(found, ctx.moves, strict=True) if not moves))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]: by decoration
        moving = [g for g, moves in zip(grad_outputs, ctx.moves, strict=True) if moves]
        pairs = [(g, slope) for g, slope in zip(moving, ctx.saved_tensors, strict=True) if g is not None]
        if not pairs:
            return None, None
        return torch.stack([g.reshape(-1, 1) * slope for g, slope in pairs]).sum(0).to(pairs[0][1].dtype), None


def _with_slopes(
    scores: Callable[..., tuple[Tensor, ...]], target: Tensor, hidden: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    return _Slopes.apply(hidden, lambda leaf: scores(target, leaf, *others))  # type: ignore[return-value]


@dataclass(frozen=True)
class Head:
    """The function from last hidden states to final logits of a `transformers` model.

    Args:
        linear: the output embeddings, with their adapters.
        factor: on the logits.
        cap: logits are cap tanh(logits / cap); None for no cap.
        bias: added to the logits, `[1, V]`; None for none.
        owner: the module in the model, whose hooks gather weights that are in shards; None for `linear`.
    """

    linear: nn.Module
    factor: float = 1.0
    cap: float | None = None
    bias: Tensor | None = None
    owner: nn.Module | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits `[M, V]` of hidden states `[M, D]`."""
        weight = getattr(self.linear, "weight", hidden)
        if hidden.dtype == torch.float32 and weight.dtype in (torch.bfloat16, torch.float16):
            hidden = hidden.to(weight.dtype)  # some models keep their states in float32
        logits = self.linear.forward(hidden)  # its hooks run once for all chunks, see `gathered`
        logits = logits * self.factor if self.factor != 1 else logits
        logits = logits if self.bias is None else logits + self.bias
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    def as_it_stands(self) -> Head:
        """The same weights in a head whose mode and active adapters stay what they are now."""
        return replace(self, linear=_as_it_stands(self.linear), owner=self.owner or self.linear)


Found = dict[str, Tensor]


def gathered(sides: Sequence[States], function: Callable[[Tensor], Found]) -> Found:
    """`function(hidden_MD)` of the first side's states, as one call of each side's head.

    FSDP and DeepSpeed gather a module's weights when it is called, and again when a gradient comes to what it returned:
    so they are whole for all chunks, and when these are computed again. FSDP must not round what modules return
    (`output_dtype` of its mixed precision), as it must not round what the model returns.

    Args:
        sides: whose logits `function` asks for.
        function: returns tensors by name.
    """
    heads = [side.head for side in sides if isinstance(side.head, Head)]
    owners = list({id(owner): owner for owner in (head.owner or head.linear for head in heads)}.values())
    for owner in owners:
        function = partial(call_inside, owner, function)
    return function(sides[0].hidden_MD)


def _as_it_stands(module: nn.Module) -> nn.Module:
    """Modules that share all tensors with the original and nothing else."""
    twin = object.__new__(type(module))  # FSDP's classes cannot be copied
    twin.__dict__.update(module.__dict__)
    twin._modules = {name: child and _as_it_stands(child) for name, child in module._modules.items()}
    return twin


def head_of(model: nn.Module) -> Head:
    """The head of a `transformers` model.

    Some models scale or soft-cap their logits after the head; what they do stands in their configuration.
    """
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    factor = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    width = config.hidden_size if getattr(config, "scale_decoder_outputs", False) else 1
    cap, bias = getattr(config, "final_logit_softcapping", None), getattr(model, "final_logits_bias", None)
    return Head(model.get_output_embeddings(), factor / divisor / width**0.5, cap, bias)  # type: ignore[operator]
