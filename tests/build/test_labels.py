"""Flipped labels: their share, what goes with a response, and what is not touched (card robust-dpo)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omnipref.build import builder_of, flip_labels
from omnipref.errors import ConfigError
from omnipref.preferences import Case, Preference, from_json, pair, to_json


def records(count: int) -> list[Preference]:
    columns = {"score/chosen": 3.0, "score/rejected": 1.0, "margin": 2.0}
    columns |= {"ref_chosen_logps": -4.0, "ref_rejected_logps": -5.0}
    return [replace(pair(f"q{i}", "good", "bad", record=i), columns=columns) for i in range(count)]


def flipped(record: Preference) -> bool:
    return record.meta["built_by"][-1]["flipped"]


def test_a_share_is_flipped_and_says_so():
    built = flip_labels(share=0.3)(records(2000)).preferences
    assert sum(map(flipped, built)) / 2000 == pytest.approx(0.3, abs=0.04)
    for record in built:
        texts = (record.cases["chosen"].text, record.cases["rejected"].text)
        assert texts == (("bad", "good") if flipped(record) else ("good", "bad"))
        scores = (record.columns["score/chosen"], record.columns["score/rejected"])
        assert scores == ((1.0, 3.0) if flipped(record) else (3.0, 1.0))
        logps = (record.columns["ref_chosen_logps"], record.columns["ref_rejected_logps"])
        assert logps == ((-5.0, -4.0) if flipped(record) else (-4.0, -5.0))
        assert record.columns["margin"] == 2.0 and record.comparisons == records(1)[0].comparisons


def test_none_and_all():
    assert not any(map(flipped, flip_labels(share=0.0)(records(50)).preferences))
    once = flip_labels(share=1.0)(records(50))
    assert all(map(flipped, once.preferences))
    again = flip_labels(share=1.0)(once.preferences).preferences
    assert [one.cases for one in again] == [one.cases for one in records(50)]
    assert [one.columns for one in again] == [one.columns for one in records(50)]


def test_a_draw_is_of_the_seed_and_the_record():
    first, other = (builder_of(f"flip_labels(share=0.5, seed={seed})") for seed in (1, 2))
    whole = [flipped(one) for one in first(records(60)).preferences]
    assert whole[7:9] == [flipped(one) for one in first(records(60)[7:9]).preferences]
    assert whole != [flipped(one) for one in other(records(60)).preferences]
    one = first(records(1)).preferences[0]
    assert from_json(to_json(one)).cases == one.cases


def test_what_holds_more_than_a_pair_is_put_aside_and_bad_shares_are_refused():
    more = records(1)[0].with_case("chosen@blurred", Case.raw("q", "good"))
    dropped = flip_labels()([replace(more, record=3)]).dropped
    assert "record 3: found roles chosen, rejected, chosen@blurred; expected a chosen and a rejected case" in str(
        dropped[0]
    )
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="found share="):
            flip_labels(share=share)
