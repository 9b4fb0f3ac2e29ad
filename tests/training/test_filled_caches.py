"""`omnipref score --fill-cache` ahead of `omnipref train`, killed and resumed, read by one process or several."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import factories
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import CLIPVisionModel, LlamaModel

from omnipref.cli import main
from omnipref.policies.caching.store import Store
from omnipref.policies.reference import FrozenCopy, frozen_copy
from omnipref.training import models

SMALL = [
    *("--per-device-train-batch-size", "4", "--learning-rate", "1e-3", "--logging-steps", "1", "--max-steps", "4"),
    *("--training-arguments", "use_cpu=true"),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return factories.save(*factories.llama(), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return factories.save(*factories.llava(), tmp_path_factory.mktemp("llava"))


def texts(folder: Path, count: int = 8) -> Path:
    rows = [{"prompt": f"What is {i}? ", "chosen": f"two {i}", "rejected": "three cups"} for i in range(count)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "texts.jsonl"


def pictures(folder: Path, count: int = 8) -> Path:
    rows = []
    for i in range(count):
        factories.picture(i // 2).save(folder / f"{i}.png")
        question = [{"role": "user", "content": "Describe the picture."}]
        answers = {"chosen": "a red cube", "rejected": "a blue ball" * (1 + i % 2)}
        said = {role: [{"role": "assistant", "content": text}] for role, text in answers.items()}
        rows.append({"prompt": question, **said, "images": [f"{i}.png"]})
    (folder / "pictures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pictures.jsonl"


def scored(model: Path, data: Path, output: Path, *flags: str) -> list[dict]:
    words = ["score", str(data), "--model-name-or-path", str(model), "--output", str(output), *flags]
    assert main(words) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def trained(model: Path, data: Path, output: Path, *flags: str) -> list[float]:
    words = ["--model-name-or-path", str(model), "--dataset", str(data), "--output-dir", str(output)]
    assert main(["train", *words, *SMALL, *flags]) == 0
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in history if "loss" in line]


@contextmanager
def counted(kind: type[nn.Module]) -> Iterator[list[nn.Module]]:
    """Every pass of a module of this class, as it happens."""
    calls: list[nn.Module] = []
    handle = register_module_forward_pre_hook(lambda module, _: calls.append(module) if type(module) is kind else None)
    try:
        yield calls
    finally:
        handle.remove()


def refusing_copy(model: nn.Module) -> FrozenCopy:
    """A frozen copy that must not be run."""

    def refuse(*_: object) -> None:
        raise AssertionError("the reference is run")

    copy = frozen_copy(model)
    copy.model.register_forward_pre_hook(refuse)
    return copy


@pytest.mark.parametrize("precision", [[], ["--bf16"]], ids=["float32", "bf16"])
@pytest.mark.parametrize("keep", ["--precompute-ref-log-probs", "--cache-ref-log-probs"])
def test_a_filled_cache_spares_training_its_reference(llama, tmp_path, monkeypatch, capsys, keep, precision):
    data, place = texts(tmp_path), ["--cache-dir", str(tmp_path / "cache")]
    live = trained(llama, data, tmp_path / "live", *precision)
    scored(llama, data, tmp_path / "scores.jsonl", "--fill-cache", *place, *precision)
    monkeypatch.setattr(models, "frozen_copy", refusing_copy)
    found = trained(llama, data, tmp_path / "run", keep, *place, *precision)
    assert found == pytest.approx(live, abs=1e-6 if not precision else 1e-3)
    other = ["--output-dir", str(tmp_path / "other"), keep, *place, *([] if precision else ["--bf16"])]
    assert main(["train", "--model-name-or-path", str(llama), "--dataset", str(data), *SMALL, *other]) == 1
    assert "the reference is run" in capsys.readouterr().err


@pytest.mark.parametrize("keep", ["--precompute-ref-log-probs", "--cache-ref-log-probs"])
def test_a_filled_cache_spares_training_with_lora_its_reference_and_its_encoder(llava, tmp_path, keep):
    data, place = pictures(tmp_path), ["--cache-dir", str(tmp_path / "cache"), "--cache-vision-features"]
    lora = ["--lora-r", "2", "--lora-target-modules", "q_proj", "up_proj"]
    live = trained(llava, data, tmp_path / "live", *lora)
    scored(llava, data, tmp_path / "scores.jsonl", "--fill-cache", *place)
    (features,) = (tmp_path / "cache" / "vision_features").glob("*.sqlite")
    with sqlite3.connect(features) as db:
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (4,)  # each distinct picture
    (kept,) = (tmp_path / "cache" / "reference_scores").glob("*.sqlite")
    before = kept.read_bytes()
    with counted(CLIPVisionModel) as encoder, counted(LlamaModel) as text:
        found = trained(llava, data, tmp_path / "run", *lora, keep, *place)
    assert found == pytest.approx(live, abs=1e-6)
    assert kept.read_bytes() == before
    trials = len(text) - 4  # before training, the layout is tried on a few tokens and two pictures
    assert trials <= 6 and len(encoder) <= 4


def test_scoring_again_runs_nothing_and_gives_the_same_numbers(llama, tmp_path):
    data, place = texts(tmp_path), ["--fill-cache", "--cache-dir", str(tmp_path / "cache")]
    plain = scored(llama, data, tmp_path / "plain.jsonl", "--ref-model", str(llama))
    with counted(LlamaModel) as first:
        filled = scored(llama, data, tmp_path / "first.jsonl", *place)
    with counted(LlamaModel) as second:
        again = scored(llama, data, tmp_path / "second.jsonl", *place)
    assert again == filled
    assert [line["chosen"]["logp"] for line in filled] == [line["chosen"]["logp"] for line in plain]
    assert [line["rejected"]["units"] for line in filled] == [line["rejected"]["units"] for line in plain]
    assert len(second) == len(first) - 1


def test_a_killed_fill_goes_on_to_the_same_numbers(llama, tmp_path):
    data, cache = texts(tmp_path, 120), tmp_path / "cache"
    flags = ["--batch-size", "2", "--fill-cache", "--cache-dir", str(cache)]
    command = [sys.executable, "-m", "omnipref", "score", str(data), "--model-name-or-path", str(llama)]
    command += ["--output", str(tmp_path / "scores.jsonl"), *flags]

    def kept() -> int:
        return sum(Store(path).count() for path in cache.rglob("*.sqlite"))

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet) as process:
        deadline = time.monotonic() + 120
        while kept() < 10 and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "scores.jsonl").exists()
    done = kept()
    assert 10 <= done < 240 - 4
    with counted(LlamaModel) as whole:
        plain = scored(llama, data, tmp_path / "plain.jsonl", "--batch-size", "2")
    with counted(LlamaModel) as rest:
        resumed = scored(llama, data, tmp_path / "scores.jsonl", *flags)
    assert resumed == plain
    assert len(whole) - len(rest) == done // 4 and kept() == 240


def test_a_cache_that_cannot_be_filled_is_an_error(llama, tmp_path, capsys):
    data, words = texts(tmp_path), ["--model-name-or-path", str(llama), "--output", str(tmp_path / "scores.jsonl")]
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert main(["score", str(data), *words, "--fill-cache", "--cache-dir", str(tmp_path / "cache")]) == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said and "name another --cache-dir" in said and "goes on" not in said
    assert "nothing more is kept" not in said
    assert not (tmp_path / "scores.jsonl").exists()
    assert main(["score", str(data), *words, "--cache-dir", str(tmp_path / "cache")]) == 2
    assert "`fill_cache`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "keep", [["--precompute-ref-log-probs"], ["--cache-ref-log-probs", "--lora-r", "2"]], ids=["ahead", "live"]
)
def test_two_processes_fill_and_read_one_cache(llama, tmp_path, keep):
    data = texts(tmp_path, 16)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
    words = ["-m", "omnipref", "train", "--model-name-or-path", str(llama), "--dataset", str(data), *SMALL, *keep]
    words += ["--cache-dir", str(tmp_path / "cache"), "--per-device-train-batch-size", "2"]
    live = trained(llama, data, tmp_path / "live", *keep[1:])
    for run in ("first", "second"):
        output = ["--output-dir", str(tmp_path / run)]
        for _ in range(2):
            done = subprocess.run([*launch, *words, *output], capture_output=True, text=True, timeout=300)
            if "terminate called without an active exception" not in done.stderr:
                break  # gloo now and then aborts when its threads are torn down, after the work is done
        assert done.returncode == 0, done.stderr[-3000:]
        history = json.loads((tmp_path / run / "trainer_state.json").read_text())["log_history"]
        assert [line["loss"] for line in history if "loss" in line] == pytest.approx(live, abs=2e-6)
        (path,) = (tmp_path / "cache").rglob("*.sqlite")
        assert Store(path).count() == 32


def test_scoring_says_what_it_wrote_and_refuses_a_bad_place_at_once(llama, tmp_path, capsys):
    data, words = texts(tmp_path), ["--model-name-or-path", str(llama), "--output"]
    assert main(["score", str(data), *words, str(tmp_path / "scores.jsonl"), "--limit", "2"]) == 0
    assert f"2 of 2 records scored: {tmp_path / 'scores.jsonl'}" in capsys.readouterr().out
    (tmp_path / "file").write_text("no folder")
    words[1] = "no-such-model"
    assert main(["score", str(data), *words, str(tmp_path / "file" / "scores.jsonl")]) == 2
    assert f"{tmp_path / 'file'}/scores.jsonl.parts: Not a directory" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "gone.jsonl"), *words, str(tmp_path / "other.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not list(tmp_path.glob("other*"))


def test_a_killed_score_goes_on_with_the_first_missing_part(llama, tmp_path):
    data, output = texts(tmp_path, 100), tmp_path / "scores.jsonl"
    more = tmp_path / "more"
    more.mkdir()
    words = ["score", str(data), str(texts(more, 2)), "--model-name-or-path", str(llama), "--batch-size", "2"]
    parts = tmp_path / "scores.jsonl.parts"
    command = [sys.executable, "-m", "omnipref", *words, "--output", str(output)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet) as process:
        deadline = time.monotonic() + 120
        while not list(parts.glob("0*.json")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not output.exists()
    done = len(list(parts.glob("0*.json")))
    with counted(LlamaModel) as whole:
        assert main([*words, "--output", str(tmp_path / "plain.jsonl")]) == 0
    assert main([*words, "--output", str(output), "--seed", "1"]) == 2 and not output.exists()
    with counted(LlamaModel) as rest:
        assert main([*words, "--output", str(output)]) == 0
    assert output.read_bytes() == (tmp_path / "plain.jsonl").read_bytes() and not parts.exists()
    assert len(whole) - len(rest) == 16 * done >= 16
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["record"] for line in lines] == [*range(100), 0, 1]
    assert len({line["source"] for line in lines}) == 2


def test_what_cannot_be_scored_is_put_aside_and_the_rest_goes_on(llama, tmp_path, capsys):
    rows = [{"prompt": "What is it?", "chosen": "two", "rejected": "no " * count} for count in (1, 600, 2)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = scored(llama, data, tmp_path / "scores.jsonl")
    assert [line["record"] for line in lines] == [0, 2]
    assert "2 of 3 records scored, 1 put aside" in capsys.readouterr().out
    (reason,) = [json.loads(line) for line in (tmp_path / "scores.quarantine.jsonl").read_text().splitlines()]
    assert reason["record"] == 1 and reason["field"] == "rejected" and "tokens" in reason["reason"]
    words = ["score", str(data), "--model-name-or-path", str(llama), "--max-length", "4"]
    assert main([*words, "--output", str(tmp_path / "none.jsonl")]) == 2
    assert "no record that can be scored" in capsys.readouterr().err and not (tmp_path / "none.jsonl").exists()


def test_a_log_likelihood_that_is_no_number_is_put_aside(tmp_path, capsys):
    model, owner = factories.llama()
    (two,) = owner(" ball", add_special_tokens=False)["input_ids"][:1]
    with torch.no_grad():
        model.lm_head.weight[:] = model.lm_head.weight.clone()
        model.model.embed_tokens.weight[two] = float("nan")
    folder = factories.save(model, owner, tmp_path / "model")
    rows = [{"prompt": "What is it?", "chosen": f"two{word} cups", "rejected": "no"} for word in (" cups", " ball")]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = scored(folder, data, tmp_path / "scores.jsonl", "--layout", "rows")
    assert [line["record"] for line in lines] == [0] and "1 put aside" in capsys.readouterr().out
    (reason,) = [json.loads(line) for line in (tmp_path / "scores.quarantine.jsonl").read_text().splitlines()]
    assert reason["record"] == 1 and reason["field"] == "chosen" and "log-likelihood of nan" in reason["reason"]
