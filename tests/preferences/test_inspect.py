"""Inspection: counts and lengths are right, and the tables show them."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from omnipref.preferences import Message, Part, inspect, inspect_file, pair, ranked, render, unpaired

ROWS = [
    {"prompt": "one two", "chosen": "a b c", "rejected": "a"},
    {"prompt": "one two three four", "chosen": "a b", "rejected": "c d e"},
    {"prompt": "one two", "chosen": "a b c", "rejected": "a"},
    {"prompt": "one", "chosen": "", "rejected": "a"},
    {"prompt": "one", "chosen": "a", "rejected": "a"},
]


def shown(inspection: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(inspection))
    return console.export_text()


def test_a_file(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    found = inspect_file(path)
    assert (found.count, found.duplicates, found.ties, found.bad, found.unit) == (3, 1, 0, 2, "words")
    assert found.gap is not None and found.gap.mean == pytest.approx((2 - 1 + 2) / 3)
    assert found.chosen_longer == pytest.approx(2 / 3)
    assert (found.lengths["context"].median, found.lengths["chosen"].most, found.lengths["rejected"].least) == (2, 3, 1)
    assert found.report is not None and found.report.equal_pairs == 1
    text = shown(found)
    for piece in ("trl", "bad records", "record 3", "record 4", "longer in 67%", "a.quarantine.jsonl", "duplicates"):
        assert piece in text


def test_balanced_lengths_are_no_reason_to_warn():
    warning = "a policy trained on these pairs will tend to follow"
    assert warning not in shown(inspect([pair("q", "a b", "c d"), pair("r", "a", "b")]))
    assert warning in shown(inspect([pair("q", "a b c", "c d"), pair("r", "a b", "b")]))


def test_kinds_roles_and_length_gap_of_other_shapes():
    records = [pair("q", "a b", "c"), ranked("q", ["a b c", "d", "e f"]), unpaired("q", "a", True)]
    found = inspect(records)
    assert found.kinds == Counter({"pair": 1, "list": 1, "unpaired": 1})
    assert found.roles["response_2"] == 1
    assert found.gap is not None and (found.gap.count, found.gap.mean) == (3, pytest.approx((1 + 2 - 1) / 3))
    assert "kinds" in shown(found)


class Letters:
    """A tokenizer of letters."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text] + [0] * add_special_tokens}


class Patches:
    """A processor that makes a token of every 2x2 patch."""

    tokenizer = Letters()

    def _get_num_multimodal_tokens(self, image_sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
        return {"num_image_tokens": [height * width // 4 for height, width in image_sizes]}


def test_tokens_of_texts_and_pictures():
    context = [
        Message.of("user", Part("image", Image.new("RGB", (6, 4))), Part("image", Image.new("RGB", (2, 2))), "What?")
    ]
    found = inspect([pair(context, "abc", "d")], processor=Patches())
    assert found.unit == "tokens" and found.lengths["chosen"].mean == 3 and found.lengths["context"].mean == 5
    assert found.media == Counter({"image": 2})
    assert found.lengths["image tokens"].mean == 7
    assert (found.lengths["picture width"].most, found.lengths["picture height"].most) == (6, 4)


def test_unreadable_pictures_are_bad_records(tmp_path: Path):
    context = [Message.of("user", Part("image", str(tmp_path / "gone.png")), "What?")]
    found = inspect([pair(context, "a", "b", record=9)])
    assert found.bad == 1 and "record 9" in found.first_bad[0] and "gone.png" in found.first_bad[0]


def test_nothing_to_inspect():
    found = inspect([])
    assert found.count == 0 and found.gap is None
    assert "preferences" in shown(found)


def test_a_real_processor_counts_its_image_tokens():
    from factories import qwen2_5_vl

    processor = qwen2_5_vl()[1]
    picture = Image.new("RGB", (56, 84))
    context = [Message.of("user", Part("image", picture), "What?")]
    found = inspect([pair(context, "a", "b")], processor=processor)
    encoded = processor.image_processor(images=[picture], return_tensors="np")
    tokens = int(encoded["image_grid_thw"].prod()) // processor.image_processor.merge_size**2
    assert found.lengths["image tokens"].mean == tokens > 0
