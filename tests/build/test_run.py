"""`omnipref build` on files: builders from text, side file, resume, real models."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from factories import llava, picture, save

from omnipref.build import builder_of, builders, files, run
from omnipref.errors import ConfigError
from omnipref.preferences import Message, Part, pair, read, write_jsonl


@dataclass(frozen=True)
class Settings:
    dataset: list[str]
    output: str
    builders: list[str]
    model_name_or_path: str | None = None
    trust_remote_code: bool = False
    dataset_split: str = "train"
    dataset_format: str | None = None
    limit: int | None = None
    seed: int = 0


@pytest.fixture
def source(tmp_path: Path) -> str:
    contexts = [[Message.of("user", Part("image", picture(i)), "describe")] for i in range(10)]
    made = [pair(context, f"a fork and a plate {i}", f"b {i}") for i, context in enumerate(contexts)]
    made.insert(4, pair("no picture", "a", "b"))
    write_jsonl(made, tmp_path / "in.jsonl")
    return str(tmp_path / "in.jsonl")


def test_every_public_builder_is_found_by_name():
    assert {"random_image", "similar_image", "masked_infill", "best_vs_worst", "flip", "mismatched"} <= set(builders())
    assert not {"run", "builder_of", "each", "Builder", "vision_features"} & set(builders())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random_imag()", "did you mean `random_image`"),
        ("random_image(sed=1)", "no option `sed` of `random_image`; did you mean `seed`"),
        ("random_image(", "expected such as"),
        ("random_image(1, 2, 3)", "too many positional"),
        ("__import__('os').system('true')", "expected calls, numbers"),
        ("random_image(seed=open('x'))", "no builder `open`"),
        ("length()", "is no builder"),
        ("word_swap(count=2)", "no `words`"),
        ("random_image() / 2", "expected one of >>"),
    ],
)
def test_texts_that_name_no_builder_are_refused(text: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        builder_of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_samples(n='x')", "found n='x' in `own_samples`; expected a whole number"),
        ("own_samples(n=2.5)", "expected a whole number"),
        ("own_samples(n=True)", "expected a whole number"),
        ("occlude(share='x')", "found share='x' in `occlude`; expected a number"),
        ("best_vs_worst(reward='count')", "expected a reward such as -count('cat')"),
        ("flip(builder=3)", "unsupported operand"),
    ],
)
def test_values_of_another_type_are_refused_before_a_model_is_loaded(text: str, message: str):
    with pytest.raises(ConfigError) as caught:
        builder_of(text, {"sampler": object, "seed": lambda: 0})
    assert message in str(caught.value)


def test_expressions_nest_and_chain():
    text = "best_vs_worst(reward=2 * length() - count('fork'), n=2) >> flip(random_image(seed=1), seed=2) >> mismatched"
    found = builder_of(text, {"sampler": lambda: lambda contexts, n: [["a fork", "a"] for _ in contexts]})
    assert found.name == "sample >> judge >> pairs >> random_image >> flip >> mismatched"


def test_records_and_side_file(source: str, tmp_path: Path):
    output = tmp_path / "out" / "with.jsonl"
    run(Settings([source], str(output), ["random_image", "mismatched(seed=5)"], seed=3))
    found = list(read(output))
    assert [p.meta["built_by"][0]["seed"] for p in found] == [3] * 10
    assert [p.meta["built_by"][1]["seed"] for p in found] == [5] * 10
    assert all(set(p.roles) == {"chosen", "rejected", "chosen@negative_image", "mismatched"} for p in found)
    aside = [json.loads(line) for line in (tmp_path / "out" / "with.quarantine.jsonl").read_text().splitlines()]
    assert [line["record"] for line in aside] == [4] and "without a picture" in aside[0]["reason"]
    with pytest.raises(ConfigError, match="name another output"):
        run(Settings([source], str(output), ["random_image"]))


def test_interrupted_runs_give_the_same_file(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "PART", 3)
    settings = Settings([source], str(tmp_path / "a.jsonl"), ["occlude(patch=8)"])
    whole = replace(settings, output=str(tmp_path / "b.jsonl"))
    run(whole)
    real, done = files._part, []

    def killed(*given):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*given)

    monkeypatch.setattr(files, "_part", killed)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert not Path(settings.output).exists()
    done[:] = [0, 0, 0]
    with pytest.raises(ConfigError, match="other values of builders"):
        run(replace(settings, builders=["occlude(patch=4)"]))
    run(settings)
    assert len(done) == 5
    strip = [Path(s.output).read_text().replace("b_media", "a_media") for s in (settings, whole)]
    assert strip[0] == strip[1]


def test_models_are_loaded_for_the_builders_that_need_them(source: str, tmp_path: Path):
    folder = save(*llava(), tmp_path / "model")
    settings = Settings([source], str(tmp_path / "near.jsonl"), ["similar_image(upper=1.0)"], str(folder))
    run(settings)
    assert len(list(read(settings.output))) == 10
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "hello"}\n{"prompt": "there"}\n')
    own = Settings(
        [str(prompts)], str(tmp_path / "own.jsonl"), ["sample(n=3)", "judge(length())", "pairs('all')"], str(folder)
    )
    run(own)
    assert all(p.columns["score/chosen"] > p.columns["score/rejected"] for p in read(own.output))
    with pytest.raises(ConfigError, match="--model-name-or-path"):
        run(replace(settings, model_name_or_path=None, output=str(tmp_path / "c.jsonl")))
