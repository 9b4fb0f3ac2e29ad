"""Weights in shards over two processes: the losses of one process, with a reference that is in shards, too."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import factories
import pytest
import yaml
from safetensors.torch import load_file
from training.test_run import losses, rows_of_text, write

from omnipref.cli.main import main

FSDP = {
    "distributed_type": "FSDP",
    "fsdp_config": {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_state_dict_type": "FULL_STATE_DICT",
    },
}
ZERO = {
    "distributed_type": "DEEPSPEED",
    "deepspeed_config": {
        "zero_stage": 3,
        "zero3_init_flag": False,
        "zero3_save_16bit_model": True,
        "gradient_accumulation_steps": 1,
    },
}
# Accelerate shards by FSDP on accelerators alone; the processes are told that they have some.
SCRIPT = """
import sys
from accelerate import state
from accelerate.utils import DistributedType
from omnipref.cli.main import main
from omnipref.training.trainer import PreferenceTrainer

start, score = state.PartialState.__init__, PreferenceTrainer.scores


def accelerated(self, *given, **named):
    start(self, *given, **named)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def is_sharded(model):
    return any(type(p).__name__ == "DTensor" or hasattr(p, "ds_id") for p in model.parameters())


def scores(self, model, batch):
    assert is_sharded(model), "the policy is whole"
    assert is_sharded(getattr(self.reference, "model", model)), "the reference is whole"
    return score(self, model, batch)


state.PartialState.__init__, PreferenceTrainer.scores = accelerated, scores
sys.exit(main(sys.argv[1:]))
"""
ARMS = {
    "whole model, frozen copy": [],
    "adapter, the model without it": ["--lora-r", "4", "--lora-target-modules", "all-linear"],
    "activations of the reference": ["--objective", "sparse_po(beta=0.5)"],
    "parts and checkpoints": ["--max-batch-tokens", "64", "--gradient-checkpointing"],
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return factories.save(*factories.llama(), tmp_path_factory.mktemp("sharded") / "llama")


def words(model: Path, folder: Path, batch: int, *more: str) -> list[str]:
    rows = [{**row, "prompt": row["prompt"] + "cup " * (i % 4 * 5)} for i, row in enumerate(rows_of_text(16))]
    data = write(folder / "pairs.jsonl", rows)
    given = ["train", "--model-name-or-path", str(model), "--dataset", str(data), "--learning-rate", "1e-3"]
    given += ["--logging-steps", "1", "--max-steps", "4", "--per-device-train-batch-size", str(batch)]
    return [*given, "--objective", "0.8 * dpo(beta=0.1) + 0.2 * bco()", "--training-arguments", "use_cpu=true", *more]


def two_processes(config: dict, folder: Path, given: list[str]) -> None:
    shared = {"num_processes": 2, "num_machines": 1, "use_cpu": True, "mixed_precision": "no", "main_process_port": 0}
    (folder / "accelerate.yaml").write_text(yaml.safe_dump({**shared, **config}))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "accelerate.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (folder / "run.py").write_text(SCRIPT)
    done = subprocess.run(
        [*launch, str(folder / "run.py"), *given], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check(config: dict, model: Path, folder: Path, arm: list[str]) -> None:
    two_processes(config, folder, words(model, folder, 2, *arm, "--output-dir", str(folder / "two")))
    assert main(words(model, folder, 4, *arm, "--output-dir", str(folder / "one"))) == 0
    assert losses(folder / "two") == pytest.approx(losses(folder / "one"), abs=5e-6)
    saved = [load_file(next((folder / name).glob("*model.safetensors"))) for name in ("one", "two")]
    assert saved[0].keys() == saved[1].keys()
    for name, value in saved[0].items():
        assert (value - saved[1][name]).abs().max() < 1e-4, name


@pytest.mark.parametrize("arm", ARMS)
def test_fsdp2_gives_the_losses_of_one_process(llama, tmp_path, arm):
    check(FSDP, llama, tmp_path, ARMS[arm])


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("arm", ARMS)
def test_zero_3_gives_the_losses_of_one_process(llama, tmp_path, arm):
    check(ZERO, llama, tmp_path, ARMS[arm])
