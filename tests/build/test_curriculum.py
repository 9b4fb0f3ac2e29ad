"""Pairs by difficulty: gaps, order, stages, ties and what is put aside (card curry-dpo)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from omnipref.build import builder_of, judge, ranked_to_pairs
from omnipref.build.curriculum import pairs_by_gap, stage_of
from omnipref.errors import ConfigError
from omnipref.preferences import Preference, from_json, ranked, to_json
from omnipref.rewards import rule


def rated(*scores: float, texts: Sequence[str] = "", record: int = 0) -> Preference:
    columns = {f"score/response_{k}": score for k, score in enumerate(scores)}
    return ranked("q", texts or "abcdefgh"[: len(scores)], columns=columns, record=record)


def test_numbers_of_the_card():
    assert pairs_by_gap([5, 4, 3, 1]) == [(0, 3, 4), (0, 2, 2), (0, 1, 1)]
    found = [(0, 3, 4), (1, 3, 3), (0, 2, 2), (2, 3, 2), (0, 1, 1), (1, 2, 1)]
    assert pairs_by_gap([5, 4, 3, 1], "all") == found


def test_lists_need_not_be_sorted_and_equal_scores_make_no_pair():
    assert pairs_by_gap([1, 5, 3, 4]) == [(1, 0, 4), (1, 2, 2), (1, 3, 1)]
    assert pairs_by_gap([5, 5, 3, 1]) == [(0, 3, 4), (0, 2, 2)]
    assert pairs_by_gap([2, 2], "all") == []


@pytest.mark.parametrize(("mode", "count"), [("top_vs_rest", 3), ("all", 6)])
def test_records_hold_gap_stage_and_origin(mode: str, count: int):
    record = rated(5, 4, 3, 1, record=4)
    record = replace(record, columns={**record.columns, "weight": 0.5})
    built = ranked_to_pairs(mode)([record])  # type: ignore[arg-type]
    assert len(built.preferences) == count and not built.dropped
    gaps = [one.columns["score/chosen"] - one.columns["score/rejected"] for one in built.preferences]
    assert gaps == sorted(gaps, reverse=True) == [one.columns["margin"] for one in built.preferences]
    assert [one.comparisons[0].margin for one in built.preferences] == gaps
    stages = [one.columns["stage"] for one in built.preferences]
    assert stages == [number * 3 // count for number in range(count)]
    first = built.preferences[0]
    assert first.columns["weight"] == 0.5
    assert (first.cases["chosen"].text, first.cases["rejected"].text, first.record) == ("a", "d", 4)
    assert first.meta["built_by"] == [
        {"builder": "ranked_to_pairs", "mode": mode, "roles": ["response_0", "response_3"]}
    ]


def test_every_stage_gets_its_share():
    assert [stage_of(number, 7, 3) for number in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert [stage_of(number, 1, 3) for number in range(1)] == [0]
    built = ranked_to_pairs(stages=1)([rated(5, 4, 3)])
    assert {one.columns["stage"] for one in built.preferences} == {0.0}


def test_ties_are_put_aside_by_name_and_the_rest_stays():
    built = ranked_to_pairs()([rated(5, 3, 3, 5, record=2)])
    texts = [(one.cases["chosen"].text, one.cases["rejected"].text) for one in built.preferences]
    assert texts == [("a", "b"), ("a", "c")]
    assert [one.columns["stage"] for one in built.preferences] == [0.0, 1.0]
    assert [str(error) for error in built.dropped] == [
        "record 2: found equal scores of 5 for `response_0` and `response_3`; expected scores that differ"
    ]
    everything = ranked_to_pairs("all")([rated(5, 3, 3, 5)])
    assert len(everything.preferences) == 4 and len(everything.dropped) == 2


def test_records_that_give_nothing_are_put_aside_with_the_cure():
    unscored = ranked("q", "abc", record=1)
    built = ranked_to_pairs()([unscored, rated(1.0, record=5), rated(2, 1, texts=["same", "same"], record=6)])
    assert not built.preferences
    reasons = [str(error) for error in built.dropped]
    assert "record 1, field `score/response_0`: found no score" in reasons[0] and "judge(reward=" in reasons[0]
    assert "record 5: found 1 response(s)" in reasons[1]
    assert "record 6" in reasons[2] and "equal to the chosen one" in reasons[2]


def test_after_a_judge_and_through_a_file():
    built = (judge(rule(lambda case: float(len(case.text)))) >> ranked_to_pairs("all", stages=2))(
        [ranked("q", ["a", "bbbb", "cc"])]
    )
    pairs = [from_json(to_json(one)) for one in built.preferences]
    assert [one.columns["stage"] for one in pairs] == [0.0, 0.0, 1.0]
    assert [one.cases["chosen"].text for one in pairs] == ["bbbb", "bbbb", "cc"]
    assert all(one.comparisons[0].annotator == "rule" for one in built.preferences)


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match="top_vs_rest"):
        ranked_to_pairs("top_vs_all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="found stages=0"):
        ranked_to_pairs(stages=0)
    assert builder_of("ranked_to_pairs(mode='all', stages=2)").name == "ranked_to_pairs"


def test_one_stage_alone_is_its_part_of_all():
    records = [rated(5, 4, 3, 1, record=0), rated(5, 3, 3, 5, record=1)]
    everything = ranked_to_pairs()(records).preferences
    for stage in range(3):
        alone = ranked_to_pairs(only=stage)(records)
        assert alone.preferences == [one for one in everything if one.columns["stage"] == stage]
        lacking = [str(error) for error in alone.dropped if "of stage" in str(error)]
        assert lacking == (
            ["record 1: found 2 pair(s), none of stage 2; expected more responses whose scores differ"] * (stage == 2)
        )
    with pytest.raises(ConfigError, match="found only=3; expected a stage from 0 to 2"):
        ranked_to_pairs(only=3)
