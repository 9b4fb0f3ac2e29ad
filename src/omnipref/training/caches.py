"""What a run keeps on disk between runs, as its configuration says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from accelerate.utils.memory import clear_device_cache

from omnipref.config import TrainConfig
from omnipref.errors import ConfigError
from omnipref.policies.autoregressive.feature_cache import FeatureCache
from omnipref.policies.autoregressive.layouts import Forest
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.caching.place import cache_directory
from omnipref.policies.policy import Policy
from omnipref.policies.reference import FrozenCopy
from omnipref.scores import reads_reference
from omnipref.training.data import EncodedPreferences
from omnipref.training.reference_scores import ReferenceScores, ScoreCache
from omnipref.training.trainer import PreferenceTrainer


def with_kept_features(policy: Policy, directory: Path, *, strict: bool = False) -> Policy:
    """The same policy, whose encoded pictures and clips are kept on disk while the weights that encode are frozen.

    Args:
        policy: of a text-emitting model.
        directory: of the caches.
        strict: raise an error where they cannot be kept, instead of going on without.

    Raises:
        ConfigError: the policy does not encode media ahead of the model's own pass.
    """
    if not isinstance(policy, AutoregressivePolicy) or not isinstance(policy.layout, Forest):
        raise ConfigError(
            "`cache_vision_features` keeps what a text model's encoder gives to token forests, but this model is "
            "scored otherwise. To mend: drop it, or give --layout forest where the model takes it"
        )
    features = FeatureCache(directory=directory, strict=strict)
    return replace(policy, layout=replace(policy.layout, features=features))


def keep_reference_scores(trainer: PreferenceTrainer, config: TrainConfig) -> None:
    """Have a trainer take reference scores from the cache, after making all of them now if the run asks for that.

    A reference with weights of its own is let go when all its scores are there, so that training has its memory.

    Args:
        trainer: before training.
        config: of the run.

    Raises:
        ConfigError: the scores are drawn anew at every step, or the objective reads more of the reference than them.
    """
    asked = "precompute_ref_log_probs" if config.precompute_ref_log_probs else "cache_ref_log_probs"
    reference, policy = trainer.reference, trainer.policy
    if reference is None or not getattr(config, asked):
        return
    if policy.stochastic:
        raise ConfigError(f"the policy's scores are drawn anew at every step and cannot be kept. To mend: drop {asked}")
    if reads_reference(extras := trainer.objective.needs.extras):
        named = ", ".join(sorted(extras))
        raise ConfigError(f"the objective reads more of the reference than scores: {named}. To mend: drop {asked}")
    scores = ReferenceScores(reference, ScoreCache(cache_directory(config.cache_dir)))
    trainer.reference_scores = scores
    if not config.precompute_ref_log_probs:
        return
    with trainer.accelerator.autocast():
        for data in (trainer.train_dataset, trainer.eval_dataset):
            if isinstance(data, EncodedPreferences):
                scores.score_ahead(policy, trainer.model, data, config.per_device_eval_batch_size)  # type: ignore[arg-type]
    if isinstance(reference, FrozenCopy):
        trainer.reference = scores.reference = None
        del reference
        clear_device_cache(garbage_collection=True)
