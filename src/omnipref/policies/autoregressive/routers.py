"""The loss by which mixture-of-experts models keep their experts in balance, equal for every layout of the cases."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from omnipref.errors import CapabilityError

STOCK = "load_balancing_loss_func"
"""The function by which `transformers` models that have this loss compute it, in the module of each."""
ARGUMENTS = {"gate_logits", "num_experts", "top_k", "attention_mask"}
"""The arguments of those whose loss is the one computed here."""

FACTORS = ("router_aux_loss_coef", "aux_loss_coef")
"""Names of the loss's coefficient."""


def coefficient(model: nn.Module) -> float:
    """The factor on the loss that a model adds for its routers; 0 for a model that adds none.

    It does where its configuration says `output_router_logits`, as in its own forward pass.

    Args:
        model: the `transformers` model with its head.

    Raises:
        CapabilityError: the model has another loss for its routers.
    """
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    stock = getattr(sys.modules[type(model).__module__], STOCK, None)
    if stock is None or not getattr(config, "output_router_logits", False):
        return 0.0
    if set(inspect.signature(stock).parameters) != ARGUMENTS:
        raise CapabilityError(
            f"found output_router_logits in the configuration of {type(model).__name__}, whose loss for its routers is "
            "of another kind; expected that of the Switch Transformer. To mend: set output_router_logits to false"
        )
    return float(_setting(model, *FACTORS, default=0.0))


def _setting(model: nn.Module, *names: str, default: Any = None) -> Any:
    """A setting that stands in the text configuration, or in some models only on the model itself."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    found = (getattr(owner, name, None) for owner in (config, model) for name in names)
    return next((value for value in found if value is not None), default)


@contextmanager
def router_logits(model: nn.Module) -> Iterator[list[tuple[Tensor, ...]]]:
    """Collect what the routers of a model say in forward passes inside: per pass a tensor `[B T, E]` per layer.

    Args:
        model: the `transformers` model with its head; nothing is collected where `coefficient(model)` is 0.
    """
    found: list[tuple[Tensor, ...]] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if logits := getattr(output, "router_logits", None):
            found.append(logits)

    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)] if coefficient(model) else []
    hooks = [part.register_forward_hook(keep) for part in parts]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def balance(model: nn.Module, routed: Sequence[tuple[Tensor, ...]], count_BT: Tensor) -> Tensor | None:
    """The model's loss for its routers times its coefficient, a scalar; None where nothing was collected.

    A token that several cases share counts once for each, so that a forest gives the loss of one row per case.

    Args:
        model: the `transformers` model with its head.
        routed: from `router_logits`; of several parts of a model that tell the same, the first is read.
        count_BT: cases that contain each token, 0 for padding.
    """
    if not routed:
        return None
    return coefficient(model) * load_balance(routed[0], _setting(model, "num_experts_per_tok"), count_BT.flatten())


def load_balance(logits: Sequence[Tensor], chosen: int, count_T: Tensor) -> Tensor:
    """E Σ_e f_e P_e: f_e the share of tokens that choose expert e, P_e its mean probability, over all layers.

    Args:
        logits: of the routers of each layer, `[T, E]`.
        chosen: experts that each token takes.
        count_T: how often each token counts.

    Source: Switch Transformer, arXiv 2101.03961, equations (4) to (6).
    """
    dtype = torch.promote_types(logits[0].dtype, torch.float32)
    experts = logits[0].shape[-1]
    weight_T = count_T.to(logits[0].device, dtype)
    share_E, probability_E = (torch.zeros(experts, dtype=dtype, device=weight_T.device) for _ in range(2))
    for layer in logits:
        probability_TE = layer.to(weight_T.device, dtype).softmax(-1)
        probability_E = probability_E + weight_T @ probability_TE
        taken = probability_TE.topk(chosen, -1).indices.flatten()
        share_E = share_E.index_add(0, taken, weight_T.repeat_interleave(chosen))
    total = weight_T.sum() * len(logits)
    return experts * (share_E / total * (probability_E / total)).sum()
