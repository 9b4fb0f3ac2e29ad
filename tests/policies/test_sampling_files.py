"""`omnipref sample` on real files: prompts in, lines out; killed and started again gives the same file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from factories import llama, llava, picture, save
from local_server import last_text, serve

from omnipref.errors import ConfigError
from omnipref.policies import sample_files
from omnipref.policies.sample_files import answers_of, run
from omnipref.policies.sampling import LocalSampler
from omnipref.policies.server import ServerError
from omnipref.preferences import Message, pair, write_jsonl


@dataclass(frozen=True)
class Settings:
    dataset: list[str]
    output: str
    model_name_or_path: str
    adapter: str | None = None
    server: str | None = None
    num_samples: int = 2
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 4
    batch_size: int = 1
    dataset_split: str = "train"
    dataset_format: str | None = None
    limit: int | None = None
    dtype: str = "float32"
    trust_remote_code: bool = False
    seed: int = 0


@pytest.fixture
def texts(tmp_path: Path) -> Settings:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"number {i}"} for i in range(20)]
    rows[3] = {"prompt": [{"role": "user", "content": "hello"}]}
    rows[5] = {"prompt": " "}
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": "cut')
    folder = save(*llama(), tmp_path / "model")
    return Settings([str(prompts)], str(tmp_path / "out.jsonl"), str(folder))


def lines(path: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_every_prompt_is_answered_or_put_aside(texts: Settings):
    run(texts)
    found = lines(texts.output)
    assert [line["record"] for line in found] == [i for i in range(20) if i != 5]
    assert all(len(line["responses"]) == 2 for line in found)
    assert found[0]["prompt"] == "number 0"
    assert found[3]["prompt"] == [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    aside = lines(texts.output.replace(".jsonl", ".quarantine.jsonl"))
    assert [line["record"] for line in aside] == [5, 20]
    assert "empty prompt" in aside[0]["reason"] and "broken JSON" in aside[1]["reason"]


def test_killed_and_started_again_gives_the_same_file(texts: Settings, monkeypatch: pytest.MonkeyPatch):
    whole = replace(texts, output=texts.output.replace("out", "whole"))
    run(whole)
    answered = []
    real = sample_files.sampled

    def killed(records, *rest):
        if answered:
            raise KeyboardInterrupt
        answered.append(len(records))
        return real(records, *rest)

    monkeypatch.setattr(sample_files, "sampled", killed)
    with pytest.raises(KeyboardInterrupt):
        run(texts)
    assert not Path(texts.output).exists()
    with pytest.raises(ConfigError, match="other values of seed"):
        run(replace(texts, seed=1))
    monkeypatch.setattr(sample_files, "sampled", lambda records, *rest: answered.append(0) or real(records, *rest))
    run(texts)
    assert len(answered) == 3
    assert lines(texts.output) == lines(whole.output)
    with pytest.raises(ConfigError, match="name another output"):
        run(texts)


def test_contexts_of_preferences_and_pictures_are_prompts(tmp_path: Path):
    folder = save(*llava(), tmp_path / "model")
    from omnipref.preferences import Part

    pairs = [pair([Message.of("user", Part("image", picture(i)), "what?")], "a", "b") for i in range(3)]
    write_jsonl(pairs, tmp_path / "pairs.jsonl")
    settings = Settings([str(tmp_path / "pairs.jsonl")], str(tmp_path / "out" / "said.jsonl"), str(folder))
    run(settings)
    found = lines(settings.output)
    assert len(found) == 3
    image = found[0]["prompt"][0]["content"][0]["image"]
    assert (tmp_path / "out" / image).exists() or Path(image).exists()


def test_a_broken_picture_does_not_stop_the_rest():
    from omnipref.preferences import Part

    model, owner = llava()
    contexts = [(Message.of("user", Part("image", value), "what?"),) for value in (picture(0), b"junk", picture(1))]
    sampler = LocalSampler(model, owner, max_new_tokens=3)
    answers, reasons = answers_of(contexts, sampler, 2)
    assert list(reasons) == [1] and "corrupt picture" in str(reasons[1])
    assert answers == {0: sampler(contexts[:1], n=2)[0], 1: [], 2: sampler(contexts[2:], n=2)[0]}


def test_a_server_that_fails_on_some_prompts_keeps_the_others(texts: Settings):
    pytest.importorskip("openai")

    def answer(body):
        return 400 if last_text(body) == "number 2" else f"said {last_text(body)}"

    with serve(answer) as endpoint:
        run(replace(texts, server=endpoint.url))
    found = {line["prompt"]: line for line in lines(texts.output) if isinstance(line["prompt"], str)}
    assert found["number 1"]["responses"] == ["said number 1"] * 2 and "number 2" not in found
    aside = lines(texts.output.replace(".jsonl", ".quarantine.jsonl"))
    assert {line["record"] for line in aside} == {2, 5, 20}


def test_a_dead_server_keeps_finished_parts(texts: Settings):
    pytest.importorskip("openai")
    asked: list[str] = []
    dead = {"number 17", "number 18", "number 19"}

    def answer(body):
        asked.append(last_text(body))
        return 400 if asked[-1] in dead else "ok"

    with serve(answer) as endpoint:
        settings = replace(texts, server=endpoint.url)
        with pytest.raises(ServerError, match="6 of 6"):
            run(settings)
        asked.clear()
        dead.clear()
        run(settings)
    assert set(asked) == {"number 17", "number 18", "number 19"}
    assert len(lines(texts.output)) == 19
