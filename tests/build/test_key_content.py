"""Key phrases and what a text is without them: RAKE by hand, levels, and the question that is asked (card spo)."""

from __future__ import annotations

import pytest
from factories import llama
from hypothesis import given
from hypothesis import strategies as st

from omnipref.build import builder_of, key_phrases, remove_key_content
from omnipref.build.key_content import removed_counts, without_phrases
from omnipref.errors import ConfigError
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.preferences import from_json, pair, to_json

TEXT = "A red cube stands. The blue ball rolls, and three green cones lie beside it; a dog sleeps. Old houses burn."


def test_the_cards_example():
    scores = key_phrases("deep neural networks learn deep features", stop={"learn"})
    assert scores == {"deep neural networks": 8.5, "deep features": 4.5}


def test_phrases_end_at_stop_words_and_punctuation():
    scores = key_phrases("The Red cube, the old red cube and (Blue) balls")
    # red: degree 2 + 3, twice; cube the same; old: 3; blue and balls stand alone.
    assert scores == {"old red cube": 8.0, "red cube": 5.0, "blue": 1.0, "balls": 1.0}
    assert key_phrases("it is, and was") == {} == key_phrases("")


@pytest.mark.parametrize(
    ("text", "phrases", "left"),
    [
        ("Red cubes stand.", ["red cubes"], "stand."),
        ("A red  cube and a red cube.", ["red cube"], "A and a."),
        ("reds and a red-hot bored one", ["red"], "reds and a -hot bored one"),
        ("deep features of deep nets", ["deep", "deep features"], "of nets"),
        ("kept  as it is ,", [], "kept  as it is ,"),
    ],
)
def test_phrases_are_removed_wherever_they_stand(text: str, phrases: list[str], left: str):
    assert without_phrases(text, phrases) == left


@given(st.integers(0, 40), st.integers(2, 6), st.floats(0.05, 1.0))
def test_levels_remove_more_and_more(key: int, levels: int, most: float):
    counts = removed_counts(key, levels, most)
    assert counts[0] == 0 and counts == sorted(counts) and len(counts) == levels
    assert counts[-1] == int(most * key + 0.5)


def built(levels: int = 3, **arguments: object):
    records = [pair("Say.", TEXT, "x", record=i) for i in range(90)]
    return remove_key_content(levels, share=0.9, **arguments)(records).preferences  # type: ignore[arg-type]


def test_the_right_answer_is_the_level_of_what_was_removed():
    key = list(key_phrases(TEXT))
    counts = removed_counts(5, 3, 0.8)  # 0.9 of five phrases, rounded up
    seen = []
    for one in built(seed=4):
        level, gone = (one.meta["built_by"][-1][name] for name in ("level", "removed"))
        assert len(gone) == counts[level] and set(gone) <= set(key)
        roles = ("degree", "wrong_degree_1", "wrong_degree_2")
        context = one.cases["degree"].context
        assert [one.cases[role].context for role in roles] == [context] * 3
        answers = [one.cases[role].text for role in roles]
        assert answers[0] == str(level) and sorted(answers) == ["0", "1", "2"]
        shown = context[-1].text.split('"')[1]
        assert (shown == TEXT) == (level == 0)
        assert not any(phrase in shown.lower() for phrase in gone)
        seen.append(level)
    assert len(key) == 5 and counts == [0, 2, 4]
    assert {level: seen.count(level) > 15 for level in range(3)} == dict.fromkeys(range(3), True)


def test_another_seed_is_another_epoch_and_the_highest_can_go_first():
    first, other = built(seed=1), built(seed=2)
    assert [one.cases["degree"] for one in first] == [one.cases["degree"] for one in built(seed=1)]
    assert [one.cases["degree"] for one in first] != [one.cases["degree"] for one in other]
    for one in built(highest_first=True):
        gone = one.meta["built_by"][-1]["removed"]
        assert gone == list(key_phrases(TEXT))[: len(gone)]


def test_the_pair_stays_and_the_record_comes_back():
    one = built()[0]
    assert one.cases["chosen"].text == TEXT and len(one.comparisons) == 1
    assert from_json(to_json(one)).cases == one.cases


def test_texts_with_too_little_to_remove_are_dropped_by_name():
    dropped = remove_key_content()([pair("Say.", "Red cubes stand.", "x", record=3)]).dropped
    assert "record 3, field `chosen`: found 1 key phrase(s); expected enough for 3 levels" in str(dropped[0])
    assert len(remove_key_content(levels=2)([pair("Say.", "Red cubes stand.", "x")]).preferences) == 1
    with pytest.raises(ConfigError, match="found levels=1"):
        remove_key_content(levels=1)
    with pytest.raises(ConfigError, match="most=0"):
        builder_of("remove_key_content(most=0)")


def test_a_real_model_answers_and_shares_the_question():
    model, owner = llama()
    one = built()[0]
    policy = AutoregressivePolicy(owner)
    batch = policy.collate([policy.encode(one)])
    scores = policy.score(model, batch)
    assert (scores.at("degree", scores.mask.sum(1)) == scores.at("wrong_degree_1", scores.mask.sum(1))).all()
