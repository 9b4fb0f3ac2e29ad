"""Reasons: asked of a model, drawn order, the released order, and what is dropped."""

from __future__ import annotations

import pytest
from factories import llama

from omnipref.build import builder_of, rationale_case, write_rationale
from omnipref.errors import ConfigError
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.sampling import LocalSampler
from omnipref.preferences import Message, Part, Preference, from_json, pair, to_json


def reasoned(record: int = 0, reason: str = "It is right.") -> Preference:
    return pair(f"1+{record}?", "good", "bad", record=record, meta={"rationale": reason})


def test_the_answer_says_where_the_chosen_response_stands():
    built = rationale_case(seed=1)([reasoned(i) for i in range(60)])
    places = []
    for one in built.preferences:
        case = one.cases["rationale"]
        question = case.context[-1].text
        place = one.meta["built_by"][-1]["chosen"]
        assert case.text == f"The response {place} is preferable. It is right."
        assert f'Response {place}: "good"' in question and question.startswith(f"1+{one.record}?\n")
        places.append(place)
    assert 15 < places.count("above") < 45
    again = rationale_case(seed=1)([reasoned(7)]).preferences[0]
    assert again.cases["rationale"] == built.preferences[7].cases["rationale"]
    assert from_json(to_json(again)).cases == again.cases


def test_the_released_order():
    built = rationale_case(fixed_order=True)([reasoned(i) for i in range(20)]).preferences
    assert {one.cases["rationale"].text for one in built} == {"It is right."}
    assert all('above: "good"\nResponse below: "bad"' in one.cases["rationale"].context[-1].text for one in built)
    assert [one.comparisons for one in built] == [reasoned().comparisons] * 20


def test_a_dialogue_about_a_picture_keeps_its_turns_and_its_picture():
    context = (Message.of("system", "Be kind."), Message.of("user", Part("image", "a.png"), "What is this?"))
    record = pair(context, "a cat", "a dog", meta={"rationale": "It is a cat."})
    case = rationale_case()([record]).preferences[0].cases["rationale"]
    assert case.context[0] == context[0]
    assert case.context[1].parts[:2] == context[1].parts and not case.context[1].text.endswith("\n")
    assert case.response[0].role == "assistant"


def test_records_without_a_reason_are_dropped_by_name():
    built = rationale_case()([pair("q", "a", "b", record=3), reasoned(4, "  ")])
    assert not built.preferences
    assert "record 3, field `meta.rationale`: found no rationale" in str(built.dropped[0])
    assert "write_rationale" in str(built.dropped[1])


def test_reasons_are_asked_for():
    asked = []

    def sampler(contexts, *, n=1):
        asked.extend(context[-1].text for context in contexts)
        return [[f" reason {i} " if i != 1 else " "] for i in range(len(contexts))]

    records = [pair(f"q{i}", "good", "bad", record=i, source="p") for i in range(3)]
    built = write_rationale(sampler, style="specific")([*records, Preference({}, record=9)])
    assert [one.meta["rationale"] for one in built.preferences] == ["reason 0", "reason 2"]
    assert 'First response: "good"\nSecond response: "bad"' in asked[0] and "pointing at" in asked[0]
    assert [str(error)[:40] for error in built.dropped] == [
        "record 9, field `chosen`: found roles ; ",
        "p, record 1: found an empty rationale; e",
    ]
    with pytest.raises(ConfigError, match="found style='generl'; did you mean `general`"):
        write_rationale(sampler, style="generl")


def test_a_real_model_writes_and_scores_its_reasons():
    model, owner = llama()
    own = LocalSampler(model, owner, max_new_tokens=4, progress=False)
    chain = write_rationale(own) >> builder_of("rationale_case(seed=3)")
    built = chain([pair("q", "good", "bad")])
    policy = AutoregressivePolicy(owner)
    batch = policy.collate([policy.encode(one) for one in built.preferences])
    scores = policy.score(model, batch)
    assert scores.at("rationale", scores.mask.sum(1)).item() >= 4
