"""From names in a configuration to a model, its policy and its reference."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import Trainer

from omnipref.config import TrainConfig
from omnipref.config.coerce import coerce, is_plain
from omnipref.errors import ConfigError, OmniprefError, nearest
from omnipref.policies.autoregressive.backbone import backbone_of
from omnipref.policies.autoregressive.load import build_policy, load_model, load_owner
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.diffusion import DiffusionPolicy
from omnipref.policies.diffusion.loading import load_diffusion_policy
from omnipref.policies.policy import Policy, Reference
from omnipref.policies.reference import AdapterAs, AdapterOff, FrozenCopy, copy_adapter, frozen_copy


@dataclass(frozen=True)
class Loaded:
    """A model and what belongs to it.

    Args:
        model: what is trained.
        policy: scores with it.
        owner: tokenizer or processor; None for pipelines.
        save: writes what a trainer trained so that its library loads it again; every process calls it.
    """

    model: nn.Module
    policy: Policy
    owner: Any
    save: Callable[[Trainer, Path], None]


def load(
    name_or_path: str,
    *,
    layout: str = "forest",
    max_length: int | None = None,
    max_tokens: int | None = None,
    policy_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Loaded:
    """Load a text-emitting model, or a diffusion pipeline, with its policy.

    Args:
        name_or_path: folder or hub name.
        layout: `forest` or `rows`, for text-emitting models.
        max_length: longest case in tokens.
        max_tokens: most tokens of one preference as it is laid out.
        policy_args: further fields of the policy.
        options: further arguments of `from_pretrained` (`dtype`, `attn_implementation`, `trust_remote_code`).

    Raises:
        ConfigError: the policy has no such field.
    """
    settings = dict(policy_args or {})
    adapter = Path(name_or_path) / "adapter_config.json"
    if adapter.exists() and not (Path(name_or_path) / "config.json").exists():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path", "BASE")
        raise ConfigError(f"{name_or_path} holds an adapter; give --model-name-or-path {base} --adapter {name_or_path}")
    if (Path(name_or_path) / "model_index.json").exists():
        settings = _known(settings, DiffusionPolicy, also={"resolution": int | None})
        if max_tokens is not None:
            raise ConfigError("`max_batch_tokens` counts tokens, and a diffusion model has none; leave it away")
        return _load_pipeline(name_or_path, settings, options)
    settings = _known(settings, AutoregressivePolicy)
    limits = {"layout": layout, "max_length": max_length, "max_tokens": max_tokens}
    return _load_autoregressive(name_or_path, limits | settings, options)


def _known(settings: Mapping[str, Any], policy: type, also: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings, each with the type of the policy's field."""
    kinds = {name: kind for name, kind in get_type_hints(policy).items() if is_plain(kind)} | dict(also or {})
    for name in settings:
        if name not in kinds:
            raise ConfigError(
                f"found `{name}` in `policy_args`, which this {policy.__name__} lacks; {nearest(name, kinds)}. "
                "Where a method's defaults set it, `--policy-args` without a value clears them"
            )
    return {name: coerce(value, kinds[name], f"policy_args.{name}") for name, value in settings.items()}


def _load_autoregressive(name: str, settings: dict[str, Any], options: dict[str, Any]) -> Loaded:
    model = load_model(name, **options)
    trust = {key: value for key, value in options.items() if key == "trust_remote_code"}
    owner = load_owner(name, **trust)
    without_dropout(model)

    def save(trainer: Trainer, folder: Path) -> None:
        trainer.save_model(str(folder))

    return Loaded(model, build_policy(model, owner, **settings), owner, save)


def _load_pipeline(name: str, settings: dict[str, Any], options: dict[str, Any]) -> Loaded:
    dtype = {key: value for key, value in options.items() if key == "dtype" and value != "auto"}
    model, policy = load_diffusion_policy(name, **dtype, **settings)

    def save(trainer: Trainer, folder: Path) -> None:
        trained: Any = trainer.accelerator.unwrap_model(trainer.model)
        if not trainer.is_world_process_zero():
            return
        if isinstance(trained, PeftModel):
            trained.save_pretrained(str(folder))
        else:
            whole = DiffusionPipeline.from_pretrained(name, unet=trained, safety_checker=None)
            whole.save_pretrained(str(folder))

    return Loaded(model, policy, None, save)


