"""Tensors on disk by key, in one SQLite file: shared by processes, whole after a crash, no reason to stop a run."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load, save
from torch import Tensor

from omnipref.errors import ConfigError

logger = logging.getLogger(__name__)

FORMAT = 1
"""Number of the file's format, in SQLite's `user_version`; a file with a higher one is left alone."""
WAIT = 60.0
"""Seconds to wait for another process that is writing."""
KEYS_AT_ONCE = 500
DIGEST_BYTES = 16

Result = TypeVar("Result")


class NewerFormatError(sqlite3.OperationalError):
    """A file whose format a later version of omnipref writes."""


class Store:
    """A file of tensors by key.

    Several processes may read and write it at once. A write is one transaction, so a killed process leaves a whole
    file; every value carries a checksum, and a file that is damaged all the same is set aside as `<name>.broken` and
    begun anew. Whatever else goes wrong (no permission, full disk, newer format) costs one warning and the use of the
    file: what cannot be read is not found, what cannot be written is not kept.

    Args:
        path: the file; made at the first `put`, with its folders.
        strict: raise `ConfigError` instead of warning, for commands that are run to fill the store.

    Example:
        >>> import tempfile, torch
        >>> store = Store(Path(tempfile.mkdtemp()) / "values.sqlite")
        >>> store.put({"a": {"logp": torch.tensor([-1.0, -2.0])}})
        >>> store.get(["a", "b"])
        {'a': {'logp': tensor([-1., -2.])}}
    """

    def __init__(self, path: Path, *, strict: bool = False):
        self.path, self.strict = path, strict
        self._reads = self._writes = True

    def count(self) -> int:
        """Number of values."""
        return self._read(_count, 0)

    def get(self, keys: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """The tensors of those keys that are there, on the CPU, bit for bit as they were put.

        Raises:
            ConfigError: the file cannot be read, if `strict`.
        """
        return self._read(lambda db: _values(db, keys), {})

    def put(self, items: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep tensors; a key that is there already keeps its value.

        Raises:
            ConfigError: the file cannot be written, if `strict`.
        """
        if not items or not self._writes:
            return
        rows = [(key, _packed(key, tensors)) for key, tensors in items.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._attempt(lambda db: _insert(db, rows))
        except NewerFormatError as error:
            self._leave(error)
        except (OSError, sqlite3.Error) as error:
            self._writes = False
            self._say("written", "it is read, but nothing more is kept", error)

    def _read(self, action: Callable[[sqlite3.Connection], Result], otherwise: Result) -> Result:
        if not self._reads or not self.path.exists():
            return otherwise
        try:
            return self._attempt(action)
        except (OSError, sqlite3.Error) as error:
            self._leave(error)
            return otherwise

    def _leave(self, error: Exception) -> None:
        self._reads = self._writes = False
        self._say("read", "this run goes on without it", error)

    def _attempt(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run an action on the file; if the file is damaged, set it aside and run the action on a new one."""
        before = _inode(self.path)
        try:
            return self._run(action)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self._set_aside(before, error)
            return self._run(action)

    def _run(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        with closing(sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)) as db:
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found > FORMAT:
                raise NewerFormatError(f"found format {found} of a newer omnipref; this one reads {FORMAT}")
            return action(db)

    def _set_aside(self, inode: int, error: sqlite3.DatabaseError) -> None:
        if _inode(self.path) != inode:
            return  # another process has done so
        journal, aside = f"{self.path}-journal", f"{self.path}.broken"
        if os.path.exists(journal):  # it belongs to the damaged file and must not be applied to a new one
            os.replace(journal, f"{aside}-journal")
        os.replace(self.path, aside)
        logger.warning("the cache %s is damaged (%s): set aside as %s and begun anew", self.path, error, aside)

    def _say(self, done: str, instead: str, error: Exception) -> None:
        problem = f"the cache {self.path} cannot be {done} ({error})"
        cure = "make room or give permission, or name another --cache-dir"
        if self.strict:
            raise ConfigError(f"{problem}. To mend: {cure}") from error
        logger.warning("%s: %s. To mend: %s", problem, instead, cure)


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _is_new(db: sqlite3.Connection) -> bool:
    return db.execute("PRAGMA user_version").fetchone()[0] == 0


def _count(db: sqlite3.Connection) -> int:
    return 0 if _is_new(db) else db.execute("SELECT count(*) FROM entries").fetchone()[0]


def _values(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for some in () if _is_new(db) else _pieces(keys):
        marks = ",".join("?" * len(some))
        rows = db.execute(f"SELECT key, value FROM entries WHERE key IN ({marks})", some)
        found |= {key: _unpacked(key, value) for key, value in rows}
    return found


def _pieces(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[start : start + KEYS_AT_ONCE] for start in range(0, len(keys), KEYS_AT_ONCE)]


def _insert(db: sqlite3.Connection, rows: Sequence[tuple[str, bytes]]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?)", rows)
    db.execute("COMMIT")


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=DIGEST_BYTES, key=key.encode()[:64]).digest()


def _packed(key: str, tensors: Mapping[str, Tensor]) -> bytes:
    value = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return _digest(key, value) + value


def _unpacked(key: str, value: bytes) -> dict[str, Tensor]:
    digest, tensors = value[:DIGEST_BYTES], value[DIGEST_BYTES:]
    if digest != _digest(key, tensors):
        raise sqlite3.DatabaseError("a value does not match its checksum")
    return load(tensors)
