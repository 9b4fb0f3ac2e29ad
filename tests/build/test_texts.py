"""Text builders: what is swapped, removed, mismatched, filled in or continued."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from factories import llava, picture
from hypothesis import given
from hypothesis import strategies as st

from omnipref.build import continued, dropout_ntp, masked_infill, mismatched, remove_words, word_swap
from omnipref.build.infill import BLANK, Masked, instructed, masked
from omnipref.build.texts import without, words_of
from omnipref.errors import ConfigError
from omnipref.policies.sampling import LocalSampler
from omnipref.preferences import RAW, Case, Message, Part, media_key, pair


def mean_colour(values) -> torch.Tensor:
    return torch.stack([torch.tensor(np.asarray(v, dtype=np.float32).mean((0, 1))) for v in values])


THINGS = ["plate", "fork", "cup", "tree"]


@given(st.lists(st.sampled_from(THINGS), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 99))
def test_swaps_keep_everything_but_their_words(things: list[str], count: int, record: int):
    text = " and ".join(f"a {thing}" for thing in things) + "."
    built = word_swap(THINGS, count, seed=1)([pair("describe", text, "x", record=record)]).preferences[0]
    chosen, rejected = built.cases["chosen"].text, built.cases["rejected"].text
    different = [(a, b) for a, b in zip(chosen.split(), rejected.split(), strict=True) if a != b]
    assert chosen == text
    assert len(different) == min(count, len(things)) == len(built.meta["built_by"][0]["swapped"])
    assert all(a.strip(".") in THINGS and b.strip(".") in THINGS for a, b in different)


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        ("a plate and a fork and a tree", ["fork"], "a plate and a tree"),
        ("a fork and a plate", ["fork"], "a plate"),
        ("A plate, the fork, and an old tree.", ["FORK"], "A plate, and an old tree."),
        ("a plate and a fork", ["fork", "plate"], ""),
        ("forks and a pitchfork", ["fork"], "forks and a pitchfork"),
    ],
)
def test_words_go_with_their_articles_and_joins(text: str, words: list[str], left: str):
    assert without(text, words) == left


def test_own_answers_are_corrected():
    truth = {0: ["plate"], 1: ["fork", "plate"], 2: []}
    source = [pair(str(i), "a plate and a fork", "x", record=i) for i in truth]

    def absent(case: Case, word: str) -> bool:
        return word in THINGS and word not in truth[int(case.context[0].text)]

    built = remove_words(absent)(source)
    assert [p.record for p in built.preferences] == [0]
    assert built.preferences[0].cases["chosen"].text == "a plate"
    assert built.preferences[0].cases["rejected"].text == "a plate and a fork"
    assert [(e.record, e.found) for e in built.dropped] == [(1, "no wrong word"), (2, "an empty response")]


def test_mismatched_takes_another_response_and_is_uniform():
    source = [pair(f"q{i}", f"a{i % 5}", "x", record=i) for i in range(200)]
    built = mismatched(seed=3)(source)
    given = [p.cases["mismatched"] for p in built.preferences]
    assert all(c.text != p.cases["chosen"].text for c, p in zip(given, built.preferences, strict=True))
    assert all(c.context == p.cases["chosen"].context for c, p in zip(given, built.preferences, strict=True))
    counts = [sum(c.text == f"a{k}" for c in given) for k in range(5)]
    assert min(counts) > 20 and sum(counts) == 200
    assert built.preferences[0].labels == {} and len(built.preferences[0].comparisons) == 1
    assert mismatched(seed=3)(source[7:8], pool=source).preferences[0].cases["mismatched"] == given[7]
    assert "no other response" in str(mismatched()(source[:1]).dropped[0])


def test_masks_find_the_grounded_words():
    found = masked(Case.raw("q", "A plate and a fork-lift; plates."), words_of(["plate", "fork"]))
    assert found.text == f"A {BLANK} and a fork-lift; plates."


def with_pictures(n: int, answer: str = "a plate and a fork"):
    contexts = [[Message.of("user", Part("image", picture(i)), "describe")] for i in range(n)]
    return [pair(context, answer, "x", record=i) for i, context in enumerate(contexts)]


def test_infill_tries_neighbours_until_a_text_is_accepted():
    source = with_pictures(6)
    asked: list[tuple[str, ...]] = []

    def sampler(contexts, *, n=1):
        asked.append(tuple(media_key(context[-1].media[0].value) for context in contexts))
        assert all(f"a {BLANK} and a {BLANK}" in context[-1].text for context in contexts)
        words = ["a plate and a fork", "something else", "a cup and a tree"]
        return [[words[min(len(asked), 3) - 1]] for _ in contexts]

    built = masked_infill(sampler, THINGS, mean_colour, k=4, upper=1.0)(source)
    assert not built.dropped and len(asked) == 3
    for i, preference in enumerate(built.preferences):
        assert preference.cases["rejected"].text == "a cup and a tree"
        assert preference.cases["chosen"].text == "a plate and a fork"
        negative = preference.cases["chosen@negative_image"].context[-1].media[0].value
        assert media_key(negative) == asked[2][i] != media_key(picture(i))
        assert preference.cases["rejected"].context == preference.cases["chosen"].context
        assert preference.meta["built_by"][-1]["neighbour"] == 2
    never = masked_infill(sampler, THINGS, mean_colour, k=2, upper=1.0, accept=lambda a, b: False)(source)
    assert len(never.dropped) == 6 and "none with an accepted text" in str(never.dropped[0])
    assert "no grounded word" in str(masked_infill(sampler, ["x"], mean_colour)(source).dropped[0])


def test_replies_that_break_the_frame_are_refused():
    text = Masked(("a ", " and a ", "."))
    replies = iter(["a b and a c.", "b and c", "a  and a ."])
    found = instructed(
        lambda contexts, *, n=1: [[next(replies)] for _ in contexts], [(Message.of("user", "q"),)] * 3, [text] * 3
    )
    assert found[:2] == ["a b and a c.", None]


def test_continued_fills_word_by_word():
    seen = []

    def sampler(contexts, *, n=1):
        seen.extend(context[-1].text for context in contexts)
        return [[f" w{len(seen)}, and more"] for _ in contexts]

    texts = [Masked(("a ", " and a ", ".")), Masked(("the ", ""))]
    contexts = [(Message.of("user", "q"),), (Message.of(RAW, "q"),)]
    assert continued(sampler, contexts, texts) == ["a w2 and a w3.", "the w2"]
    assert seen == ["a", "the", "a w2 and a"]


def test_infill_and_dropout_run_on_a_real_model():
    model, owner = llava()
    sampler = LocalSampler(model, owner, max_new_tokens=12, progress=False)
    source = with_pictures(4)
    built = masked_infill(sampler, THINGS, mean_colour, upper=1.0, fill=continued)(source)
    assert len(built.preferences) + len(built.dropped) == 4 and built.preferences
    assert all(p.cases["rejected"].text != p.cases["chosen"].text for p in built.preferences)
    blind = dropout_ntp(sampler)(source)
    assert all(p.cases["rejected"].text.startswith("a plate") for p in blind.preferences) and blind.preferences


def test_dropout_continues_half_without_the_picture():
    contexts = []

    def sampler(given, *, n=1):
        contexts.extend(given)
        return [["and a tree"] for _ in given]

    source = [*with_pictures(2, "a plate on a small table"), pair("text only", "a b c", "x", record=9)]
    built = dropout_ntp(sampler)(source)
    assert [p.cases["rejected"].text for p in built.preferences] == ["a plate on and a tree"] * 2
    assert contexts[0] == (Message.of("user", "describe"), Message.of("assistant", "a plate on"))
    assert built.preferences[0].cases["rejected"].context[0].media
    assert [error.record for error in built.dropped] == [9]
    with pytest.raises(ConfigError):
        dropout_ntp(sampler, keep=1.0)
