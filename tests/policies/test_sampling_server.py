"""Sampling from a server over real HTTP: what is sent, retries, parallel requests, partial results, clear errors."""

from __future__ import annotations

import base64
import io
import time
from collections import Counter

import numpy as np
import pytest
from factories import llama, picture
from local_server import last_text, serve
from PIL import Image

from omnipref.errors import CapabilityError, ConfigError
from omnipref.policies.sampling import LocalSampler
from omnipref.policies.server import Server, ServerError, ServerSampler
from omnipref.preferences import RAW, Message, Part

pytest.importorskip("openai", reason="the extra `serve` is not installed")


def asked(*texts: str) -> list[tuple[Message, ...]]:
    return [(Message.of("user", text),) for text in texts]


def sampler(url: str, **options) -> ServerSampler:
    return ServerSampler(Server(url, "tiny", progress=False, **options), max_new_tokens=7, temperature=0.5, top_p=0.9)


def test_answers_come_in_order_with_their_own_seeds():
    with serve(lambda body: f"{last_text(body)}/{body['seed']}") as endpoint:
        found = sampler(endpoint.url)(asked("a", "b"), n=3)
        again = sampler(endpoint.url)(asked("b"), n=3)
    assert [[text.partition("/")[0] for text in row] for row in found] == [["a"] * 3, ["b"] * 3]
    assert len({text for row in found for text in row}) == 6
    assert again == found[1:]
    body = endpoint.requests[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("tiny", 7, 0.5, 0.9)


def test_pictures_travel_losslessly():
    image = picture(5)
    with serve(lambda _: "ok") as endpoint:
        sampler(endpoint.url)([(Message.of("user", Part("image", image), "what?"),)])
    first, second = endpoint.requests[0]["messages"][0]["content"]
    data = base64.b64decode(first["image_url"]["url"].partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(image))
    assert second == {"type": "text", "text": "what?"}


def test_raw_prompts_and_partial_answers_have_their_own_requests():
    partial = (Message.of("user", "hi"), Message.of("assistant", "the answer"))
    with serve(lambda _: "ok") as endpoint:
        server = Server(endpoint.url, "tiny", concurrency=1, options={"extra_body": {"top_k": 20}})
        ServerSampler(server)([(Message.of(RAW, "once"),), partial])
    raw, continued = endpoint.requests
    assert raw["path"] == "/v1/completions" and raw["prompt"] == "once"
    assert continued["continue_final_message"] is True and continued["add_generation_prompt"] is False
    assert raw["top_k"] == continued["top_k"] == 20


def test_overload_is_retried_and_requests_run_in_parallel():
    tries: Counter[str] = Counter()

    def answer(body):
        tries[last_text(body)] += 1
        time.sleep(0.02)
        return 503 if tries[last_text(body)] == 1 else "ok"

    with serve(answer) as endpoint:
        assert sampler(endpoint.url, concurrency=4)(asked(*"abcdef")) == [["ok"]] * 6
    assert set(tries.values()) == {2}
    assert 2 <= endpoint.most_at_once <= 4


def test_failures_keep_the_other_answers():
    with (
        serve(lambda body: 400 if last_text(body) == "b" else last_text(body)) as endpoint,
        pytest.raises(ServerError, match=r"2 of 6 requests.*request 2: BadRequestError.*refused with 400") as caught,
    ):
        sampler(endpoint.url)(asked("a", "b", "c"), n=2)
    assert caught.value.answers == [["a", "a"], [None, None], ["c", "c"]]
    assert set(caught.value.reasons) == {2, 3}


def test_clear_errors_before_and_without_a_server():
    with pytest.raises(ConfigError, match="http://localhost:8000/v1"):
        sampler("localhost")(asked("a"))
    with pytest.raises(ServerError, match="check that the server runs"):
        sampler("http://127.0.0.1:9/v1", retries=0)(asked("a"))
    with serve(lambda _: "ok") as endpoint, pytest.raises(CapabilityError, match="audio"):
        sampler(endpoint.url)([*asked("a"), (Message.of("user", Part("audio", b"x")),)])
    assert endpoint.requests == []


def test_a_real_model_behind_the_server_answers_as_in_process():
    model, owner = llama()
    local = LocalSampler(model.double(), owner, max_new_tokens=4, temperature=0.0, progress=False)
    with serve(lambda body: local([tuple(Message.of(m["role"], m["content"]) for m in body["messages"])])[0][0]) as e:
        assert sampler(e.url)(asked("one", "two")) == local(asked("one", "two"))
