"""Instructions by rules: what is obeyed is obeyed, one response under two prompts, one pair under two prompts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipref.build import builder_of, inter_instructions, intra_instructions
from omnipref.build.instructions import KINDS, instruction, words
from omnipref.errors import ConfigError
from omnipref.preferences import Case, Message, from_json, pair, to_json

WORDS = st.lists(st.sampled_from(["Red", "blue", "a", "cube", "stands", "it's", "still"]), min_size=2, max_size=9)


def asked(case: Case, prompt: str) -> list[bool]:
    """Whether the response obeys each instruction of its context, read from the text alone."""
    text = case.context[-1].text.removeprefix(f"{prompt}\n").strip()
    found = [sentence for sentence in re.split(r"(?<=\.) ", text) if sentence]
    said = [match.lower() for match in re.findall(r"[A-Za-z']+", case.text)]
    assert found, text
    return [_obeys(sentence, said) for sentence in found]


def _obeys(sentence: str, said: list[str]) -> bool:
    number = re.search(r"\d+", sentence)
    named = re.search(r'"(.*)"', sentence)
    word = named[1] if named else ""
    for start, right in (
        ("Use at least", len(said) >= int(number[0]) if number else False),
        ("Use at most", len(said) <= int(number[0]) if number else False),
        ("Use the word", word in said),
        ("Do not use", word not in said),
        ("Start with", said[0] == word),
        ("End with", said[-1] == word),
    ):
        if sentence.startswith(start):
            return right
    raise AssertionError(sentence)


@given(WORDS, WORDS, st.integers(0, 9999))
def test_one_response_obeys_one_prompt_better(good: list[str], bad: list[str], record: int):
    built = intra_instructions(seed=2)([pair("Say it.", " ".join(good), " ".join(bad), record=record)])
    for one in built.preferences:
        for role in ("chosen", "rejected"):
            better, worse = (one.cases[f"{role}@{name}"] for name in ("obeyed", "disobeyed"))
            assert better.response == worse.response == one.cases[role].response
            right, wrong = asked(better, "Say it."), asked(worse, "Say it.")
            assert 2 <= len(right) == len(wrong) <= 5
            assert all(a >= b for a, b in zip(right, wrong, strict=True)) and right != wrong
            assert all(right) or not any(wrong)
    assert len(built.preferences) + len(built.dropped) == 1


def kinds_of(case: Case) -> list[str]:
    return re.findall(r"(at least|at most|the word|not use|Start|End)", case.context[-1].text)


def test_both_sorts_of_prompts_hold_the_same_kinds_in_the_same_order():
    records = [pair("Say it.", "a red cube stands", "blue it is still", record=i) for i in range(60)]
    built = intra_instructions()(records).preferences
    whole = 0
    for one in built:
        better, worse = one.cases["chosen@obeyed"], one.cases["chosen@disobeyed"]
        assert kinds_of(better) == kinds_of(worse)
        whole += all(asked(better, "Say it.")) and any(asked(worse, "Say it."))
        pairs_of = [(c.better, c.worse) for c in one.comparisons]
        assert pairs_of[1:] == [(f"{role}@obeyed", f"{role}@disobeyed") for role in ("chosen", "rejected")]
    assert len(built) == 60 and 10 < whole < 50


@given(WORDS, WORDS, st.integers(0, 9999))
def test_a_pair_is_told_apart(good: list[str], bad: list[str], record: int):
    built = inter_instructions(seed=1)([pair("Say it.", " ".join(good), " ".join(bad), record=record)])
    for one in built.preferences:
        better, worse = (one.cases[f"{role}@instructed"] for role in ("chosen", "rejected"))
        assert better.context == worse.context
        assert all(asked(better, "Say it.")) and not any(asked(worse, "Say it."))
        assert len(asked(better, "Say it.")) == one.meta["built_by"][-1]["count"] <= 3
    if [word.lower() for word in good] == [word.lower() for word in bad]:
        assert "found no instruction that tells the responses apart" in str(built.dropped[0])


def test_instructions_differ_between_records_and_come_back():
    records = [pair((Message.of("user", "Go."),), "a red cube", "blue it is", record=i) for i in range(30)]
    built = (intra_instructions() >> builder_of("inter_instructions(most=1)"))(records).preferences
    texts = [one.cases["chosen@instructed"].context[-1].text for one in built]
    assert len(set(texts)) > 5 and all(text.startswith("Go.\n") and not text.endswith("\n") for text in texts)
    again = (intra_instructions() >> inter_instructions(most=1))([records[7]], records).preferences[0]
    assert again.cases == built[7].cases
    assert from_json(to_json(again)).cases == again.cases
    assert len(again.cases) == 8


def test_short_responses_are_dropped_and_bad_numbers_refused():
    with pytest.raises(ConfigError, match="expected 1 or more"):
        inter_instructions(most=0)
    empty = pair("Say it.", "...", "!!", record=5)
    assert "record 5: found" in str(intra_instructions()([empty]).dropped[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_obeyed_and_not(kind: str):
    text = "Red cubes stand, red cubes fall."
    assert words(text) == ["red", "cubes", "stand", "red", "cubes", "fall"]
    right = {
        "at_least": 6,
        "at_most": 6,
        "containing": "cubes",
        "avoiding": "blue",
        "starting": "red",
        "ending": "fall",
    }
    wrong = {"at_least": 7, "at_most": 5, "containing": "cube", "avoiding": "red", "starting": "fall", "ending": "red"}
    assert instruction(kind, right[kind]).obeyed(text)
    assert not instruction(kind, wrong[kind]).obeyed(text)