def without_dropout(model: nn.Module) -> None:
    """Switch off all dropout, so that policy and reference differ in weights alone; a LoRA's own comes later."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)


def adapted(loaded: Loaded, config: TrainConfig, needs_reference: bool) -> tuple[nn.Module, Reference | None]:
    """The model to train, with adapters as configured, and the reference that goes with it.

    A new LoRA is measured against the model without it; an adapter whose training continues against a frozen copy of
    that adapter; a model that is trained as a whole against a frozen copy of it; `ref_model` and `ref_adapter` say
    otherwise.
    """
    model = loaded.model
    if config.freeze_vision_tower:
        freeze_encoders(model)
    own: Callable[[], Reference] = lambda: frozen_copy(model)  # noqa: E731
    if config.adapter:
        model = _continue_adapter(model, config.adapter)
        own = lambda: copy_adapter(model)  # noqa: E731
    elif config.lora_r:
        model = _with_lora(model, config)
        own = AdapterOff
    if not needs_reference:
        return model, None
    if config.ref_model:
        return model, FrozenCopy(_frozen(config.ref_model, config))
    if config.ref_adapter:
        return model, _reference_adapter(model, config)
    return model, own()


def _frozen(name: str, config: TrainConfig) -> nn.Module:
    loaded = load(name, layout=config.layout, **from_pretrained_options(config))
    return loaded.model.eval().requires_grad_(False)


def _reference_adapter(model: nn.Module, config: TrainConfig) -> Reference:
    assert config.ref_adapter
    if isinstance(model, PeftModel):
        model.load_adapter(config.ref_adapter, adapter_name="ref", is_trainable=False)
        return AdapterAs("ref")
    reference = PeftModel.from_pretrained(_frozen(config.model_name_or_path, config), config.ref_adapter)  # type: ignore[arg-type]
    return FrozenCopy(reference.eval().requires_grad_(False))


def from_pretrained_options(config: Any) -> dict[str, Any]:
    """The arguments of `from_pretrained` that a configuration holds."""
    attention = getattr(config, "attn_implementation", None)
    return {
        "dtype": config.dtype,
        "trust_remote_code": config.trust_remote_code,
        **({"attn_implementation": attention} if attention else {}),
    }


def freeze_encoders(model: nn.Module) -> None:
    """Stop gradients into vision and audio encoders, found through transformers' `get_encoder`."""
    for name in _encoders(model):
        model.get_submodule(name).requires_grad_(False)


def _encoders(model: nn.Module) -> list[str]:
    """Names of the modules that encode media."""
    backbone = backbone_of(model) if hasattr(model, "base_model") else model
    if not hasattr(backbone, "get_encoder"):
        return []
    found = [backbone.get_encoder(modality=modality) for modality in ("image", "audio")]  # type: ignore[operator]
    own = [encoder for encoder in found if encoder is not backbone]
    return [name for name, module in model.named_modules() if any(module is encoder for encoder in own)]


def has_encoders(model: nn.Module) -> bool:
    """Whether a model has encoders of media."""
    return bool(_encoders(model))


def _continue_adapter(model: nn.Module, path: str) -> PeftModel:
    try:
        adapter = PeftModel.from_pretrained(model, path, is_trainable=True)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise ConfigError(f"no PEFT adapter at {path!r} that fits the model: {error}") from error
    if adapter.active_peft_config.is_prompt_learning:
        raise ConfigError(f"the adapter at {path!r} adds virtual tokens, which scoring does not see; use LoRA")
    return adapter


def _with_lora(model: nn.Module, config: TrainConfig) -> nn.Module:
    settings = _lora(config, _encoders(model) if config.freeze_vision_tower else [])
    try:
        return get_peft_model(model, settings)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"these LoRA settings cannot be used with this model: {error}") from error


def _lora(config: TrainConfig, frozen: Sequence[str]) -> LoraConfig:
    modules: Any = config.lora_target_modules or "all-linear"
    if modules == ["all-linear"]:
        modules = "all-linear"
    try:
        return LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=modules,
            exclude_modules=rf"({'|'.join(map(re.escape, frozen))})\..*" if frozen else None,
        )
    except (TypeError, ValueError) as error:
        raise OmniprefError(f"these LoRA settings cannot be used: {error}") from error
