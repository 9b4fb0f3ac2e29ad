"""`omnipref demo`, resumable arm by arm, and the same arms for claims over seeds."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from omnipref.config import DemoConfig
from omnipref.demo.arms import ARMS, BASE, TEXT, DemoArm
from omnipref.demo.data import DemoData, build_preferences
from omnipref.demo.document import demo_report
from omnipref.demo.measure import METRICS, Measured, measure
from omnipref.demo.train import STEPS, load_base, train_arm
from omnipref.errors import ConfigError, nearest
from omnipref.evaluation import print_table, summary_figure, write_report
from omnipref.preferences import Preference, read, write_jsonl
from omnipref.worlds import Picture, test_pictures

PICTURES = 1500
TEST_PICTURES = 400
PROTOCOL = 1
"""Rises when numbers of earlier runs no longer compare."""


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


def run(config: DemoConfig) -> Path:
    """Build preferences, train every arm, measure on fresh pictures, print the table and write `report.html`.

    Finished parts in `config.output_dir` are kept, so an interrupted demo goes on where it stopped.

    Raises:
        ConfigError: an unknown arm.
    """
    started = time.monotonic()
    console = Console()
    arms = chosen_arms(config.arms)
    folder, sizes = Path(config.output_dir), Sizes.of(config.size)
    settings = {"protocol": PROTOCOL, "seed": config.seed, **asdict(sizes)}
    console.print(
        f"[bold]1/3[/] preferences from {sizes.pictures} pictures, described by the model that will be aligned"
    )
    preferences = _preferences(folder / "preferences.jsonl", sizes, config.seed, settings, console)
    pictures = test_pictures(sizes.test, config.seed)
    console.print(f"[bold]2/3[/] {len(arms)} models, each measured on {sizes.test} fresh pictures")
    measured: dict[str, Measured] = {}
    logs: dict[str, list[dict[str, float]]] = {}
    for number, arm in enumerate(arms, 1):
        kept = _finished(folder / arm.key, settings)
        if kept is None:
            kept = _run_arm(arm, preferences, pictures, folder / arm.key, sizes, config.seed)
            _keep(folder / arm.key, settings, kept)
        measured[arm.key], logs[arm.key] = kept
        chair = measured[arm.key].estimates()["chair_i"].value
        console.print(f"  {number}/{len(arms)} {arm.name}: {chair:.1%} of the named objects are not in the picture")
    console.print("[bold]3/3[/] report")
    report = demo_report(arms, measured, logs, pictures, _command(config), config.seed)
    page = write_report(report, folder)
    shown = [row.name for row in report.rows if row.group == TEXT.group]
    summary_figure(report, folder / "summary.png", after=shown, metrics=("chair_i", "coverage", "image_sensitivity"))
    print_table(report.rows, METRICS, caption=f"Intervals: {report.interval}.", console=console)
    console.print(f"\n{report.summary}\nReport: [bold]{page}[/] ({time.monotonic() - started:.0f} s)")
    return page


def chosen_arms(names: list[str]) -> list[DemoArm]:
    """The arms of these names, the base model always among them; all for no names.

    Raises:
        ConfigError: an unknown name.
    """
    known = {arm.key: arm for arm in ARMS}
    for name in names:
        if name not in known:
            raise ConfigError(f"found no arm `{name}`; {nearest(name, known)}")
    return [arm for arm in ARMS if not names or arm.key in names or arm is BASE]


def run_arm(arm: str, seed: int, *, size: float = 1.0) -> dict[str, float]:
    """The metrics of one arm with one seed, on that seed's test pictures, for `omnipref reproduce`.

    Args:
        arm: key of a `DemoArm`.
        seed: draws pictures, captions, order and test pictures.
        size: dial of the sizes.
    """
    sizes = Sizes.of(size)
    (chosen,) = [one for one in chosen_arms([arm]) if one.key == arm]
    with TemporaryDirectory() as folder:
        found, _ = _run_arm(
            chosen, _data(sizes.pictures, seed).preferences, test_pictures(sizes.test, seed), Path(folder), sizes, seed
        )
    return {name: estimate.value for name, estimate in found.estimates().items()}


@lru_cache(maxsize=2)
def _data(pictures: int, seed: int) -> DemoData:
    model, processor, _ = load_base()
    return build_preferences(model, processor, pictures, seed, progress=False)


def _preferences(path: Path, sizes: Sizes, seed: int, settings: dict[str, Any], console: Console) -> list[Preference]:
    settings_file = path.with_suffix(".settings.json")
    if path.exists() and _read_json(settings_file) == settings:
        console.print(f"  kept from before: {path}")
        return list(read(path))
    model, processor, _ = load_base()
    data = build_preferences(model, processor, sizes.pictures, seed)
    write_jsonl(data.preferences, path)
    _write_json(settings_file, settings)
    console.print(f"  {len(data.preferences)} pairs; {data.tied} pictures without a better and a worse caption: {path}")
    return data.preferences


def _run_arm(
    arm: DemoArm, preferences: list[Preference], pictures: list[Picture], folder: Path, sizes: Sizes, seed: int
) -> tuple[Measured, list[dict[str, float]]]:
    folder.mkdir(parents=True, exist_ok=True)
    model, log = train_arm(arm, preferences, folder, steps=sizes.steps, seed=seed)
    _, processor, policy = load_base()
    return measure(model, processor, policy, pictures, folder / "test.quarantine.jsonl", seed=seed), log


def _finished(folder: Path, settings: dict[str, Any]) -> tuple[Measured, list[dict[str, float]]] | None:
    kept = _read_json(folder / "measured.json")
    if not kept or kept.get("settings") != settings:
        return None
    return Measured(tuple(kept["captions"]), kept["columns"]), kept["log"]


def _keep(folder: Path, settings: dict[str, Any], found: tuple[Measured, list[dict[str, float]]]) -> None:
    measured, log = found
    plain = {"settings": settings, "captions": measured.captions, "columns": measured.columns, "log": log}
    _write_json(folder / "measured.json", plain)


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


def _command(config: DemoConfig) -> str:
    changed = {"seed": config.seed, "size": config.size}
    defaults = DemoConfig()
    flags = [f"--{name} {value}" for name, value in changed.items() if value != getattr(defaults, name)]
    flags += [f"--arms {' '.join(config.arms)}"] if config.arms else []
    return " ".join(["omnipref demo", *flags])
