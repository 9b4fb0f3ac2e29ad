"""Which attention implementation the text part of a `transformers` model runs, and how it is changed."""

from __future__ import annotations

from torch import nn

from omnipref.policies.autoregressive.backbone import language_model


def text_attention(model: nn.Module) -> str:
    """Name of the implementation: `sdpa`, `eager`, `flex_attention` ..."""
    return language_model(model).config.get_text_config()._attn_implementation  # type: ignore[union-attr,operator]


def set_text_attention(model: nn.Module, name: str) -> bool:
    """Change it in the text part alone; encoders of media keep theirs.

    Args:
        model: as loaded, or wrapped.
        name: registered with `transformers.AttentionInterface`.

    Returns:
        Whether the model takes it; whether it then says the same, a trial has to tell.
    """
    inner = language_model(model)
    able = getattr(inner, "_can_set_attn_implementation", None)
    if able is None or not able():
        return False
    config = inner.config
    text = config.get_text_config()  # type: ignore[union-attr,operator]
    part = next((key for key in config.sub_configs if getattr(config, key, None) is text), None)  # type: ignore[union-attr]
    try:
        inner.set_attn_implementation({part: name} if part else name)  # type: ignore[operator]
    except (ValueError, ImportError):
        if part is None:
            return False
        # transformers refuses for a whole family what its encoders cannot do, and they are left alone here.
        text._attn_implementation_internal = name
    return text_attention(model) == name
