"""One training run of one library, in a process of its own: `python sides.py SPEC.json` writes what it took.

Both sides get the same file of pairs, the same folder of a model and the same numbers; each goes through its library's
own front door.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run.

    Args:
        side: name of the library, a key of `SIDES`.
        model: folder of the model to align.
        pairs: TRL's columns as dialogues, JSONL.
        plain_pairs: the same as plain strings, only tokenised; None leaves that out.
        output: folder for the trained model and `run.json`.
        seed: of the order.
        threads: of torch.
        max_length: longest case in tokens.
        beta: of DPO.
        batch: pairs per step.
        epochs: passes over the pairs.
        learning_rate: peak of the linear schedule.
        warmup: share of the steps over which the learning rate rises.
    """

    side: str
    model: str
    pairs: str
    plain_pairs: str | None = None
    output: str
    seed: int
    threads: int
    max_length: int = 384
    beta: float = 0.1
    batch: int = 8
    epochs: float = 1.0
    learning_rate: float = 5e-4
    warmup: float = 0.1


LOGGING_STEPS = 10
ANY_LENGTH = 10**6
Digests = list[str]
"""One digest per pair of the token ids of prompt, chosen and rejected response."""


def train_omnipref(run: Run, layout: Literal["forest", "rows"] = "forest") -> Any:
    """What `omnipref train` runs; returns the trainer."""
    from omnipref.config import TrainConfig
    from omnipref.training.run import train

    config = TrainConfig(
        model_name_or_path=run.model,
        dataset=[run.pairs],
        output_dir=run.output,
        objective=f"dpo(beta={run.beta})",
        layout=layout,
        max_length=run.max_length,
        per_device_train_batch_size=run.batch,
        num_train_epochs=run.epochs,
        learning_rate=run.learning_rate,
        warmup_ratio=run.warmup,
        seed=run.seed,
        logging_steps=LOGGING_STEPS,
        resume="never",
    )
    return train(config)


def tokens_omnipref(trainer: Any, plain_pairs: str | None) -> dict[str, Digests]:
    """Digests of what was trained on, and of the plain strings."""
    from omnipref.policies.autoregressive.encode import encode
    from omnipref.preferences import read

    found = {"chat": list(trainer.train_dataset)}
    if plain_pairs:
        found["plain"] = [encode(trainer.policy.owner, preference) for preference in read(plain_pairs)]
    return {
        form: [_digest([e.cases[0].prompt.ids, *(case.response for case in e.cases)]) for e in encoded]
        for form, encoded in found.items()
    }


def train_trl(run: Run) -> Any:
    """TRL's DPOTrainer at its defaults but for the numbers that both sides share; returns the trainer."""
    trainer = _trl_trainer(run, run.pairs)
    trainer.train()
    trainer.save_model(run.output)
    return trainer


def _trl_trainer(run: Run, pairs: str) -> Any:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    arguments = DPOConfig(
        output_dir=run.output,
        beta=run.beta,
        max_length=run.max_length,
        per_device_train_batch_size=run.batch,
        num_train_epochs=run.epochs,
        learning_rate=run.learning_rate,
        warmup_steps=run.warmup,
        seed=run.seed,
        logging_steps=LOGGING_STEPS,
        logging_first_step=True,
        save_total_limit=2,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
    )
    cache = str(Path(run.output) / "datasets")
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(run.model, dtype="float32"),
        args=arguments,
        train_dataset=load_dataset("json", data_files=pairs, split="train", cache_dir=cache),
        processing_class=AutoTokenizer.from_pretrained(run.model),
    )


def tokens_trl(trainer: Any, plain_pairs: str | None) -> dict[str, Digests]:
    """Digests of what was trained on, and of the plain strings."""
    found = {"chat": trainer.train_dataset}
    if plain_pairs:
        arguments = trainer.args
        run = Run(
            side="trl",
            model=trainer.model.config.name_or_path,
            pairs=plain_pairs,
            output=arguments.output_dir,
            seed=arguments.seed,
            threads=1,
            max_length=ANY_LENGTH,
        )
        found["plain"] = _trl_trainer(run, plain_pairs).train_dataset
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return {form: [_digest([row[name] for name in names]) for row in data] for form, data in found.items()}


def _digest(pieces: Iterable[Sequence[int]]) -> str:
    text = json.dumps([[int(number) for number in piece] for piece in pieces])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Side:
    """A library, or a way to use it.

    Args:
        imports: what it imports, before the clock starts.
        train: trains, and returns the trainer.
        tokens: digests of what a trainer was trained on.
    """

    imports: tuple[str, ...]
    train: Callable[[Run], Any]
    tokens: Callable[[Any, str | None], dict[str, Digests]]


_OMNIPREF = ("omnipref.config", "omnipref.preferences", "omnipref.training.run")
_TRL = ("datasets", "transformers.models.auto", "trl.trainer.dpo_trainer")
SIDES: Mapping[str, Side] = {
    "omnipref": Side(_OMNIPREF, train_omnipref, tokens_omnipref),
    "trl": Side(_TRL, train_trl, tokens_trl),
    "omnipref_rows": Side(_OMNIPREF, partial(train_omnipref, layout="rows"), tokens_omnipref),
}


def memory_mib(field: str) -> float:
    """`VmRSS` or `VmHWM` (peak) of this process; where there is no `/proc`, the peak of getrusage for both.

    getrusage alone would count the parent's peak too, which Linux hands on to a new program.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def execute(run: Run) -> dict[str, Any]:
    """Train, and say what it took: seconds of the loop and of all, CPU seconds, MiB, log, tokens, arguments."""
    import torch
    import transformers

    side = SIDES[run.side]
    for library in side.imports:
        importlib.import_module(library)
    torch.set_num_threads(run.threads)
    load = os.getloadavg()[0]
    before, started, cpu = memory_mib("VmRSS"), time.perf_counter(), time.process_time()
    trainer = side.train(run)
    took = {
        "whole_s": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": memory_mib("VmHWM"),
        "imported_mib": before,
        "load_before": load,
    }
    took["grown_mib"] = took["peak_mib"] - before
    log = trainer.state.log_history
    took["train_s"] = next(line["train_runtime"] for line in log if "train_runtime" in line)
    shared = {field for field in transformers.TrainingArguments.__dataclass_fields__ if field != "output_dir"}
    arguments = {name: str(value) for name, value in trainer.args.to_dict().items() if name in shared}
    return {
        **asdict(run),
        **took,
        "log": [line for line in log if "loss" in line],
        "steps": trainer.state.global_step,
        "tokens": side.tokens(trainer, run.plain_pairs),
        "arguments": arguments,
    }


def main(spec: str) -> None:
    run = Run(**json.loads(Path(spec).read_text()))
    target = Path(run.output) / "run.json"
    found = execute(run)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(found))
    os.replace(temporary, target)


if __name__ == "__main__":
    main(sys.argv[1])
