"""`omnipref demo`, resumable arm by arm, and the same arms for claims over seeds."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from omnipref.config import DemoConfig
from omnipref.demo.arms import ARMS, BASE, TEXT, DemoArm
from omnipref.demo.data import DemoData, build_preferences
from omnipref.demo.document import demo_report
from omnipref.demo.job import Job, Sizes, default_workers, finish_all, prepare_preferences
from omnipref.demo.measure import METRICS
from omnipref.demo.train import load_base
from omnipref.errors import ConfigError, nearest
from omnipref.evaluation import print_table, summary_figure, write_report
from omnipref.worlds import test_pictures


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
    job = Job(folder, sizes, config.seed)
    console.print(
        f"[bold]1/3[/] preferences from {sizes.pictures} pictures, described by the model that will be aligned"
    )
    prepare_preferences(job, console)
    console.print(f"[bold]2/3[/] {len(arms)} models, each measured on {sizes.test} fresh pictures")
    for number, arm in enumerate(finish_all(job, arms, config.workers or default_workers()), 1):
        chair = job.kept(arm)[0].estimates()["chair_i"].value
        console.print(f"  {number}/{len(arms)} {arm.name}: {chair:.1%} of the named objects are not in the picture")
    console.print("[bold]3/3[/] report")
    found = {arm.key: job.kept(arm) for arm in arms}
    report = demo_report(
        arms,
        {key: measured for key, (measured, _) in found.items()},
        {key: log for key, (_, log) in found.items()},
        test_pictures(sizes.test, config.seed),
        _command(config),
        config.seed,
    )
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
        job = Job(Path(folder), sizes, seed)
        found, _ = job.train_and_measure(chosen, _data(sizes.pictures, seed).preferences, progress=False)
    return {name: estimate.value for name, estimate in found.estimates().items()}


@lru_cache(maxsize=2)
def _data(pictures: int, seed: int) -> DemoData:
    model, processor, _ = load_base()
    return build_preferences(model, processor, pictures, seed, progress=False)


def _command(config: DemoConfig) -> str:
    changed = {"seed": config.seed, "size": config.size}
    defaults = DemoConfig()
    flags = [f"--{name} {value}" for name, value in changed.items() if value != getattr(defaults, name)]
    flags += [f"--arms {' '.join(config.arms)}"] if config.arms else []
    return " ".join(["omnipref demo", *flags])
