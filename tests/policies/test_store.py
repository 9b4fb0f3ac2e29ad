"""The store of tensors: several processes, a killed one, and every way in which a folder can refuse."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from omnipref.errors import ConfigError
from omnipref.policies.caching.place import cache_directory
from omnipref.policies.caching.store import FORMAT, Store

NOBODY = 65534


def values(count: int = 3, start: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    return {f"{i:04}": {"logp": torch.full((4,), -float(i)), "mask": torch.ones(4).bool()} for i in range(start, count)}


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder, and inside the rights of a user to whom permissions apply; root may write anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.geteuid() == 0
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


def test_tensors_come_back_bit_for_bit(tmp_path):
    store = Store(tmp_path / "deep" / "values.sqlite")
    tensors = {
        "half": torch.randn(3, 2).bfloat16(),
        "single": torch.tensor([-0.0, 1e-45, float("nan")]),
        "part": torch.arange(12.0).reshape(3, 4)[:, 1],
    }
    assert store.get(["a"]) == {} and store.count() == 0
    store.put({"a": tensors})
    found = Store(tmp_path / "deep" / "values.sqlite").get(["a", "b"])
    assert list(found) == ["a"]
    for name, value in tensors.items():
        assert found["a"][name].dtype == value.dtype
        assert torch.equal(found["a"][name].view(torch.uint8), value.contiguous().view(torch.uint8))


def test_a_key_keeps_its_first_value_and_many_keys_are_found_at_once(tmp_path):
    store = Store(tmp_path / "values.sqlite")
    store.put(values(1300))
    store.put({"0007": {"logp": torch.zeros(4), "mask": torch.zeros(4).bool()}})
    found = store.get([f"{i:04}" for i in range(1400)])
    assert len(found) == store.count() == 1300
    assert found["0007"]["logp"].tolist() == [-7.0] * 4


WRITER = """
import sys, torch
from pathlib import Path
from omnipref.policies.caching.store import Store
store = Store(Path(sys.argv[1]))
for i in range(int(sys.argv[2]), int(sys.argv[3])):
    store.put({f"{j:04}": {"logp": torch.full((4,), -float(j)), "mask": torch.ones(4).bool()} 
               for j in (2 * i, 2 * i + 1)})
"""


def writer(path: Path, start: int, end: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(path), str(start), str(end)]
    return subprocess.Popen(command)


def test_two_processes_write_and_one_reads_at_once(tmp_path):
    path = tmp_path / "values.sqlite"
    store = Store(path)
    with writer(path, 0, 60) as one, writer(path, 40, 100) as other:
        while one.poll() is None or other.poll() is None:
            assert all(found["logp"][0] == -float(key) for key, found in store.get(["0000", "0100", "0150"]).items())
    assert one.returncode == other.returncode == 0
    assert store.count() == 200


def test_a_killed_writer_leaves_whole_batches(tmp_path):
    path = tmp_path / "values.sqlite"
    deadline = time.monotonic() + 60
    with writer(path, 0, 4000) as process:
        while Store(path).count() < 10 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    store = Store(path, strict=True)
    count = store.count()
    found = store.get([f"{i:04}" for i in range(8000)])
    assert 10 <= count == len(found) and count % 2 == 0
    assert all(torch.equal(value["logp"], torch.full((4,), -float(key))) for key, value in found.items())
    store.put(values(1))
    assert not list(tmp_path.glob("*.broken"))


@pytest.mark.parametrize("damage", ["text", "half", "page", "value"])
def test_a_damaged_file_is_set_aside_with_one_line_and_built_anew(tmp_path, caplog, damage):
    path = tmp_path / "values.sqlite"
    store = Store(path)
    store.put(values(300))
    whole = path.read_bytes()
    if damage == "text":
        path.write_bytes(b"half a file" * 1000)
    elif damage == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "page":
        path.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    else:  # SQLite itself has no checksums of what is stored
        with sqlite3.connect(path) as db:
            db.execute("UPDATE entries SET value = CAST(substr(value, 1, 100) || x'00' || substr(value, 102) AS BLOB)")
    keys = list(values(300))
    assert store.get(keys) == {}
    assert len(caplog.records) == 1 and "damaged" in caplog.text and str(path) in caplog.text
    assert (tmp_path / "values.sqlite.broken").exists()
    store.put(values(2))
    assert len(Store(path).get(keys)) == 2


def test_a_file_of_a_newer_version_is_left_alone(tmp_path, caplog):
    path = tmp_path / "values.sqlite"
    Store(path).put(values())
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    before = path.read_bytes()
    store = Store(path)
    for _ in range(2):
        store.put(values(9))
        assert store.get(["0000"]) == {}
    assert path.read_bytes() == before
    assert len(caplog.records) == 1 and f"format {FORMAT + 1} of a newer omnipref" in caplog.text
    with pytest.raises(ConfigError, match=r"newer omnipref.*name another --cache-dir"):
        Store(path, strict=True).get(["0000"])
    with pytest.raises(ConfigError, match="newer omnipref"):
        Store(path, strict=True).put(values())


def test_a_folder_that_may_only_be_read_gives_what_it_holds(caplog):
    with ordinary_user() as folder:
        path = folder / "values.sqlite"
        Store(path).put(values())
        os.chmod(path, 0o444)
        os.chmod(folder, 0o555)
        try:
            store = Store(path)
            for _ in range(2):
                store.put(values(9))
                assert len(store.get(list(values(9)))) == 3
            assert len(caplog.records) == 1 and "readonly" in caplog.text and "it is read" in caplog.text
            with pytest.raises(ConfigError, match=r"cannot be written.*To mend"):
                Store(path, strict=True).put(values(9))
            new = Store(folder / "new" / "values.sqlite")
            new.put(values())
            assert new.get(["0000"]) == {} and "Permission denied" in caplog.text
        finally:
            os.chmod(folder, 0o777)


FULL = """
import logging, sys, torch
from pathlib import Path
from omnipref.policies.caching.store import Store
folder = Path(sys.argv[1])
if len(sys.argv) > 2:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
logging.basicConfig(format="%(message)s")
store = Store(folder / "values.sqlite")
for i in range(200):
    store.put({str(i): {"logp": torch.full((256,), float(i))}})
found = store.get([str(i) for i in range(200)])
assert all(torch.equal(value["logp"], torch.full((256,), float(key))) for key, value in found.items())
print("kept", len(found), flush=True)
"""


@pytest.mark.parametrize("way", ["disk", "file size"])
def test_a_full_disk_costs_one_warning_and_nothing_that_was_kept(tmp_path, way):
    run = f"{sys.executable} -c '{FULL}' {tmp_path}"
    if way == "disk":
        if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
            pytest.skip("no namespaces, so no small disk to fill")
        run = f"mount -t tmpfs -o size=64k none {tmp_path} && {run}"
        done = subprocess.run(["unshare", "-rm", "sh", "-c", run], capture_output=True, text=True)
    else:
        done = subprocess.run(f"{run} limited", shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 5 < int(done.stdout.split()[1]) < 100
    assert done.stderr.count("cannot be written") == 1 and done.stderr.count("\n") == 1
    assert "full" in done.stderr or "disk I/O" in done.stderr


def test_the_default_place_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OMNIPREF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / ".cache" / "omnipref"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "omnipref"
    monkeypatch.setenv("OMNIPREF_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    assert cache_directory("~/given") == tmp_path / "given"
