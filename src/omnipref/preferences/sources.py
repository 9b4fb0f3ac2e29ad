"""Raw rows from where they lie: JSON lines, JSON, Parquet, folders, sets saved by `datasets`, and the hub."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.fields import described

_LINES = (".jsonl", ".ndjson")
_SUFFIXES = (*_LINES, ".json", ".parquet")
_BATCH = 64


@dataclass(frozen=True)
class Raw:
    """A row as found.

    Args:
        number: its number in its file, from 0.
        row: the columns, or None where the row cannot be read.
        source: the file or data set, for messages.
        folder: where its relative media paths start.
        error: why it cannot be read.
        found: the row, or the text of a broken line, for the quarantine file.
    """

    number: int
    row: Mapping[str, Any] | None
    source: str
    folder: Path | None = None
    error: DataError | None = None
    found: Any = None


def raw_rows(
    source: str | Path, *, split: str = "train", subset: str | None = None, streaming: bool = False
) -> Iterator[Raw]:
    """Every row of a source, the broken ones included, with what is wrong with them.

    Raises:
        DataError: no such file, split or data set.
    """
    path = Path(source)
    if path.is_dir():
        yield from _folder(path, split)
    elif path.is_file():
        yield from _file(path)
    elif _is_hub_name(str(source)):
        yield from _hub(str(source), split, subset, streaming)
    else:
        cure = "mend the path; a hub name looks like owner/name"
        raise DataError("no such file or folder", "a file", cure=cure, source=str(source))


def check_source(source: str, *, split: str = "train") -> None:
    """Refuse a file or folder without rows before anything slow is done; the hub is not asked.

    Args:
        source: as `raw_rows` takes it.
        split: of a folder.

    Raises:
        DataError: no such file, folder or split, a file of another kind, or an empty one.
    """
    if not Path(source).exists() and _is_hub_name(source):
        return
    if next(raw_rows(source, split=split), None) is None:
        raise DataError("no row", "at least one", cure="name a file with records", source=source)


def _is_hub_name(source: str) -> bool:
    is_file = Path(source).name.removesuffix(".gz").endswith(_SUFFIXES)
    return not is_file and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) is not None


def _file(path: Path) -> Iterator[Raw]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return _parquet(path)
    if name.endswith(_LINES):
        return _lines(path, _open(path))
    if name.endswith(".json"):
        return _json(path)
    raise DataError(f"a file that ends in {path.suffix!r}", f"one of {', '.join(_SUFFIXES)}", source=str(path))


def _open(path: Path) -> Iterator[bytes]:
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as file:
        yield from file


def _lines(path: Path, lines: Iterable[bytes]) -> Iterator[Raw]:
    number = 0
    try:
        for line in lines:
            if line.strip():
                yield _line(path, number, line)
                number += 1
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        bad = DataError(f"a cut-off or corrupt gzip file ({error})", "gzip", cure="download or write the file again")
        yield _broken(path, number, bad, None)


def _line(path: Path, number: int, line: bytes) -> Raw:
    try:
        text = line.decode("utf-8-sig" if number == 0 else "utf-8")
    except UnicodeDecodeError as error:
        cure = "convert the file to UTF-8, for example `iconv -f latin1 -t utf-8`, or drop the line"
        bad = DataError(f"the byte 0x{line[error.start]:02x} at {error.start}, not UTF-8", "UTF-8", cure=cure)
        return _broken(path, number, bad, line.decode("utf-8", "backslashreplace").rstrip("\n"))
    try:
        return _row(path, number, json.loads(text))
    except json.JSONDecodeError as error:
        return _broken(path, number, _json_error(error), text.rstrip("\n"))


def _json_error(error: json.JSONDecodeError) -> DataError:
    cure = "write the line again: it is cut off or not JSON"
    return DataError(f"broken JSON ({error.msg} at character {error.pos})", "one JSON object per line", cure=cure)


def _row(path: Path, number: int, value: Any) -> Raw:
    if isinstance(value, Mapping):
        return Raw(number, value, str(path), path.parent, found=value)
    return _broken(path, number, DataError(described(value), "an object with columns"), value)


def _broken(path: Path, number: int, error: DataError, found: Any) -> Raw:
    return Raw(number, None, str(path), path.parent, error.at(record=number, source=str(path)), found)


def _json(path: Path) -> Iterator[Raw]:
    """A list of rows, an object that holds one list of rows, MMPR's meta object, or JSON lines."""
    data = b"".join(_open(path))
    text = data.decode("utf-8-sig", "backslashreplace")
    if text.lstrip().startswith("["):
        return _array(path, text)
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return _lines(path, data.splitlines())
    if value and all(isinstance(item, Mapping) and "annotation" in item for item in value.values()):
        return _meta(path, value)
    lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], Mapping)]
    if len(value) == 1 and lists:
        return (_row(path, i, item) for i, item in enumerate(lists[0]))
    return iter([_row(path, 0, value)])


