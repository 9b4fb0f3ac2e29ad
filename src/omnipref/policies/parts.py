"""Long jobs in parts: each part is written whole, and an interrupted job continues with the first missing part."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from omnipref.errors import ConfigError
from omnipref.preferences.write import atomic

Item = TypeVar("Item")
_LARGE = {".safetensors", ".bin", ".arrow", ".parquet"}
"""Files that tell whether a folder is what it was; beside them lie logs, notes and what is made of them."""


@dataclass(frozen=True)
class Part:
    """What one part of a job made: JSON rows of the output, and rows of the side file, each with its reason."""

    rows: Sequence[Mapping[str, Any]]
    dropped: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def run_in_parts(
    output: str | Path,
    settings: Mapping[str, Any],
    items: Sequence[Item],
    size: int,
    work: Callable[[Sequence[Item]], Part],
    what: str = "working",
    refused: Sequence[Mapping[str, Any]] = (),
    made_of: Sequence[str | None] = (),
) -> tuple[int, int]:
    """Work on `items`, `size` at a time, and write `output` as JSONL when all is done; gives rows written and dropped.

    Parts lie in `<output>.parts/` until then. Dropped rows go to `aside_of(output)`.

    Args:
        output: file to write, all or nothing.
        settings: whatever the result depends on; parts of other settings are refused, not mixed in.
        items: what to work on.
        size: items per part; what an interruption loses at most. An interrupted job keeps the size that it began with.
        work: from some items to their part.
        what: word for the progress bar.
        refused: further rows for the side file.
        made_of: files and folders that the result depends on; parts from before they were written anew are refused.

    Raises:
        ConfigError: the output exists, or parts of other settings, or of files as they were, lie beside it.
    """
    output = Path(output)
    folder = output.with_name(output.name + ".parts")
    size = _start(output, folder, settings, size, made_of)
    starts = range(0, len(items), size)
    for number, start in enumerate(tqdm(starts, desc=what, unit="part", disable=len(starts) < 2)):
        path = folder / f"{number:06d}.json"
        if not path.exists():
            part = work(items[start : start + size])
            with atomic(path) as file:
                file.write(json.dumps({"rows": list(part.rows), "dropped": list(part.dropped)}).encode())
    return _finish(output, folder, len(starts), refused)


def aside_of(output: Path) -> Path:
    """The side file of an output: `scores.jsonl` to `scores.quarantine.jsonl`."""
    return output.with_suffix(".quarantine.jsonl")


def _start(output: Path, folder: Path, settings: Mapping[str, Any], size: int, made_of: Sequence[str | None]) -> int:
    """Items per part: of the parts that are there, else as asked for."""
    if output.exists():
        raise ConfigError(f"found a file {output}; expected none. To mend: name another output, or delete it")
    note = folder / "settings.json"
    written = {name: _written(Path(name)) for name in made_of if name and Path(name).exists()}
    wanted = json.loads(json.dumps({"settings": settings, "size": size, "written": written}))
    if note.exists():
        found = json.loads(note.read_text(encoding="utf-8"))
        if changed := _changed(found.get("settings", {}), wanted["settings"]):
            raise ConfigError(
                f"found parts of an interrupted run with other values of {', '.join(changed)} in {folder}; expected "
                "the same. To mend: use the old values to continue it, or delete the folder to start anew"
            )
        if changed := _changed(found["written"], wanted["written"]):
            raise ConfigError(
                f"found parts of an interrupted run in {folder}, and {', '.join(changed)} written anew since; expected "
                "what they were made of. To mend: delete the folder to start anew"
            )
        return int(found["size"])
    with atomic(note) as file:
        file.write(json.dumps(wanted, indent=1).encode())
    return size


def _changed(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))


def _written(path: Path) -> list[int]:
    """Bytes of a file, or of what is large in a folder, and when it was written last."""
    files = [each for each in path.rglob("*") if each.suffix in _LARGE] if path.is_dir() else [path]
    states = [each.stat() for each in files]
    return [sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)]


def _finish(output: Path, folder: Path, count: int, refused: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    parts = [json.loads((folder / f"{number:06d}.json").read_bytes()) for number in range(count)]
    dropped = [*(row for part in parts for row in part["dropped"]), *refused]
    if dropped:
        _write(aside_of(output), dropped)
    rows = [row for part in parts for row in part["rows"]]
    _write(output, rows)
    shutil.rmtree(folder)
    return len(rows), len(dropped)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n")
