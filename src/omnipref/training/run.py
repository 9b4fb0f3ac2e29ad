"""`omnipref train`: from a configuration to a trained model, resumable at any step."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import set_seed

from omnipref.config import TrainConfig, save_config
from omnipref.config.load import changed_since
from omnipref.errors import ConfigError, DataError
from omnipref.objectives import Objective, parse_objective
from omnipref.objectives.objective import Needs
from omnipref.policies.caching.place import cache_directory
from omnipref.policies.policy import Policy
from omnipref.policies.prompt_files import read_all_prompts
from omnipref.preferences import Preference, read, split, to_pairs
from omnipref.preferences.sources import check_source
from omnipref.training.arguments import training_arguments
from omnipref.training.caches import keep_reference_scores, with_kept_features
from omnipref.training.checkpoints import checkpoint_to_resume, step_of
from omnipref.training.data import SetAside, StreamedPreferences, prepare
from omnipref.training.models import Loaded, adapted, from_pretrained_options, has_encoders, load
from omnipref.training.online import Online, RawRecords
from omnipref.training.progress import show_progress
from omnipref.training.reference_updates import Bema
from omnipref.training.trainer import PreferenceTrainer

logger = logging.getLogger(__name__)


def train(config: TrainConfig, objective: Objective | None = None) -> PreferenceTrainer:
    """Train a model on preferences and write it, its log and its configuration to `config.output_dir`.

    The same command on the same folder continues from the last complete checkpoint, to the same numbers.

    Args:
        config: what to train, on what, how.
        objective: overrides `config.objective`; a method passes its own.

    Returns:
        The trainer, after training.

    Raises:
        ConfigError, DataError, NeedsError, CapabilityError: before the first step, whatever cannot work.
        NonFiniteError: NaN or infinity while training.
    """
    set_seed(config.seed)
    output = Path(config.output_dir)
    objective = objective or parse_objective(config.objective)
    bema = Bema.of(config.ref_model_bema) if config.ref_model_bema else None
    resume = start(config, output)
    for source in (*config.dataset, *config.eval_dataset):
        check_source(source, split=config.dataset_split)
    loaded = load(
        config.model_name_or_path,
        layout=config.layout,
        max_length=config.max_length,
        max_tokens=config.max_batch_tokens,
        policy_args=config.policy_args,
        **from_pretrained_options(config),
    )
    if config.cache_vision_features:
        loaded = replace(loaded, policy=with_kept_features(loaded.policy, cache_directory(config.cache_dir)))
    data = read_data(config, loaded.policy, objective.needs)
    model, reference = adapted(loaded, config, objective.needs.reference)
    trainer = PreferenceTrainer(
        model=model,
        args=training_arguments(config, evaluate=data.evaluation is not None, media=has_encoders(loaded.model)),
        policy=loaded.policy,
        objective=objective,
        reference=reference,
        train_dataset=data.training,
        eval_dataset=data.evaluation,
        processing_class=loaded.owner,
        max_batch_tokens=config.max_batch_tokens,
        online=_online(config, loaded, objective.needs) if config.online else None,
    )
    if config.sync_ref_model:
        trainer.move_reference(config.ref_model_mixup_alpha, config.ref_model_sync_steps)
    if bema and trainer.reference_updates:
        trainer.reference_updates.correct(bema)
    line = show_progress(trainer)
    del reference  # it may be let go once its scores are kept
    keep_reference_scores(trainer, config)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        line.close()
    _finish(trainer, loaded, output)
    return trainer


def _online(config: TrainConfig, loaded: Loaded, needs: Needs) -> Online:
    sampling, tokens = config.online_sampling, config.max_batch_tokens
    return Online(loaded.policy, loaded.owner, config.online, needs, sampling, tokens, config.seed)


MAY_CHANGE = frozenset(
    {
        "output_dir",
        "resume",
        "max_steps",
        "num_train_epochs",
        "logging_steps",
        "save_steps",
        "save_total_limit",
        "eval_steps",
        "report_to",
        "dataloader_num_workers",
        "layout",
        "max_batch_tokens",
        "precompute_ref_log_probs",
        "cache_ref_log_probs",
        "cache_vision_features",
        "cache_dir",
        "training_arguments",
        "per_device_eval_batch_size",
        "eval_dataset",
    }
)
"""Fields in which a run may differ from the one that it continues."""


def start(config: TrainConfig, output: Path) -> Path | None:
    """Make the folder ready: the checkpoint to continue from, if any, and `config.yaml`.

    Checkpoints of a run that is not continued are moved to `previous-<n>/`.

    Raises:
        ConfigError: the folder cannot be written, or holds checkpoints of a run with another configuration.
    """
    resume = checkpoint_to_resume(output, config.resume)
    saved = output / "config.yaml"
    if resume and resume.parent == output and (changed := changed_since(saved, config, MAY_CHANGE)):
        raise ConfigError(
            f"{output} holds a run with another configuration ({changed}). To continue it, give the same values; to "
            "train anew, give another --output-dir, or --resume never"
        )
    if os.environ.get("RANK", "0") == "0":
        try:
            output.mkdir(parents=True, exist_ok=True)
            if config.resume == "never":
                _set_previous_aside(output)
            save_config(config, saved)
        except OSError as error:
            raise ConfigError(f"{output} cannot be written ({error}); give another --output-dir") from error
    return resume


def _set_previous_aside(output: Path) -> None:
    old = [folder for folder in output.glob("checkpoint-*") if step_of(folder) >= 0]
    if old:
        number = 1 + sum(1 for _ in output.glob("previous-*"))
        (output / f"previous-{number}").mkdir()
        for folder in old:
            folder.rename(output / f"previous-{number}" / folder.name)


@dataclass(frozen=True)
class Data:
    """Encoded records for training and evaluation."""

    training: Dataset | None
    evaluation: Dataset | None


def read_data(config: TrainConfig, policy: Policy, needs: Needs) -> Data:
    """Read, check and encode the records that a configuration names.

    Raises:
        DataError: nothing is left to train on.
        NeedsError: the records lack what the objective reads.
    """
    output = Path(config.output_dir)
    if config.online:
        return Data(_to_sample(config, config.dataset, "train"), _to_sample(config, config.eval_dataset, "eval"))
    held_out = list(_records(config, config.eval_dataset, needs)) if config.eval_dataset else []
    if config.streaming:
        again = partial(_records, config, config.dataset, needs)
        training: Dataset = StreamedPreferences(policy, again, needs, output / "train.quarantine.jsonl")
    else:
        kept = list(_records(config, config.dataset, needs))
        if config.eval_fraction:
            kept, held_out = split(kept, config.eval_fraction, seed=config.seed)
        if not kept:
            cure = f"look at the reasons in {output}/*.quarantine.jsonl, or at `omnipref data inspect`"
            raise DataError("no record", "at least one", cure=cure, source=config.dataset[0])
        training = prepare(policy, kept, needs, output / "train.quarantine.jsonl")
    evaluation = prepare(policy, held_out, needs, output / "eval.quarantine.jsonl") if held_out else None
    return Data(training, evaluation)


def _to_sample(config: TrainConfig, sources: Sequence[str], name: str) -> RawRecords | None:
    """Records that preferences are made of while training; None without sources."""
    if not sources:
        return None
    records, refused = read_all_prompts(sources, format=config.dataset_format, split=config.dataset_split)
    with SetAside(Path(config.output_dir) / f"{name}.quarantine.jsonl") as aside:
        for error in refused:
            aside.add(error)
    if not records:
        raise DataError("no record", "at least one", cure="look at `omnipref data inspect`", source=sources[0])
    return RawRecords(records)


def _records(config: TrainConfig, sources: Sequence[str], needs: Needs) -> Iterator[Preference]:
    policy, seed = config.pairs, config.seed

    def turn(preference: Preference) -> Sequence[Preference]:
        return [preference] if policy == "keep" else to_pairs(preference, policy, seed=seed, drop_ties=not needs.ties)

    for source in sources:
        aside = Path(config.output_dir) / f"{_name(config, source)}.quarantine.jsonl"
        for preference in read(
            source,
            format=config.dataset_format,
            split=config.dataset_split,
            streaming=config.streaming,
            ties="keep" if needs.ties else "drop",
            quarantine=aside if os.environ.get("RANK", "0") == "0" else None,
        ):
            yield from turn(preference)


def _name(config: TrainConfig, source: str) -> str:
    """A source's own name among all of them; `train` and `eval` are what could be read and not be encoded."""
    sources = [*config.dataset, *config.eval_dataset]
    stems = ["train", "eval", *(Path(each).name.partition(".")[0] for each in sources)]
    place = 2 + sources.index(source)
    before = stems[:place].count(stems[place])
    return f"{stems[place]}-{before + 1}" if before else stems[place]


def _finish(trainer: PreferenceTrainer, loaded: Loaded, output: Path) -> None:
    metrics: dict[str, Any] = {}
    if trainer.eval_dataset is not None:
        metrics = trainer.evaluate()
    loaded.save(trainer, output)
    if trainer.is_world_process_zero():
        trainer.learned.save(output)
        trainer.save_state()
        temporary = output / "eval_results.json.tmp"
        temporary.write_text(json.dumps(metrics, indent=2))
        os.replace(temporary, output / "eval_results.json")
        print(_told(trainer, metrics, output))


def _told(trainer: PreferenceTrainer, metrics: dict[str, Any], output: Path) -> str:
    """The last line of a run: where it is, how far it went, and what came out."""
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    said = [f"{trainer.state.global_step} steps"]
    said += [f"loss {losses[0]:.4f} -> {losses[-1]:.4f}"] if losses else []
    names = {"eval_loss": "held-out loss", "eval_rewards/accuracies": "held-out reward accuracy"}
    said += [f"{names[name]} {metrics[name]:.4f}" for name in names if name in metrics]
    return f"{', '.join(said)}. Model, log and configuration: {output}"
