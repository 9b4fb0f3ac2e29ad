"""Pictures made for a caption and judged: Pick-a-Pic v2 and HPDv2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.fields import Row, finite
from omnipref.preferences.formats.assemble import Messages, judged, leftover, ranked_by, same_length
from omnipref.preferences.formats.format import Format, Unlabelled, columns_match
from omnipref.preferences.records import RAW, Case, Message, Part, Preference

_PICKS = {(1.0, 0.0): 0, (0.0, 1.0): 1, (0.5, 0.5): -1}
_HPD = ("prompt", "file_path", "image_path", "human_preference", "rank", "raw_annotations")


def picture(value: Any) -> Messages:
    """A response that is one picture."""
    return (Message.of(RAW, Part("image", value)),)


def _pick_a_pic(row: Row) -> Iterable[Preference]:
    if row.has("has_label") and not row.flag("has_label"):
        raise Unlabelled("has_label is false")
    labels = (row.number("label_0"), row.number("label_1"))
    if labels not in _PICKS:
        raise DataError(f"labels {labels}", "1 and 0, 0 and 1, or 0.5 twice", cure="drop the record", field="label_0")
    context = (Message.of(RAW, row.text("caption")),)
    images = [Case(context, picture(row.require(key, "a picture"))) for key in ("jpg_0", "jpg_1")]
    meta = leftover(row, "caption", "jpg_0", "jpg_1", "label_0", "label_1")
    yield judged(images, _PICKS[labels], annotator="human", meta=meta)


def _hpd_train(row: Row) -> Iterable[Preference]:
    paths, votes = same_length(row, "file_path" if row.has("file_path") else "image_path", "human_preference")
    votes = [finite(vote, f"human_preference[{i}]") for i, vote in enumerate(votes)]
    if len(votes) != 2:
        raise DataError(f"{len(votes)} pictures", "two", cure="drop the record", field="human_preference")
    context = (Message.of(RAW, row.text("prompt")),)
    images = [Case(context, picture(path)) for path in paths]
    better = -1 if votes[0] == votes[1] else int(votes[1] > votes[0])
    yield judged(images, better, annotator="human", meta=leftover(row, *_HPD))


def _hpd_test(row: Row) -> Iterable[Preference]:
    paths, ranks = same_length(row, "image_path" if row.has("image_path") else "file_path", "rank")
    ranks = [finite(rank, f"rank[{i}]") for i, rank in enumerate(ranks)]
    context = (Message.of(RAW, row.text("prompt")),)
    yield ranked_by(context, [picture(path) for path in paths], ranks, annotator="human", meta=leftover(row, *_HPD))


FORMATS = (
    Format(
        "pick_a_pic",
        columns_match("caption", "jpg_0", "jpg_1", "label_0", "label_1"),
        _pick_a_pic,
        "Label 0.5 is a tie; rows with has_label = false are left out and counted; user_id is kept in meta.",
    ),
    Format(
        "hpd_v2",
        columns_match("prompt", "human_preference", any_of=("file_path", "image_path")),
        _hpd_train,
        "Two pictures; the larger human_preference wins, equal ones tie.",
    ),
    Format(
        "hpd_v2_ranked",
        columns_match("prompt", "rank", any_of=("file_path", "image_path"), none_of=("human_preference",), rank=list),
        _hpd_test,
        "Several pictures; the lowest rank is best, equal ranks tie.",
    ),
)