def _array(path: Path, text: str) -> Iterator[Raw]:
    """The rows of a JSON list one by one, so that a cut-off list loses its last row only."""
    decoder, space = json.JSONDecoder(), re.compile(r"[\s,]*")
    at, number = text.index("[") + 1, 0
    while (at := space.match(text, at).end()) < len(text) and text[at] != "]":  # pyright: ignore[reportOptionalMemberAccess] (the pattern matches anything)
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            yield _broken(path, number, _json_error(error), text[at:])
            return
        yield _row(path, number, value)
        number += 1


def _meta(path: Path, sets: Mapping[str, Any]) -> Iterator[Raw]:
    """MMPR's meta: each set's annotation file, its media root, and how often it is repeated (a fraction: its start)."""
    for name, one in sets.items():
        annotation, root = path.parent / one["annotation"], path.parent / one.get("root", "")
        if not annotation.is_file():
            raise DataError(
                f"no file {one['annotation']}", "the set's JSONL", source=str(path), field=f"{name}.annotation"
            )
        times = float(one.get("repeat_time", 1))
        rows = [Raw(raw.number, raw.row, raw.source, root, raw.error, raw.found) for raw in _file(annotation)]
        for _ in range(int(times)):
            yield from rows
        yield from rows[: round((times - int(times)) * len(rows))]


def _parquet(path: Path) -> Iterator[Raw]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    yield Raw(number, row, str(path), path.parent, found=row)
                    number += 1
    except pyarrow.ArrowException as error:
        cure = "download or write the file again"
        raise DataError(f"a broken Parquet file ({error})", "Parquet", cure=cure, source=str(path)) from None


def _folder(path: Path, split: str) -> Iterator[Raw]:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        yield from _saved(path, split)
        return
    every = [one for one in sorted(path.rglob("*")) if one.name.removesuffix(".gz").endswith(_SUFFIXES)]
    every = [one for one in every if ".quarantine." not in one.name]
    files = [one for one in every if one.name.startswith(split)] or (every if len(every) == 1 else [])
    if not files:
        names = ", ".join(one.name for one in every[:6]) or "no data files"
        cure = "name a file, or another split"
        raise DataError(names, f"files whose names start with {split!r}", cure=cure, source=str(path))
    for file in files:
        yield from _file(file)


def _saved(path: Path, split: str) -> Iterator[Raw]:
    import datasets

    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DataError(
                f"splits {', '.join(map(str, saved))}", f"{split!r}", cure="name one of them", source=str(path)
            )
        saved = saved[split]
    return _dataset(saved.to_iterable_dataset(), str(path), path)


def _hub(name: str, split: str, subset: str | None, streaming: bool) -> Iterator[Raw]:
    import datasets

    try:
        loaded: Any = datasets.load_dataset(name, subset, split=split, streaming=streaming)
    except (OSError, ValueError) as error:
        cure = "check the name, the split and the connection, or download the files and name their folder"
        raise DataError(
            f"a data set that cannot be loaded ({error})", "a file or hub name", cure=cure, source=name
        ) from error
    return _dataset(loaded if streaming else loaded.to_iterable_dataset(), name, None)


def _dataset(dataset: Any, source: str, folder: Path | None) -> Iterator[Raw]:
    """Rows of an iterable `datasets` set with media left encoded, so that a corrupt one spoils its own row only."""
    if dataset.features is not None:
        dataset = dataset.decode(False)
    for number, row in enumerate(dataset):
        yield Raw(number, row, source, folder, found=row)
