"""One run of the demo in its folder: what is finished is kept, arms are trained side by side in processes."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tqdm.auto import tqdm

from omnipref.demo.arms import DemoArm
from omnipref.demo.data import build_preferences
from omnipref.demo.measure import Measured, measure
from omnipref.demo.train import STEPS, load_base, train_arm
from omnipref.preferences import Preference, read, write_jsonl
from omnipref.worlds import test_pictures

PICTURES = 1500
TEST_PICTURES = 400
PROTOCOL = 1
"""Rises when numbers of earlier runs no longer compare."""

Log = list[dict[str, float]]


@dataclass(frozen=True)
class Sizes:
    """How much is drawn, trained and tested."""

    pictures: int
    steps: int
    test: int

    @staticmethod
    def of(size: float) -> Sizes:
        """The sizes for one dial; 1 is the demo."""
        return Sizes(max(24, round(PICTURES * size)), max(2, round(STEPS * size)), max(16, round(TEST_PICTURES * size)))


@dataclass(frozen=True)
class Job:
    """A run: its folder, sizes and seed.

    Args:
        folder: where everything is written.
        sizes: how much of everything.
        seed: draws pictures, captions, order and test pictures.
    """

    folder: Path
    sizes: Sizes
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """What finished parts must have been made with to be kept."""
        return {"protocol": PROTOCOL, "seed": self.seed, **asdict(self.sizes)}

    @property
    def data(self) -> Path:
        """File of the preferences."""
        return self.folder / "preferences.jsonl"

    def finished(self, arm: DemoArm) -> bool:
        """Whether an arm was trained and measured with these settings."""
        return (_read_json(self.folder / arm.key / "measured.json") or {}).get("settings") == self.settings

    def kept(self, arm: DemoArm) -> tuple[Measured, Log]:
        """Numbers and log of a finished arm."""
        found = _read_json(self.folder / arm.key / "measured.json") or {}
        return Measured(tuple(found["captions"]), found["columns"]), found["log"]

    def keep(self, arm: DemoArm, measured: Measured, log: Log) -> None:
        """Write numbers and log of an arm."""
        plain = {"settings": self.settings, "captions": measured.captions, "columns": measured.columns, "log": log}
        _write_json(self.folder / arm.key / "measured.json", plain)

    def train_and_measure(
        self, arm: DemoArm, preferences: list[Preference], *, progress: bool, position: int = 0
    ) -> tuple[Measured, Log]:
        """Train one arm and measure it.

        Args:
            arm: which.
            preferences: to train on.
            progress: whether to show a bar.
            position: line of the bar.
        """
        folder = self.folder / arm.key
        folder.mkdir(parents=True, exist_ok=True)
        model, log = train_arm(
            arm, preferences, folder, steps=self.sizes.steps, seed=self.seed, progress=progress, position=position
        )
        _, processor, policy = load_base()
        pictures = test_pictures(self.sizes.test, self.seed)
        return measure(model, processor, policy, pictures, folder / "test.quarantine.jsonl", seed=self.seed), log


def prepare_preferences(job: Job, console: Console) -> None:
    """Build the preferences and write them, or keep those that are there."""
    settings_file = job.data.with_suffix(".settings.json")
    if job.data.exists() and _read_json(settings_file) == job.settings:
        console.print(f"  kept from before: {job.data}")
        return
    model, processor, _ = load_base()
    data = build_preferences(model, processor, job.sizes.pictures, job.seed)
    write_jsonl(data.preferences, job.data)
    _write_json(settings_file, job.settings)
    console.print(
        f"  {len(data.preferences)} pairs; {data.tied} pictures without a better and a worse caption: {job.data}"
    )


def default_workers() -> int:
    """Processes to train arms in: one per core, at most four; one where an accelerator does the work."""
    return 1 if torch.accelerator.is_available() else min(4, os.cpu_count() or 1)


def finish_all(job: Job, arms: Sequence[DemoArm], workers: int) -> Iterator[DemoArm]:
    """Train and measure the arms that are not finished; yields every arm when it is.

    Args:
        job: the run.
        arms: which.
        workers: processes, each with its share of the cores.
    """
    pending = [arm for arm in arms if not job.finished(arm)]
    yield from (arm for arm in arms if arm not in pending)
    if min(workers, len(pending)) < 2:
        for arm in pending:
            yield _finish(job, arm)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (threads, context.RLock())) as pool:
        jobs = [pool.submit(_finish, job, arm) for arm in pending]
        try:
            yield from (done.result() for done in as_completed(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(threads: int, lock: Any) -> None:
    torch.set_num_threads(threads)
    tqdm.set_lock(lock)


def _finish(job: Job, arm: DemoArm) -> DemoArm:
    place = multiprocessing.current_process().name.rpartition("-")[2]
    position = int(place) - 1 if place.isdigit() else 0
    job.keep(arm, *job.train_and_measure(arm, list(read(job.data)), progress=True, position=position))
    return arm


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, path)
