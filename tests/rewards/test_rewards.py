"""Rewards and judges: sums, order swap, ties, replies that are no score."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_server import last_text, serve

from omnipref.errors import DataError
from omnipref.policies.server import Server, ServerError
from omnipref.preferences import Case, Message, Part
from omnipref.rewards import both_orders, count, length, quarantine_file, rule, server_judge, server_reward, win_rate
from omnipref.rewards.reward import Reward, RewardTerm

NAN = math.nan


def cases(*texts: str, prompt: str = "q") -> list[Case]:
    return [Case.raw(prompt, text) for text in texts]


@given(st.floats(-5, 5), st.floats(-5, 5), st.text(max_size=20))
def test_mixtures_are_weighted_sums(a: float, b: float, text: str):
    mixed = a * length() + count("x") * b - rule(lambda case: 3.0)
    expected = a * len(text.split()) + b * text.lower().count("x") - 3.0
    assert mixed(cases(text)) == pytest.approx([expected])


def test_a_missing_score_stays_missing_in_a_sum():
    found = (rule(lambda case: NAN if case.text == "b" else 1.0) + length())(cases("a", "b"))
    assert found[0] == 2.0 and math.isnan(found[1])


def test_a_term_with_too_few_scores_is_refused():
    broken = rule(lambda case: 0.0)
    wrong = type(broken)((type(broken.terms[0])("short", lambda cases: [0.0]),))
    with pytest.raises(ValueError, match=r"1 scores from `short`; expected 2"):
        wrong(cases("a", "b"))


def longer(pairs):
    return [float((len(a.text) > len(b.text)) - (len(a.text) < len(b.text))) for a, b in pairs]


def test_order_swap_removes_position_bias():
    first = lambda pairs: [1.0] * len(pairs)  # noqa: E731
    a, b, c = cases("aa", "b", "cc")
    assert both_orders(first)([(a, b), (b, a)]) == [0.0, 0.0]
    assert both_orders(longer)([(a, b), (b, a), (a, c)]) == [1.0, -1.0, 0.0]
    assert math.isnan(both_orders(lambda pairs: [NAN, *[1.0] * (len(pairs) - 1)])([(a, b)])[0])


def test_win_rate_compares_within_a_context_only():
    found = win_rate(longer)(
        [*cases("a", "bbb", "cc"), *cases("dddd", "d", prompt="other"), *cases("e", prompt="alone")]
    )
    assert found[:5] == [-1.0, 1.0, 0.0, 1.0, -1.0]
    assert math.isnan(found[5])


def ask(url: str) -> Server:
    return Server(url, "judge", progress=False, retries=0)


@pytest.mark.parametrize(
    ("reply", "value"),
    [("Good. Score: 10", 1.0), ("**Score:** 5.5", 0.5), ("7/10", 6 / 9), ("Score: 2\nNo: score: 1", 0.0)],
)
def test_scores_are_read_from_text(reply: str, value: float):
    with serve(lambda _: reply) as endpoint:
        assert server_reward(ask(endpoint.url))(cases("a")) == pytest.approx([value])


def test_replies_without_score_are_quarantined_with_their_reason(tmp_path):
    side = tmp_path / "side.jsonl"
    replies = {"a": "I like it", "b": "Score: 11", "c": "Score: 1", "d": 400}
    with serve(lambda body: next(v for k, v in replies.items() if f"[Answer]\n{k}\n" in last_text(body))) as endpoint:
        found = server_reward(ask(endpoint.url), quarantine=quarantine_file(side))(cases("a", "b", "c", "d"))
    assert [math.isnan(value) for value in found] == [True, True, False, True]
    lines = [json.loads(line) for line in side.read_text().splitlines()]
    assert [line["responses"] for line in lines] == [["a"], ["b"], ["d"]]
    assert "no score in 'I like it'" in lines[0]["reason"]
    assert "score 11; expected 1 to 10" in lines[1]["reason"]
    assert "400" in lines[2]["reason"]


def test_a_dead_server_ends_the_job():
    with serve(lambda _: 400) as endpoint, pytest.raises(ServerError, match="2 of 2"):
        server_reward(ask(endpoint.url))(cases("a", "b"))


def test_the_judge_sees_picture_question_and_answers_in_both_orders(tmp_path):
    from factories import picture

    context = (Message.of("user", Part("image", picture(0)), "what is this?"),)
    pair = (Case.chat(context, "long answer"), Case.chat(context, "short"))
    with serve(lambda body: "Verdict: A") as endpoint:
        assert server_judge(ask(endpoint.url))([pair]) == [0.0]
        assert server_judge(ask(endpoint.url), swap=False)([pair]) == [1.0]
    text = [last_text(request) for request in endpoint.requests]
    assert "[Answer A]\nlong answer\n\n[Answer B]\nshort" in "".join(text)
    assert "[Answer A]\nshort\n\n[Answer B]\nlong answer" in "".join(text)
    assert all("what is this?" in one for one in text)
    assert [part["type"] for part in endpoint.requests[0]["messages"][0]["content"]].count("image_url") == 1
    with serve(lambda body: "Verdict: " + ("A" if "[Answer A]\nlong" in last_text(body) else "**B**")) as endpoint:
        assert server_judge(ask(endpoint.url))([pair]) == [1.0]
    with serve(lambda _: "tie") as endpoint:
        assert server_judge(ask(endpoint.url))([pair]) == [0.0]


@pytest.mark.parametrize("said", ["good", "3", None, ["1"]])
def test_a_judge_that_returns_no_number_is_named_with_what_it_said(said):
    with pytest.raises(DataError, match=r"from the judge `strict`; expected a number"):
        rule(lambda case: said, "strict")([Case.raw("q", "a")])
    with pytest.raises(DataError, match=re.escape(repr(said))):
        Reward((RewardTerm("strict", lambda cases: [said]),))([Case.raw("q", "a")])
