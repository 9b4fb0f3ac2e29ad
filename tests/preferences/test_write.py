"""Writing: nothing is lost between memory and file, and a file is either whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from preferences.public_rows import ROWS

from omnipref.errors import ConfigError, DataError
from omnipref.preferences import (
    Case,
    Comparison,
    Message,
    Part,
    Preference,
    convert_file,
    from_json,
    load_image,
    media_key,
    pair,
    ranked,
    read,
    to_json,
    to_trl,
    unpaired,
    write_jsonl,
    write_trl,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.one_of(TEXT, st.binary(max_size=4), st.fixed_dictionaries({"bytes": st.binary(max_size=4), "path": TEXT}))
PART = st.one_of(
    st.builds(Part, st.just("text"), TEXT),
    st.builds(Part, st.sampled_from(["image", "video", "molecule"]), st.one_of(VALUE, st.lists(VALUE, max_size=2))),
)
MESSAGE = st.builds(Message, st.sampled_from(["user", "raw", "assistant"]), st.lists(PART, max_size=3).map(tuple))
MESSAGES = st.lists(MESSAGE, max_size=3).map(tuple)
CASE = st.builds(Case, MESSAGES, st.lists(MESSAGE, min_size=1, max_size=2).map(tuple))


@st.composite
def preferences(draw: st.DrawFn) -> Preference:
    roles = draw(
        st.lists(st.sampled_from(["chosen", "rejected", "chosen@negative_image", "x"]), min_size=1, unique=True)
    )
    role = st.sampled_from(roles)
    comparison = st.builds(
        Comparison,
        role,
        role,
        weight=NUMBER,
        margin=st.none() | NUMBER,
        aspect=st.none() | TEXT,
        annotator=st.none() | TEXT,
        tie=st.booleans(),
    )
    return Preference(
        draw(st.fixed_dictionaries(dict.fromkeys(roles, CASE))),
        tuple(draw(st.lists(comparison, max_size=3))),
        draw(st.dictionaries(role, st.booleans(), max_size=2)),
        draw(st.dictionaries(TEXT, NUMBER, max_size=2)),
        draw(st.integers(0, 2**40)),
        draw(TEXT),
        draw(st.dictionaries(TEXT, st.one_of(TEXT, NUMBER, st.none(), st.lists(TEXT, max_size=2)), max_size=2)),
    )


@given(preferences())
@settings(max_examples=150)
def test_native_json_is_lossless(preference: Preference):
    assert from_json(json.loads(json.dumps(to_json(preference)))) == preference


EVERY_ROW = [pytest.param(row, id=f"{name}-{i}") for name, rows in ROWS.items() for i, row in enumerate(rows)]


@pytest.mark.parametrize("row", EVERY_ROW)
def test_every_format_survives_a_file(row: dict[str, Any], tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(_plain(row)) + "\n", encoding="utf-8")
    (one,) = read(tmp_path / "rows.jsonl", media="trust", ties="keep")
    assert write_jsonl([one], tmp_path / "native.jsonl") == 1
    (other,) = read(tmp_path / "native.jsonl", media="trust", ties="keep")
    assert one.roles == other.roles and one.comparisons == other.comparisons and one.columns == other.columns
    assert one.labels == other.labels
    for before, after in zip(one.cases.values(), other.cases.values(), strict=True):
        assert [m.text for m in before.context] == [m.text for m in after.context]
        assert before.text == after.text
        assert media_of(before) == media_of(after)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"stand-in-{value.hex()}.jpg"
    if isinstance(value, dict):
        return "stand-in.png" if "bytes" in value else {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def media_of(case: Case) -> list[str]:
    values = [part.value for message in (*case.context, *case.response) for part in message.media]
    return [value if isinstance(value, str) else media_key(value) for value in values]


def test_media_in_memory_are_saved_once_by_content(tmp_path: Path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    context = [Message.of("user", Part("image", picture), "What?")]
    written = [pair(context, "a", "b", record=i) for i in range(3)]
    assert write_jsonl(written, tmp_path / "set.jsonl") == 3
    (file,) = (tmp_path / "set_media").iterdir()
    assert file.name == f"{media_key(picture)}.png"
    rows = [json.loads(line) for line in (tmp_path / "set.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["context"][0]["content"][0] == {"type": "image", "image": f"set_media/{file.name}"}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "set_media").rename(moved / "set_media")
    (tmp_path / "set.jsonl").rename(moved / "set.jsonl")
    preference = next(iter(read(moved / "set.jsonl")))
    value = preference.cases["chosen"].context[0].media[0].value
    assert np.array_equal(np.asarray(load_image(value)), np.asarray(picture))


def test_bytes_sounds_and_frames_are_saved(tmp_path: Path):
    sound = {"array": np.array([0.0, 0.5], dtype=np.float32), "sampling_rate": 8000}
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    parts = [Part("image", b"\xff\xd8jpeg"), Part("audio", sound), Part("video", frames)]
    write_jsonl([pair([Message.of("user", *parts, "?")], "a", "b")], tmp_path / "set.jsonl")
    assert sorted(path.suffix for path in (tmp_path / "set_media").iterdir()) == [".jpg", ".npy", ".png", ".png"]
    (back,) = read(tmp_path / "set.jsonl")
    image, audio, video = back.cases["chosen"].context[0].media
    assert Path(image.value).read_bytes() == b"\xff\xd8jpeg"
    assert np.load(audio.value["array"]).tolist() == [0.0, 0.5] and audio.value["sampling_rate"] == 8000
    assert [load_image(frame).getpixel((0, 0)) for frame in video.value] == [(255, 0, 0), (0, 0, 255)]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "set.jsonl"
    write_jsonl([pair("q", "a", "b")], path)
    before = path.read_bytes()

    def breaking() -> Iterator[Preference]:
        yield pair("q", "c", "d")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(breaking(), path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["set.jsonl"]


def test_trl_refuses_what_it_has_no_columns_for():
    with pytest.raises(DataError, match="to_pairs"):
        to_trl(ranked("q", "abc"))
    one = pair([Message.of("user", Part("image", "a.png"), "?")], "a", "b", record=7)
    other = {**one.cases, "rejected": one.cases["chosen"].replace_media(["b.png"])}
    with pytest.raises(DataError, match=r"record 7.*two different contexts"):
        to_trl(Preference(other, one.comparisons, record=7))
    with pytest.raises(DataError, match="a response with image"):
        to_trl(pair("q", Part("image", "a.png"), Part("image", "b.png")))
    with pytest.raises(DataError, match="a tie"):
        to_trl(Preference(one.cases, (Comparison("chosen", "rejected", tie=True),)))
    with pytest.raises(DataError, match="write_jsonl"):
        to_json(pair([Message.of("user", Part("image", Image.new("RGB", (1, 1))))], "a", "b"))


def test_trl_columns():
    assert to_trl(unpaired("q", "a", False)) == {"prompt": "q", "completion": "a", "label": False}
    row = to_trl(pair([Message.of("user", Part("image", "a.png"), "What?")], "a", "b"))
    assert row["images"] == ["a.png"]
    assert row["prompt"] == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert row["chosen"] == [{"role": "assistant", "content": "a"}]


def test_convert_file(tmp_path: Path):
    rows = [ROWS["trl"][0], ROWS["trl"][0], {"prompt": "q", "chosen": "a"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = convert_file(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert (report.preferences, report.duplicates_dropped, report.bad) == (1, 1, 1)
    assert json.loads((tmp_path / "b.jsonl").read_text(encoding="utf-8"))["omnipref"] == 1
    convert_file(tmp_path / "b.jsonl", tmp_path / "c.jsonl", to="trl")
    assert json.loads((tmp_path / "c.jsonl").read_text(encoding="utf-8")) == ROWS["trl"][0]
    with pytest.raises(ConfigError, match="native, trl"):
        convert_file(tmp_path / "b.jsonl", tmp_path / "d.jsonl", to="xml")  # pyright: ignore[reportArgumentType] (the point)


def test_write_trl_saves_pictures(tmp_path: Path):
    one = pair([Message.of("user", Part("image", Image.new("RGB", (2, 2))), "?")], "a", "b")
    assert write_trl([one], tmp_path / "t.jsonl") == 1
    (back,) = read(tmp_path / "t.jsonl", media="decode")
    assert back.cases["chosen"].context[0].media[0].type == "image"
