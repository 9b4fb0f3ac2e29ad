"""All objectives on all seeds; each path is kept as soon as it is done, so an interrupted comparison continues."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omnipref.comparing.trace import Trace, check_objective, trace
from omnipref.config.load import write_text
from omnipref.errors import ConfigError
from omnipref.objectives import Objective, parse_objective
from omnipref.worlds.comparable import World, find_world


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is compared, where and for how long.

    Args:
        objectives: as texts.
        world: name of the world.
        seeds: how many, from 0.
        steps: updates.
        rate: learning rate of Adam; None: the world's.
        folder: where paths are kept, in `.paths`.
        commit: of the code, part of what makes two paths the same.
        fresh: run everything again.
        say: takes each line of progress.
    """

    objectives: Sequence[str]
    world: str
    seeds: int
    steps: int
    folder: Path
    rate: float | None = None
    commit: str = ""
    fresh: bool = False
    say: Callable[[str], None] = field(default=print)

    def kept(self, objective: str, seed: int) -> Path:
        """The file of one path; another world, length, rate or commit is another file."""
        protocol = (self.world, objective, self.steps, self.rate, self.commit, seed)
        key = hashlib.sha256(json.dumps(protocol).encode()).hexdigest()[:16]
        return self.folder / ".paths" / f"{seed}-{key}.json"


def run_job(job: Job) -> Mapping[str, Sequence[Trace]]:
    """Objective, as it prints, to its paths, one per seed.

    Raises:
        ConfigError: an unknown world or objective, or two equal ones.
        NeedsError: an objective reads what the world does not have.
    """
    draw = find_world(job.world)
    objectives = parsed(job.objectives)
    first = draw(0)
    for objective in objectives.values():
        check_objective(first, objective)
    traces: dict[str, list[Trace]] = {name: [] for name in objectives}
    total = len(objectives) * job.seeds
    for seed in range(job.seeds):
        for name, objective in objectives.items():
            start, old = time.monotonic(), None if job.fresh else _read(job.kept(name, seed))
            traces[name].append(old or _run(job, draw(seed), objective, seed))
            state = "kept from before" if old else f"{time.monotonic() - start:.0f} s"
            done = sum(map(len, traces.values()))
            job.say(f"[{done}/{total}] seed {seed}, {name}: {_outcome(traces[name][-1])} ({state})")
    return traces


def _run(job: Job, world: World, objective: Objective, seed: int) -> Trace:
    found = trace(world, objective, seed, job.steps, world.rate if job.rate is None else job.rate)
    write_text(job.folder / ".paths" / ".gitignore", "*\n")
    write_text(job.kept(str(objective), seed), json.dumps(asdict(found)))
    return found


def parsed(texts: Sequence[str]) -> dict[str, Objective]:
    """The objectives by the text that they print as.

    Raises:
        ConfigError: an unknown one, or two that are the same.

    Example:
        >>> list(parsed(["dpo( beta = 0.1 )", "ipo(beta=0.5)"]))
        ['dpo()', 'ipo(beta=0.5)']
    """
    found: dict[str, Objective] = {}
    for text in texts:
        objective = parse_objective(text)
        if str(objective) in found:
            raise ConfigError(f"found the objective `{objective}` twice; expected different ones")
        found[str(objective)] = objective
    return found


def _read(path: Path) -> Trace | None:
    if not path.is_file():
        return None
    plain = json.loads(path.read_text(encoding="utf-8"))
    values = {name: tuple(numbers) for name, numbers in plain["values"].items()}
    return Trace(tuple(plain["steps"]), values, plain["broke"])


def _outcome(found: Trace) -> str:
    if found.broke is not None:
        return f"not finite from step {found.broke}"
    return f"reward {found.values['reward'][-1]:.3f}, KL {found.values['kl'][-1]:.3f}"
