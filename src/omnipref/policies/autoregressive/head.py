"""Log-probabilities of given tokens without a [tokens, vocabulary] tensor: the head runs in chunks, recomputed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**24
"""Logits held at a time; 64 MiB in float32."""


def entropy(log_softmax_MV: Tensor) -> Tensor:
    """Entropy in nats of each row, `[M, V]` to `[M]`."""
    return -(log_softmax_MV.exp() * log_softmax_MV).sum(-1)


def square_sum(log_softmax_MV: Tensor) -> Tensor:
    """Sum of squared probabilities of each row, `[M, V]` to `[M]`."""
    return (2 * log_softmax_MV).exp().sum(-1)


EXTRAS: Mapping[str, Callable[[Tensor], Tensor]] = {"entropy": entropy, "square_sum": square_sum}
"""Quantities over the whole vocabulary that come from the same pass."""


def token_logps(
    head: Callable[[Tensor], Tensor],
    hidden_MD: Tensor,
    target_M: Tensor,
    extras: frozenset[str] = frozenset(),
    chunk_elements: int = CHUNK_ELEMENTS,
    vocabulary: int | None = None,
) -> dict[str, Tensor]:
    """`log p(target)` of each hidden state, and extras, each `[M]`, float32 at least.

    Args:
        head: from hidden states to logits, soft-capping and scale included.
        hidden_MD: states that predict the targets.
        target_M: token ids.
        extras: names in `EXTRAS`.
        chunk_elements: logits to hold at a time.
        vocabulary: width of the logits, to size the chunks; asked from one row when None.
    """
    names = sorted(extras)

    def scores(hidden: Tensor, target: Tensor) -> Tensor:
        logits = head(hidden)
        log_softmax = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        picked = log_softmax.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return torch.stack([picked, *(EXTRAS[name](log_softmax) for name in names)])

    width = vocabulary or head(hidden_MD[:1].detach()).shape[-1]
    rows = max(1, chunk_elements // width)
    pieces = list(zip(hidden_MD.split(rows), target_M.split(rows), strict=True))
    if len(pieces) <= 1:
        found = scores(hidden_MD, target_M)
    elif torch.is_grad_enabled():
        found = torch.cat([checkpoint(scores, *piece, use_reentrant=False) for piece in pieces], dim=1)  # type: ignore[misc]
    else:
        found = torch.cat([scores(*piece) for piece in pieces], dim=1)
    return dict(zip(["logp", *names], found, strict=True))


def head_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function from last hidden states to final logits of a `transformers` model.

    Some models scale or soft-cap their logits after the head; what they do stands in their configuration.
    """
    linear = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    cap = getattr(config, "final_logit_softcapping", None)
    factor = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0

    def head(hidden: Tensor) -> Tensor:
        weight = getattr(linear, "weight", hidden)
        if hidden.dtype == torch.float32 and weight.dtype in (torch.bfloat16, torch.float16):
            hidden = hidden.to(weight.dtype)  # some models keep their states in float32
        logits = linear(hidden) * (factor / divisor) if factor != divisor else linear(hidden)
        return cap * torch.tanh(logits / cap) if cap else logits

    return head
