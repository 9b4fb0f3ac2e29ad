"""Own samples to preferences: scores, ties, gaps, and what is dropped why."""

from __future__ import annotations

import math

import pytest
from factories import llama

from omnipref.build import best_vs_worst, from_samples, group, judge, pairs, sample
from omnipref.policies.prompt_files import prompt_only
from omnipref.policies.sampling import LocalSampler
from omnipref.preferences import RAW, Message, pair, ranked, read, write_jsonl
from omnipref.rewards import count, length, rule

TEXTS = ["a", "a fork", "a fork a fork", "a fork", "", "a plate"]


def sampler(contexts, *, n=1):
    return [TEXTS[:n] for _ in contexts]


def prompts(n: int = 1):
    return [prompt_only((Message.of(RAW, f"q{i}"),), i, source="p.jsonl") for i in range(n)]


def test_samples_become_distinct_responses():
    built = sample(sampler, 6)(prompts()).preferences[0]
    assert [case.text for case in built.cases.values()] == ["a", "a fork", "a fork a fork", "a plate"]
    assert built.meta["built_by"] == [{"builder": "sample", "n": 6, "distinct": 4}]
    empty = sample(lambda contexts, *, n=1: [["", " "] for _ in contexts])(prompts())
    assert "p.jsonl, record 0: found 2 empty samples" in str(empty.dropped[0])


def test_best_and_worst_with_scores_and_margin():
    built = best_vs_worst(sampler, -count("fork"), 6)(prompts(2))
    first = built.preferences[0]
    assert (first.cases["chosen"].text, first.cases["rejected"].text) == ("a", "a fork a fork")
    assert dict(first.columns) == {"score/chosen": 0.0, "score/rejected": -2.0}
    assert first.comparisons[0].margin == 2.0 and first.comparisons[0].annotator == "rule"
    assert [line["builder"] for line in first.meta["built_by"]] == ["sample", "judge", "pairs"]
    assert [p.record for p in built.preferences] == [0, 1]


def test_ties_are_dropped_with_their_reason():
    built = best_vs_worst(sampler, rule(lambda case: 3.0), 6)(prompts())
    assert not built.preferences and "4 response(s) of scores 3" in str(built.dropped[0])
    close = best_vs_worst(sampler, 0.1 * length(), 6, margin=1.0)(prompts())
    assert not close.preferences and "two that differ by 1 or more" in str(close.dropped[0])


@pytest.mark.parametrize(("policy", "number"), [("best_vs_worst", 1), ("adjacent", 3), ("all", 5)])
def test_policies_of_a_list_with_a_tie(policy: str, number: int):
    """Scores 0, 0, -1, -2: of the six pairs of four responses the tie is none."""
    built = from_samples(sampler, -count("fork"), 6, policy)(prompts())  # type: ignore[arg-type]
    gaps = [p.columns["score/chosen"] - p.columns["score/rejected"] for p in built.preferences]
    assert min(gaps) > 0
    assert len(gaps) in ({number, 2} if policy == "adjacent" else {number})


def test_ranked_keeps_the_list_best_first():
    built = from_samples(sampler, -count("fork"), 6)(prompts()).preferences[0]
    assert [case.text for case in built.cases.values()] == ["a", "a plate", "a fork", "a fork a fork"]
    assert built.ranks() == {"response_0": 0, "response_1": 0, "response_2": 1, "response_3": 2}
    assert [built.columns[f"score/response_{k}"] for k in range(4)] == [0.0, 0.0, -1.0, -2.0]


def test_a_group_keeps_equal_samples_in_files_too(tmp_path):
    built = group(sampler, -count("fork"), 6)(prompts(2)).preferences
    texts = ["a", "a plate", "a fork", "a fork", "a fork a fork"]
    assert [case.text for case in built[0].cases.values()] == texts
    assert [built[0].columns[f"score/response_{k}"] for k in range(5)] == [0, 0, -1, -1, -2]
    write_jsonl(built, tmp_path / "groups.jsonl")
    again = list(read(tmp_path / "groups.jsonl"))
    assert [case.text for case in again[1].cases.values()] == texts and again[1].columns == built[1].columns


def test_a_group_of_one_or_of_equal_scores_is_dropped_with_its_reason():
    one = group(lambda contexts, *, n=1: [["a", ""] for _ in contexts], count("fork"), 2)(prompts())
    assert not one.preferences and "1 of 2 responses with a score" in str(one.dropped[0])
    even = rule(lambda case: 3.0)
    assert len(group(sampler, even, 6)(prompts()).preferences) == 1
    dropped = group(sampler, even, 6, differing=True)(prompts())
    assert not dropped.preferences and "5 responses of score 3" in str(dropped.dropped[0])


def test_nine_untied_give_thirty_six_pairs():
    built = pairs("all")([ranked("q", "abcdefghi")])
    assert len(built.preferences) == 36
    assert len(pairs("all", max_per_prompt=5)([ranked("q", "abcdefghi")]).preferences) == 5


def test_responses_without_a_score_are_left_out():
    unscored = rule(lambda case: math.nan if "plate" in case.text else float(len(case.text)))
    built = judge(unscored)(sample(sampler, 6)(prompts()).preferences).preferences[0]
    assert len(built.cases) == 3 and built.meta["built_by"][-1]["unscored"] == 1
    none = judge(rule(lambda case: math.nan))(sample(sampler, 6)(prompts()).preferences)
    assert "4 responses without a score" in str(none.dropped[0])


def test_a_real_model_is_its_own_source():
    model, owner = llama()
    own = LocalSampler(model, owner, max_new_tokens=5, progress=False)
    source = [*prompts(3), pair([Message.of("user", "hi")], "x", "y", record=3)]
    built = best_vs_worst(own, rule(lambda case: len(case.text)), 4)(source)
    again = best_vs_worst(own, rule(lambda case: len(case.text)), 4)(source[::-1])
    assert [p.cases for p in built.preferences] == [p.cases for p in again.preferences][::-1]
    for preference in built.preferences:
        assert len(preference.cases["chosen"].text) > len(preference.cases["rejected"].text)
    assert built.preferences[-1].cases["chosen"].response[0].role == "assistant"
