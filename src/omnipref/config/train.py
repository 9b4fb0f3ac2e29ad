"""The configuration of `omnipref train`, with the field names that users of other trainers know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from omnipref.config.base import Dtype, Layout, Records


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Records):
    """Train a model on preferences, with any objective or any published method.

    Examples:
      omnipref train --model-name-or-path Qwen/Qwen2.5-0.5B-Instruct --dataset prefs.jsonl --output-dir run
      omnipref train --config run.yaml --objective "0.8 * dpo(beta=0.1) + 0.2 * sft()" --lora-r 16
      omnipref train --config run.yaml --method re-align --method-args visual_weight=0.5
      accelerate launch -m omnipref train --config run.yaml
    """

    model_name_or_path: str
    """Model to align: a folder, or a name on the Hugging Face hub."""
    dataset: list[str]
    """Preferences: files (JSONL, JSON, Parquet), folders of `datasets`, or names on the hub."""
    output_dir: str = "omnipref-run"
    """Folder for checkpoints, the final model, the logs and this configuration."""

    objective: str = "dpo(beta=0.1)"
    """What is minimised: constructors added and scaled like numbers, `0.8 * dpo(beta=0.1) + sft()`."""
    method: str | None = None
    """Published method (see `omnipref methods`); brings its objective and the paper's defaults."""
    method_args: dict[str, Any] = field(default_factory=dict)
    """Hyper-parameters of the method, by the names of its function."""

    eval_dataset: list[str] = field(default_factory=list)
    """Preferences that are only evaluated."""
    eval_fraction: float = 0.0
    """Share of `dataset` held out for evaluation, drawn with `seed`."""
    pairs: Literal["keep", "all", "best_vs_worst", "adjacent", "random"] = "keep"
    """How a ranked list becomes pairs; `keep` leaves it a list, for listwise objectives."""
    streaming: bool = False
    """Read records as they are needed instead of before training; needs `max_steps`."""
    max_length: int | None = None
    """Longest case in tokens, media included; a longer one is set aside and reported. None: the model's context."""
    dataloader_num_workers: int = 0
    """Processes that load and encode records."""

    ref_model: str | None = None
    """Model that log-ratios are measured against; by default the model before training."""
    ref_adapter: str | None = None
    """PEFT adapter of the reference, on the same weights."""
    adapter: str | None = None
    """PEFT adapter to continue; its frozen copy is the reference."""
    sync_ref_model: bool = False
    """Let the reference follow the policy (TR-DPO): every `ref_model_sync_steps` steps it moves some way towards it."""
    ref_model_mixup_alpha: float = 0.6
    """How far it moves, as a share; 1 resets it to the policy."""
    ref_model_sync_steps: int = 512
    """Optimiser steps between two moves; 1 with a small share is a moving average."""
    ref_model_bema: dict[str, Any] = field(default_factory=dict)
    """Instead of the share, a moving average that is corrected for its lag (BEMA): any of `ema_power` (default 0.5),
    `bias_power` (0.2) and `lag` (10)."""
    precompute_ref_log_probs: bool = False
    """Score the data under the reference once, before training, and train without the reference in memory; scores that
    an earlier run kept in `cache_dir` are taken from there."""
    cache_ref_log_probs: bool = False
    """Keep reference scores in `cache_dir` as they are computed, and take those that are there; `streaming` or not."""
    cache_vision_features: bool = False
    """Keep what frozen encoders make of pictures and clips in `cache_dir`, while no weight that makes it is trained."""
    cache_dir: str | None = None
    """Folder of the caches, shared by runs; None: `$OMNIPREF_CACHE`, else `~/.cache/omnipref`."""
    layout: Layout = "forest"
    """`forest` shares the tokens and pictures that cases have in common; `rows` scores each case alone."""

    policy_args: dict[str, Any] = field(default_factory=dict)
    """Further settings of the policy: `truncate` of a text policy, `caption_dropout` or `resolution` of a diffusion
    policy ..."""

    online: list[str] = field(default_factory=list)
    """Builders that run at every step with the model as it is, such as `own_samples(n=2)` or
    `best_vs_worst(reward=-count('fork'), n=4)`; the data then may be prompts."""
    online_sampling: dict[str, Any] = field(default_factory=dict)
    """How they sample: `max_new_tokens`, `temperature`, `top_p`, `batch_size`."""

    per_device_train_batch_size: int = 8
    """Preferences per device and step."""
    per_device_eval_batch_size: int = 8
    """The same in evaluation."""
    max_batch_tokens: int | None = None
    """Tokens that the model sees at once: a larger batch is computed in parts, to the same gradients, and one record
    that is larger is set aside and reported (or its responses cut, with `policy_args: {truncate: true}`)."""
    gradient_accumulation_steps: int = 1
    """Batches per optimiser step."""
    learning_rate: float = 1e-6
    """Peak learning rate; 5e-6 to 1e-5 is usual with LoRA."""
    lr_scheduler_type: str = "linear"
    """Any scheduler of transformers: linear, cosine, constant_with_warmup ..."""
    warmup_ratio: float = 0.0
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """AdamW's decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 leaves them."""
    num_train_epochs: float = 1.0
    """Passes over the data, unless `max_steps` is given."""
    max_steps: int = -1
    """Optimiser steps; -1 follows `num_train_epochs`."""
    seed: int = 0
    """From which order, initial adapter weights, noise and timesteps are drawn."""

    dtype: Dtype = "float32"
    """Type of the weights; `auto` keeps the checkpoint's."""
    bf16: bool = False
    """Compute in bfloat16 (autocast)."""
    fp16: bool = False
    """Compute in float16 with loss scaling."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    attn_implementation: str | None = None
    """Attention of transformers: eager, sdpa, flex_attention ...; None lets the layout choose."""
    freeze_vision_tower: bool = True
    """Leave the vision encoder as it is."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""

    lora_r: int = 0
    """Rank of a new LoRA adapter; 0 trains all weights."""
    lora_alpha: int = 32
    """LoRA's scale."""
    lora_dropout: float = 0.0
    """LoRA's dropout."""
    lora_target_modules: list[str] = field(default_factory=list)
    """Modules that get LoRA, or `all-linear`, which is meant when empty; never those of a frozen vision encoder."""

    logging_steps: int = 10
    """Steps between two lines of the log."""
    save_steps: int = 500
    """Steps between two checkpoints."""
    save_total_limit: int | None = 2
    """Checkpoints kept; None keeps all."""
    eval_steps: int | None = None
    """Steps between two evaluations; None evaluates at the end."""
    report_to: list[str] = field(default_factory=list)
    """Trackers: tensorboard, wandb ..."""
    resume: str = "auto"
    """`auto` continues from the last complete checkpoint of `output_dir`, `never` starts anew, or a checkpoint."""
    training_arguments: dict[str, Any] = field(default_factory=dict)
    """Any further field of transformers.TrainingArguments."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "eval_fraction": (0, 0.9),
        "max_length": (1, inf),
        "max_batch_tokens": (1, inf),
        "ref_model_mixup_alpha": (1e-9, 1),
        "ref_model_sync_steps": (1, inf),
        "dataloader_num_workers": (0, inf),
        "per_device_train_batch_size": (1, inf),
        "per_device_eval_batch_size": (1, inf),
        "gradient_accumulation_steps": (1, inf),
        "learning_rate": (0, inf),
        "warmup_ratio": (0, 1),
        "weight_decay": (0, inf),
        "max_grad_norm": (0, inf),
        "num_train_epochs": (0, inf),
        "max_steps": (-1, inf),
        "lora_r": (0, inf),
        "lora_dropout": (0, 1),
        "logging_steps": (1, inf),
        "save_steps": (1, inf),
        "save_total_limit": (1, inf),
        "eval_steps": (1, inf),
    }

    def conflicts(self) -> Iterator[str]:
        """Fields that exclude each other."""
        if self.eval_dataset and self.eval_fraction:
            yield "`eval_dataset` and `eval_fraction` both say what to evaluate on; keep one"
        if self.adapter and self.lora_r:
            yield "`adapter` continues an adapter and `lora_r` starts a new one; keep one (`lora_r: 0` to continue)"
        if self.ref_model and self.ref_adapter:
            yield "`ref_model` and `ref_adapter` both name the reference; keep one"
        if self.bf16 and self.fp16:
            yield "`bf16` and `fp16` exclude each other; keep one"
        if self.online_sampling and not self.online:
            yield "`online_sampling` is given without `online`; name the builders"
        if self.online and (self.streaming or self.precompute_ref_log_probs):
            yield "`online` makes records at every step; `streaming` and `precompute_ref_log_probs` have no place there"
        if self.online and self.eval_fraction:
            yield "`eval_fraction` is not drawn from records of `online`; name an `eval_dataset`"
        if self.streaming and self.max_steps < 0:
            yield "`streaming` data have no known length; set `max_steps`"
        if self.streaming and self.precompute_ref_log_probs:
            yield "`streaming` records cannot be scored before training; use `cache_ref_log_probs` instead"
        if self.sync_ref_model and (self.precompute_ref_log_probs or self.cache_ref_log_probs):
            yield "`sync_ref_model` moves the reference, whose scores cannot be kept then; leave their caches away"
        if self.ref_model_bema and not self.sync_ref_model:
            yield "`ref_model_bema` is given without `sync_ref_model`"
        if self.streaming and self.eval_fraction:
            yield "`eval_fraction` cannot be drawn from `streaming` data; name an `eval_dataset`"
        if self.method_args and not self.method:
            yield "`method_args` are given without a `method`; name the method"
