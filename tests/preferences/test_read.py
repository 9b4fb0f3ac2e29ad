"""Reading: every source gives the same preferences, bad records are put aside with their place, and nothing is lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from preferences.public_rows import HH, ROWS

from omnipref.errors import ConfigError, DataError
from omnipref.preferences import Preference, preference_key, read
from omnipref.preferences.sources import check_source

SHARED = Path(__file__).parents[2] / "../shared/data"
PAIRS = [{"prompt": f"{i} + 1 =", "chosen": f" {i + 1}", "rejected": f" {i}"} for i in range(6)]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def contents(preferences: Any) -> list[tuple[str, str, str]]:
    return [(p.cases["chosen"].context[0].text, p.cases["chosen"].text, p.cases["rejected"].text) for p in preferences]


EXPECTED = [(row["prompt"], row["chosen"], row["rejected"]) for row in PAIRS]


def save_jsonl(folder: Path) -> Path:
    return lines(folder / "pairs.jsonl", PAIRS)


def save_gzip(folder: Path) -> Path:
    path = folder / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in PAIRS)))
    return path


def save_array(folder: Path) -> Path:
    path = folder / "pairs.json"
    path.write_text(json.dumps(PAIRS, indent=1), encoding="utf-8")
    return path


def save_object(folder: Path) -> Path:
    path = folder / "pairs.json"
    path.write_text(json.dumps({"data": PAIRS}), encoding="utf-8")
    return path


def save_lines_as_json(folder: Path) -> Path:
    return lines(folder / "pairs.json", PAIRS)


def save_parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def save_folder(folder: Path) -> Path:
    lines(folder / "train-0.jsonl", PAIRS[:4])
    lines(folder / "train-1.jsonl", PAIRS[4:])
    lines(folder / "test.jsonl", PAIRS[:1])
    return folder


def save_dataset(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(PAIRS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def save_dataset_splits(folder: Path) -> Path:
    import datasets

    splits = {"train": datasets.Dataset.from_list(PAIRS), "test": datasets.Dataset.from_list(PAIRS[:1])}
    datasets.DatasetDict(**splits).save_to_disk(str(folder / "saved"))
    return folder / "saved"


SAVES = [
    save_jsonl,
    save_gzip,
    save_array,
    save_object,
    save_lines_as_json,
    save_parquet,
    save_folder,
    save_dataset,
    save_dataset_splits,
]


@pytest.mark.parametrize("save", SAVES)
def test_sources_agree(save: Any, tmp_path: Path):
    reading = read(save(tmp_path))
    preferences = list(reading)
    assert contents(preferences) == EXPECTED
    assert contents(reading) == EXPECTED, "a reading can be iterated again"
    assert (reading.report.format, reading.report.rows, reading.report.preferences) == ("trl", 6, 6)
    if save is not save_folder:
        assert [one.record for one in preferences] == list(range(6))
    assert not list(tmp_path.rglob("*.quarantine.jsonl"))


def test_other_split_and_limit(tmp_path: Path):
    assert contents(read(save_folder(tmp_path), split="test")) == EXPECTED[:1]
    assert contents(read(save_dataset_splits(tmp_path), split="test")) == EXPECTED[:1]
    assert contents(read(save_jsonl(tmp_path), limit=2)) == EXPECTED[:2]
    with pytest.raises(DataError, match="train, test"):
        list(read(tmp_path / "saved", split="dev"))


def test_columns_can_be_renamed(tmp_path: Path):
    renamed = [{"ask": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in PAIRS]
    path = lines(tmp_path / "a.jsonl", renamed)
    assert contents(read(path, columns={"ask": "prompt", "good": "chosen", "bad": "rejected"})) == EXPECTED


BAD_LINES: list[tuple[bytes, str | None, str]] = [
    (b'{"prompt": "q", "chosen": "a", "rej', None, "broken JSON"),
    (b'{"prompt": "caf\xe9", "chosen": "a", "rejected": "b"}', None, "0xe9"),
    (b'["prompt", "chosen"]', None, "a list of 2"),
    (b'{"prompt": "q", "chosen": 7, "rejected": "b"}', "chosen", "int 7"),
    (b'{"prompt": "q", "chosen": "a"}', "rejected", "no such field"),
    (b'{"prompt": "q", "chosen": "", "rejected": "b"}', "chosen", "empty response"),
    (b'{"prompt": "q", "chosen": "a", "rejected": "a"}', "rejected", "chosen equal to rejected"),
    (b'{"prompt": "q", "chosen": "a", "rejected": "b", "margin": NaN}', "margin", "nan"),
]


@pytest.mark.parametrize(("line", "field", "found"), BAD_LINES)
def test_bad_line_is_put_aside(line: bytes, field: str | None, found: str, tmp_path: Path):
    good = [json.dumps(row).encode() for row in PAIRS]
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join([*good[:3], line, *good[3:]]) + b"\n")
    reading = read(path)
    assert contents(reading) == EXPECTED
    report = reading.report
    assert (report.rows, report.preferences, report.bad) == (7, 6, 1)
    aside = tmp_path / "pairs.quarantine.jsonl"
    assert report.quarantine == aside
    (entry,) = [json.loads(text) for text in aside.read_text(encoding="utf-8").splitlines()]
    assert entry["record"] == 3 and entry["field"] == field and found in entry["reason"]
    assert entry["source"] == str(path)
    if field:
        assert repr(entry["row"]) == repr(json.loads(line))
    assert "record 3" in report.first_bad[0] and "pairs.jsonl" in report.first_bad[0]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["pairs.jsonl", "pairs.quarantine.jsonl"]

    with pytest.raises(DataError, match="record 3") as caught:
        list(read(path, on_error="raise"))
    assert caught.value.field == field


def test_raw_text_of_broken_lines_is_kept(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(PAIRS[0]).encode() + b'\n{"prompt": "cut o')
    reading = read(path)
    assert len(list(reading)) == 1
    assert reading.report.quarantine is not None
    entry = json.loads(reading.report.quarantine.read_text(encoding="utf-8"))
    assert entry["row"] == '{"prompt": "cut o'


def test_cut_off_array_loses_its_last_row_only(tmp_path: Path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(PAIRS)[:-20], encoding="utf-8")
    reading = read(path)
    assert contents(reading) == EXPECTED[:-1]
    assert reading.report.bad == 1 and "record 5" in reading.report.first_bad[0]


def test_cut_off_gzip_keeps_what_can_be_read(tmp_path: Path):
    path = tmp_path / "pairs.jsonl.gz"
    rows = [{**PAIRS[0], "prompt": f"{i}"} for i in range(3000)]
    data = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    path.write_bytes(data[: len(data) // 2])
    reading = read(path)
    assert 0 < len(list(reading)) < 3000
    assert "gzip" in reading.report.first_bad[0]


def test_equal_strings_with_different_media_are_kept(tmp_path: Path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    row = {"image": "a.png", "question": "What?", "chosen": "a cat", "rejected": "a dog"}
    reading = read(lines(tmp_path / "x.jsonl", [row, {**row, "image": "b.png"}, row]))
    kept = list(reading)
    assert [one.cases["chosen"].context[0].media[0].value for one in kept] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "b.png"),
    ]
    assert (reading.report.duplicates, reading.report.duplicates_dropped) == (1, 1)
    assert len(list(read(tmp_path / "x.jsonl", duplicates="keep"))) == 3


def test_missing_media_are_put_aside_unless_trusted(tmp_path: Path):
    row = {"image": "gone.png", "question": "What?", "chosen": "a cat", "rejected": "a dog"}
    path = lines(tmp_path / "x.jsonl", [row])
    reading = read(path)
    assert list(reading) == []
    assert "gone.png" in reading.report.first_bad[0] and "record 0" in reading.report.first_bad[0]
    assert len(list(read(path, media="trust"))) == 1


def test_corrupt_pictures_are_found_when_decoding(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG but not really")
    path = lines(tmp_path / "x.jsonl", [{"image": "a.png", "question": "?", "chosen": "a", "rejected": "b"}])
    assert len(list(read(path))) == 1
    reading = read(path, media="decode")
    assert list(reading) == []
    assert "corrupt picture" in reading.report.first_bad[0]
    assert "chosen.context[0].parts[0]" in reading.report.first_bad[0]


def test_ties_policy(tmp_path: Path):
    row = ROWS["hpd_v2"][0]
    for name in ("0.jpg", "1.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    path = lines(tmp_path / "x.jsonl", [row, {**row, "prompt": "tied", "human_preference": [1, 1]}])
    dropping, keeping = read(path), read(path, ties="keep")
    assert [len(list(dropping)), len(list(keeping))] == [1, 2]
    assert (dropping.report.ties, dropping.report.ties_dropped) == (1, 1)
    assert (keeping.report.ties, keeping.report.ties_dropped) == (1, 0)


def test_a_list_keeps_its_order_without_its_ties(tmp_path: Path):
    row = {"prompt": "q", "responses": ["a", "b", "c"], "scores": [2, 1, 2]}
    tied = {"prompt": "r", "responses": ["a", "b", "c"], "scores": [1, 1, 1]}
    path = lines(tmp_path / "x.jsonl", [row, tied])
    reading = read(path)
    (kept,) = reading
    assert kept.ranks() == {"response_0": 0, "response_1": 1, "response_2": 0}
    assert reading.report.ties_dropped == 1 and reading.report.bad == 1
    assert "3 responses that all tie" in reading.report.first_bad[0] and "record 1" in reading.report.first_bad[0]
    assert [len(one.comparisons) for one in read(path, ties="keep")] == [3, 2]


def test_equal_pairs_and_unlabelled_rows_are_counted(tmp_path: Path):
    row = ROWS["trl"][0]
    reading = read(lines(tmp_path / "x.jsonl", [row, {**row, "rejected": row["chosen"]}]))
    assert len(list(reading)) == 1 and reading.report.equal_pairs == 1
    pick = {**ROWS["pick_a_pic"][0], "jpg_0": "0.jpg", "jpg_1": "1.jpg"}
    reading = read(lines(tmp_path / "y.jsonl", [pick, {**pick, "has_label": False}]), media="trust")
    assert len(list(reading)) == 1
    assert dict(reading.report.unlabelled) == {"has_label is false": 1}
    assert "1 rows without label" in reading.report.summary()


def test_mmpr_meta_gives_roots_and_repeats(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / "media" / name).mkdir(parents=True)
        (tmp_path / "media" / name / "a.jpg").write_bytes(name.encode())
    rows = [{"image": "a.jpg", "question": f"<image>{i}", "chosen": "a", "rejected": "b"} for i in range(4)]
    lines(tmp_path / "one.jsonl", rows)
    lines(tmp_path / "two.jsonl", rows)
    meta = {
        "one": {"root": "media/one", "annotation": "one.jsonl", "repeat_time": 2},
        "two": {"root": "media/two", "annotation": "two.jsonl", "repeat_time": 0.5},
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    reading = read(tmp_path / "meta.json", duplicates="keep")
    paths = [Path(one.cases["chosen"].context[0].media[0].value).parent.name for one in reading]
    assert paths == ["one"] * 8 + ["two"] * 2


def test_pictures_of_saved_datasets_stay_encoded(tmp_path: Path):
    import datasets
    from PIL import Image

    picture = Image.new("RGB", (4, 3), "red")
    picture.save(tmp_path / "a.png")
    rows = {"images": [[str(tmp_path / "a.png")]], "prompt": ["What?"], "chosen": ["red"], "rejected": ["blue"]}
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            **dict.fromkeys(("prompt", "chosen", "rejected"), datasets.Value("string")),
        }
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    (preference,) = read(tmp_path / "saved", media="decode")
    value = preference.cases["chosen"].context[0].media[0].value
    assert value["bytes"] == (tmp_path / "a.png").read_bytes()


def test_forced_format_and_unknown_sources(tmp_path: Path):
    path = save_jsonl(tmp_path)
    assert len(list(read(path, format="trl"))) == 6
    with pytest.raises(ConfigError, match="did you mean `trl`"):
        list(read(path, format="trll"))
    forced = read(path, format="nectar")
    assert list(forced) == [] and forced.report.bad == 6
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        list(read(tmp_path / "gone.jsonl"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="no row"):
        list(read(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match=r"\.parquet"):
        list(read(_touched(tmp_path / "a.csv")))


def _touched(path: Path) -> Path:
    path.touch()
    return path


def test_a_folder_that_cannot_be_written_costs_the_side_file_and_not_the_reading(tmp_path: Path, caplog):
    path = lines(tmp_path / "x.jsonl", [*PAIRS, {"prompt": 1}])
    assert len(list(read(path, quarantine=tmp_path / "no" / "such" / "q.jsonl"))) == 6
    assert "bad rows are not kept" in caplog.text
    assert len(list(read(path, quarantine=None))) == 6


def test_quarantine_is_complete_when_reading_stops_early(tmp_path: Path):
    path = lines(tmp_path / "x.jsonl", [{"prompt": "q", "chosen": "a"}, *PAIRS])
    iterator = iter(read(path))
    next(iterator)
    iterator.close()  # pyright: ignore[reportAttributeAccessIssue] (a generator)
    entries = (tmp_path / "x.quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(entry)["record"] for entry in entries] == [0]


@pytest.mark.skipif(not (SHARED / "hh-rlhf-harmless").is_dir(), reason="shared/data is not beside the checkout")
def test_real_hh_dialogues(tmp_path: Path):
    path = SHARED / "hh-rlhf-harmless" / "pairs.jsonl.gz"
    reading = read(path, quarantine=tmp_path / "q.jsonl")
    preferences: list[Preference] = list(reading)
    assert reading.report.format == "hh_rlhf" and reading.report.rows == 1800
    assert len(preferences) + reading.report.bad + reading.report.duplicates_dropped == 1800
    assert reading.report.bad == 3 and set(reading.report.quarantined) == {"chosen: an empty response"}
    assert len({preference_key(one) for one in preferences}) == len(preferences)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for one in preferences:
        chosen = one.cases["chosen"]
        names = {"user": "Human", "assistant": "Assistant"}
        spoken = "".join(f"\n\n{names[m.role]}: {m.text}" for m in (*chosen.context, *chosen.response))
        plain = rows[one.record]["chosen"]
        assert "".join(plain.split()).startswith("".join(spoken.split()))
        assert chosen.context[-1].role == "user"


def test_hh_row_through_a_file(tmp_path: Path):
    (preference,) = read(lines(tmp_path / "hh.jsonl", [HH]))
    assert preference.cases["rejected"].text == "go away"


def test_a_source_is_checked_without_reading_it_whole(tmp_path: Path):
    check_source(str(save_jsonl(tmp_path)))
    check_source("owner/set-on-the-hub")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "table.csv").write_text("a,b")
    for name, found in (("empty.jsonl", "no row"), ("table.csv", "ends in '.csv'"), ("gone.jsonl", "no such file")):
        with pytest.raises(DataError, match=found):
            check_source(str(tmp_path / name))


def test_a_file_without_a_readable_row_says_why(tmp_path: Path):
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="no row that can be read: row 0 is the byte 0xff"):
        list(read(tmp_path / "bytes.jsonl"))
