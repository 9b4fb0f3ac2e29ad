"""Best and worst of scored lists: which they are, who wrote them, and what is dropped by name."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from omnipref.build import best_worst_of_n, builder_of, from_samples
from omnipref.policies.prompt_files import prompt_only
from omnipref.preferences import RAW, Message, Preference, from_json, ranked, to_json
from omnipref.rewards import length


def listed(scores: list[float], authors: list[str] | None = None, record: int = 0) -> Preference:
    made = ranked(f"q{record}", [f"text {k}" for k in range(len(scores))], record=record, source="l.jsonl")
    columns = {f"score/response_{k}": score for k, score in enumerate(scores)}
    sources = {f"response_{k}": author for k, author in enumerate(authors or [])}
    return replace(made, columns={**columns, "age": 3.0}, meta={"sources": sources} if authors else {})


def test_the_cards_example():
    """Card more-is-less: rewards .2, 1.5, -.7, .9, 1.5 give the first of the best, 1, and the worst, 2."""
    built = best_worst_of_n()([listed([0.2, 1.5, -0.7, 0.9, 1.5])]).preferences[0]
    assert [case.text for case in built.cases.values()] == ["text 1", "text 2"]
    assert dict(built.columns) == {"age": 3.0, "score/chosen": 1.5, "score/rejected": -0.7}
    (comparison,) = built.comparisons
    assert (comparison.better, comparison.worse, comparison.margin) == ("chosen", "rejected", 2.2)
    assert built.meta["roles"] == ["response_1", "response_2"]
    assert built.meta["built_by"] == [{"builder": "best_worst_of_n", "n": 5}]


@given(st.lists(st.floats(-9, 9), max_size=6))
def test_chosen_is_never_worse_and_ties_make_no_pair(scores: list[float]):
    built = best_worst_of_n()([listed(scores)])
    if len(set(scores)) < 2:
        assert not built.preferences and len(built.dropped) == 1
    else:
        columns = built.preferences[0].columns
        assert (columns["score/chosen"], columns["score/rejected"]) == (max(scores), min(scores))


def test_what_is_dropped_says_why():
    records = [listed([1.0], record=0), listed([2.0, 2.0], record=1), listed([1.0, 1.3], record=2), listed([0.0, 4.0])]
    built = best_worst_of_n(gap=0.5)(records)
    assert [str(error) for error in built.dropped] == [
        "l.jsonl, record 0: found 1 scored response(s); expected two or more. To mend: sample more, and judge them",
        "l.jsonl, record 1: found scores that differ by 0; expected 0.5 or more",
        "l.jsonl, record 2: found scores that differ by 0.3; expected 0.5 or more",
    ]
    assert len(built.preferences) == 1


def test_authors_are_kept_and_can_be_asked_for():
    record = listed([0.0, 3.0, 1.0, -2.0], ["self", "strong", "self", "strong"])
    across, within = (best_worst_of_n(source)([record]).preferences[0] for source in (None, "self"))
    assert across.meta["sources"] == {"chosen": "strong", "rejected": "strong"}
    assert within.meta["sources"] == {"chosen": "self", "rejected": "self"}
    assert [case.text for case in within.cases.values()] == ["text 2", "text 0"]
    other = best_worst_of_n("peer")([record])
    assert "found 0 scored response(s) by `peer`" in str(other.dropped[0])
    assert from_json(to_json(within)).meta["sources"] == within.meta["sources"]


def test_it_follows_samples_and_has_a_name():
    texts = ["a", "a b", "a b c"]
    prompts = [prompt_only((Message.of(RAW, "q"),))]
    chain = from_samples(lambda contexts, *, n=1: [texts[:n] for _ in contexts], length(), 3)
    built = (chain >> builder_of("best_worst_of_n(gap=1.5)"))(prompts).preferences[0]
    assert [case.text for case in built.cases.values()] == ["a b c", "a"]
    assert built.comparisons[0].annotator == "rule"
