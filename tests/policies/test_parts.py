"""Long jobs in parts: what an interrupted one goes on with, and what it refuses to mix."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from omnipref.errors import ConfigError
from omnipref.policies.parts import Part, aside_of, run_in_parts


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def work(parts: int | None = None) -> Callable[[Sequence[int]], Part]:
    """Work that is killed after so many parts."""
    done: list[int] = []

    def some(items: Sequence[int]) -> Part:
        if len(done) == parts:
            raise KeyboardInterrupt
        done.append(len(items))
        return Part([{"number": item} for item in items if item != 7], [{"number": 7}] if 7 in items else [])

    return some


@pytest.mark.parametrize("size", [2, 5])
def test_another_size_of_parts_loses_and_repeats_nothing(tmp_path: Path, size: int):
    output = tmp_path / "numbers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(output, {"a": 1}, range(11), 3, work(1))
    assert run_in_parts(output, {"a": 1}, range(11), size, work()) == (10, 1)
    assert numbers(output) == [item for item in range(11) if item != 7]
    assert not output.with_name("numbers.jsonl.parts").exists()


@pytest.mark.parametrize("name", ["data.jsonl", "folder"])
def test_parts_of_files_that_were_written_anew_are_refused(tmp_path: Path, name: str):
    source, output = tmp_path / name, tmp_path / "folder" / "numbers.jsonl"
    (tmp_path / "folder").mkdir()
    (file := source / "model.safetensors" if name == "folder" else source).write_text("one")
    made_of = [str(source), None, "no-such-file"]
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(output, {}, range(9), 3, work(1), made_of=made_of)
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(output, {}, range(9), 3, work(1), made_of=made_of)
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    with pytest.raises(ConfigError, match=f"{name} written anew since.*delete the folder"):
        run_in_parts(output, {}, range(9), 3, work(), made_of=made_of)
    with pytest.raises(ConfigError, match="other values of seed"):
        run_in_parts(output, {"seed": 1}, range(9), 3, work(), made_of=made_of)


def test_outputs_whose_names_begin_alike_have_side_files_of_their_own(tmp_path: Path):
    for name in ("numbers.a.jsonl", "numbers.b.jsonl"):
        run_in_parts(tmp_path / name, {}, range(9), 3, work())
    assert sorted(path.name for path in tmp_path.glob("*.quarantine.jsonl")) == [
        "numbers.a.quarantine.jsonl",
        "numbers.b.quarantine.jsonl",
    ]
    assert aside_of(Path("scores.jsonl")) == Path("scores.quarantine.jsonl")
