"""Checkpoints that survive a kill: which ones are complete, and the objective's running statistics beside the model."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from omnipref.errors import ConfigError, OmniprefError
from omnipref.objectives.objective import State

STATE = "objective_state.json"
LAST_WRITTEN = "trainer_state.json"
"""The file that transformers.Trainer writes last: a checkpoint without it, or with half of it, is incomplete."""


def write_state(folder: Path, state: State) -> None:
    """Write running statistics, atomically and to the last bit."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: {"dtype": str(v.dtype).removeprefix("torch."), "value": v.tolist()} for name, v in state.items()}
    temporary = folder / f"{STATE}.tmp"
    temporary.write_text(json.dumps(plain))
    os.replace(temporary, folder / STATE)


def read_state(folder: Path) -> State:
    """Read what `write_state` wrote; empty where the objective has no statistics."""
    path = folder / STATE
    if not path.exists():
        return {}
    plain = json.loads(path.read_text())
    return {name: torch.tensor(item["value"], dtype=getattr(torch, item["dtype"])) for name, item in plain.items()}


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    try:
        json.loads((folder / LAST_WRITTEN).read_text())
    except (OSError, ValueError):
        return False
    return True


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name, -1 for other folders."""
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match else -1


def checkpoint_to_resume(output_dir: Path, resume: str) -> Path | None:
    """The checkpoint to continue from.

    Args:
        output_dir: folder of the run.
        resume: `auto` for the last complete one if any, `never`, or the path of one.

    Raises:
        ConfigError: the named checkpoint is missing or incomplete.
    """
    if resume == "never":
        return None
    if resume != "auto":
        if not is_complete(Path(resume)):
            raise ConfigError(f"found no complete checkpoint at {resume}; expected a folder with {LAST_WRITTEN}")
        return Path(resume)
    folders = sorted((path for path in output_dir.glob("checkpoint-*") if step_of(path) >= 0), key=step_of)
    complete = [folder for folder in folders if is_complete(folder)]
    return complete[-1] if complete else None


@contextmanager
def disk_errors(run: Path) -> Iterator[None]:
    """Say what is lost and how to go on when a checkpoint cannot be written.

    Args:
        run: folder of the run.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(error)
        last = checkpoint_to_resume(run, "auto")
        raise OmniprefError(
            f"could not write a checkpoint in {run}: {'the disk is full' if full else error}. "
            f"The last complete checkpoint is {last or 'none yet'}. To mend: make room and run the same command again"
        ) from error
