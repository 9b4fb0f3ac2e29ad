"""Lists to pairs, likes and back, and splits that nothing crosses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omnipref.errors import ConfigError, DataError
from omnipref.preferences import (
    Comparison,
    Message,
    Part,
    Preference,
    media_key,
    pair,
    ranked,
    split,
    to_pairs,
    to_ranked,
    to_unpaired,
)
from omnipref.preferences.fields import Row
from omnipref.preferences.formats import format_named


def scored(*scores: float, answers: str = "abcdefghi") -> Preference:
    row = {"prompt": "q", "responses": list(answers[: len(scores)]), "scores": list(scores)}
    (preference,) = format_named("list").convert(Row(row))
    return preference


def texts(pairs: list[Preference]) -> list[str]:
    return [one.cases["chosen"].text + one.cases["rejected"].text for one in pairs]


@pytest.mark.parametrize("k", [2, 3, 4, 9])
def test_counts_of_an_untied_list(k: int):
    preference = ranked("q", "abcdefghi"[:k])
    counts = [len(to_pairs(preference, policy)) for policy in ("all", "best_vs_worst", "adjacent", "random")]
    assert counts == [k * (k - 1) // 2, 1, k - 1, 1]


def test_which_pairs():
    preference = scored(1, 3, 2)
    assert sorted(texts(to_pairs(preference))) == ["ba", "bc", "ca"]
    assert texts(to_pairs(preference, "best_vs_worst")) == ["ba"]
    assert texts(to_pairs(preference, "adjacent")) == ["bc", "ca"]
    (best,) = to_pairs(preference, "best_vs_worst")
    assert best.columns == {"score/chosen": 3.0, "score/rejected": 1.0}
    assert best.comparisons == (Comparison("chosen", "rejected", margin=2.0),)
    assert best.meta["roles"] == ["response_1", "response_0"]


def test_margin_is_a_least_score_difference():
    preference = scored(1.0, 3.0, 2.0)
    assert texts(to_pairs(preference, margin=2)) == ["ba"]
    assert len(to_pairs(preference, margin=1)) == 3
    with pytest.raises(DataError, match="score/response_0"):
        to_pairs(ranked("q", "ab"), margin=0.5)


def test_ties():
    preference = scored(2, 1, 2)
    assert sorted(texts(to_pairs(preference))) == ["ab", "cb"]
    kept = to_pairs(preference, drop_ties=False)
    assert [one.comparisons[0].tie for one in kept] == [False, False, True] and texts(kept)[2] == "ac"


def test_equal_and_repeated_cases_are_left_out():
    assert sorted(texts(to_pairs(scored(3, 2, 1, answers="aab")))) == ["ab"]


def test_only_implied_pairs_are_made():
    case = pair("q", "a", "b").cases["rejected"]
    conditional = pair("q", "a", "b").with_case(
        "chosen@negative_image", case, Comparison("chosen", "chosen@negative_image")
    )
    made = to_pairs(
        replace(conditional, cases={**conditional.cases, "chosen@negative_image": replace(case, context=())})
    )
    assert [one.meta.get("roles", ["chosen", "rejected"]) for one in made] == [
        ["chosen", "rejected"],
        ["chosen", "chosen@negative_image"],
    ]


def test_limits_are_drawn_by_seed_and_record():
    preference = ranked("q", "abcdefghi")
    drawn = texts(to_pairs(preference, max_per_prompt=5, seed=1))
    assert len(drawn) == 5 and drawn == texts(to_pairs(preference, max_per_prompt=5, seed=1))
    assert drawn != texts(to_pairs(preference, max_per_prompt=5, seed=2))
    assert drawn != texts(to_pairs(replace(preference, record=1), max_per_prompt=5, seed=1))
    assert set(drawn) <= set(texts(to_pairs(preference)))
    with pytest.raises(ConfigError, match="best_vs_worst"):
        to_pairs(preference, "best")  # pyright: ignore[reportArgumentType] (the point of the test)


def test_likes():
    assert [(one.cases["completion"].text, one.labels["completion"]) for one in to_unpaired(scored(1, 3, 2))] == [
        ("a", False),
        ("b", True),
    ]
    liked = to_unpaired(scored(1, 3, 2), threshold=2)
    assert [one.labels["completion"] for one in liked] == [False, True, True]
    with pytest.raises(DataError, match="score/chosen"):
        to_unpaired(pair("q", "a", "b"), threshold=1)


def test_ranked_puts_the_best_first_and_keeps_scores():
    preference = to_ranked(scored(1, 3, 2))
    assert [case.text for case in preference.cases.values()] == ["b", "c", "a"]
    assert preference.ranks() == {"response_0": 0, "response_1": 1, "response_2": 2}
    assert preference.columns == {"score/response_0": 3.0, "score/response_1": 2.0, "score/response_2": 1.0}


def picture_pair(question: str, image: bytes, record: int) -> Preference:
    return pair([Message.of("user", Part("image", image), question)], f"a{record}", "b", record=record)


def test_no_picture_and_no_text_prompt_crosses_a_split():
    pictures = [picture_pair("What?", bytes([i % 20]), i) for i in range(60)]
    prompts = [pair(f"q{i % 15}", f"a{i}", "b", record=60 + i) for i in range(40)]
    train, held = split([*pictures, *prompts], 0.25, seed=3)
    assert len(train) + len(held) == 100 and 20 <= len(held) <= 25

    def keys(preferences: list[Preference]) -> set[str]:
        contexts = [one.cases["chosen"].context[0] for one in preferences]
        return {media_key(c.media[0].value) if c.media else c.text for c in contexts}

    assert not keys(train) & keys(held)
    again = split([*pictures, *prompts], 0.25, seed=3)
    assert [one.record for one in again[1]] == [one.record for one in held]
    assert [one.record for one in split([*pictures, *prompts], 0.25, seed=4)[1]] != [one.record for one in held]


def test_one_question_about_many_pictures_can_be_split():
    train, held = split([picture_pair("Describe.", bytes([i]), i) for i in range(10)], 0.3)
    assert (len(train), len(held)) == (7, 3)


def test_records_that_share_everything_cannot_be_split():
    with pytest.raises(DataError, match="1 group"):
        split([pair("q", f"a{i}", "b") for i in range(10)], 0.5)
    with pytest.raises(ConfigError, match="fraction"):
        split([], 1.0)


def test_sharing_through_a_third_record_counts():
    linked = [
        pair([Message.of("user", Part("image", image), Part("image", other), "?")], "a", "b", record=i)
        for i, (image, other) in enumerate([(b"1", b"2"), (b"2", b"3"), (b"3", b"4"), (b"8", b"9")])
    ]
    train, held = split(linked, 0.25)
    assert [one.record for one in held] == [3] and len(train) == 3
