"""The shipped base model: real classes, its hallucination and its answers, its size, and the script that trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnipref import worlds
from omnipref.worlds.base_model import build_model, build_processor, templated
from omnipref.worlds.measure import Measured, answers, measure
from omnipref.worlds.train_pictures import Recipe, _encode, _pixels, main, train


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers")
    folder = worlds.base_model_path()
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    return model, transformers.AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def measured(shipped: tuple[Any, Any]) -> Measured:
    return measure(*shipped, n=64, seed=5)


def test_auto_classes_find_the_real_classes(shipped: tuple[Any, Any]) -> None:
    assert [type(part).__name__ for part in shipped] == ["LlavaForConditionalGeneration", "LlavaProcessor"]
    assert shipped[0].dtype == torch.float32
    size = sum(file.stat().st_size for file in worlds.base_model_path().iterdir())
    assert size < 2.5e6


def test_special_tokens_and_generation_defaults(shipped: tuple[Any, Any]) -> None:
    model, processor = shipped
    tokenizer, defaults = processor.tokenizer, model.generation_config
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert len(ids) == 4
    assert (defaults.eos_token_id, defaults.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert defaults.suppress_tokens == [model.config.image_token_id] == [processor.image_token_id]


def test_chat_template_ends_an_answer_with_eos_and_extends_the_prompt(shipped: tuple[Any, Any]) -> None:
    _, processor = shipped
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": worlds.DESCRIBE}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a plate and a fork"}]},
    ]
    prompt = processor.apply_chat_template(turns[:1], add_generation_prompt=True)
    assert prompt == templated(processor, worlds.DESCRIBE)
    assert processor.apply_chat_template(turns) == prompt + "a plate and a fork" + processor.tokenizer.eos_token
    with pytest.raises(Exception, match="only user and assistant"):
        processor.apply_chat_template([{"role": "system", "content": "be kind"}])


def test_every_sentence_of_the_world_survives_the_tokenizer(shipped: tuple[Any, Any]) -> None:
    tokenizer = shipped[1].tokenizer
    sentences = [worlds.DESCRIBE, worlds.caption_of(worlds.KINDS), "yes", "no"]
    for sentence in sentences:
        assert tokenizer.decode(tokenizer(sentence).input_ids) == sentence
    for kind in worlds.KINDS:
        assert tokenizer.unk_token_id not in tokenizer(worlds.question_about(kind)).input_ids


def test_training_sees_what_the_processor_makes() -> None:
    processor: Any = build_processor()
    scenes = worlds.sample_scenes(6, 0)
    pictures = worlds.draw_all(scenes, 9)
    rng = np.random.default_rng(9)
    made = processor.image_processor(pictures[0], return_tensors="pt")["pixel_values"]
    assert torch.allclose(made[0], _pixels(scenes[:1], 0.0, rng)[0], atol=1e-5)
    turns = [(worlds.DESCRIBE, "a plate"), (worlds.question_about("cup"), "yes")]
    ids, labels = _encode(processor, turns)
    for row, (prompt, response) in enumerate(turns):
        text = templated(processor, prompt) + response + "<eos>"
        whole = processor(text=[text], images=[pictures[0]], return_tensors="pt")["input_ids"][0]
        assert ids[row, : len(whole)].equal(whole)
        assert processor.tokenizer.decode(labels[row][labels[row] >= 0]) == f"{response} <eos>"


def test_empty_ground_is_zero_for_the_model(shipped: tuple[Any, Any]) -> None:
    empty = worlds.draw_all([worlds.Scene(())] * 20, 0)
    values = shipped[1].image_processor(empty, return_tensors="pt")["pixel_values"]
    assert values.mean((0, 2, 3)).abs().max() < 0.02


def test_base_hallucinates_companions_in_well_formed_captions(measured: Measured) -> None:
    assert 0.15 < measured.chair_i < 0.35
    assert measured.chair_s > 0.4
    assert measured.coverage > 0.85
    assert measured.well_formed > 0.97


def test_base_answers_yes_no_questions_well_above_chance(measured: Measured) -> None:
    assert min(measured.accuracy.values()) > 0.7
    assert measured.accuracy["adversarial"] < measured.accuracy["random"]


def test_base_looks_at_the_picture(shipped: tuple[Any, Any]) -> None:
    tested = worlds.test_pictures(32, 6)
    said = answers(*shipped, [item.image for item in tested], [worlds.DESCRIBE] * 32)
    moved = said[1:] + said[:1]
    right, wrong = (
        np.mean(
            [set(item.scene.kinds) <= set(worlds.mentioned(text)) for item, text in zip(tested, texts, strict=True)]
        )
        for texts in (said, moved)
    )
    assert right > wrong + 0.5


def test_training_is_reproducible_and_seeded() -> None:
    recipe = Recipe(steps=2, batch=4)
    first, again, other = (train(recipe, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    untrained = build_model(0).state_dict()
    assert any(not torch.equal(first[name], untrained[name]) for name in first)


def test_script_writes_a_loadable_folder_again_over_an_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep" / "base"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    for _ in range(2):
        main(["--output", str(folder), "--steps", "2", "--test-pictures", "4"])
        model, processor = worlds.load(folder)
        assert model.dtype == torch.float32
        assert processor.tokenizer.eos_token == "<eos>"
    assert [entry.name for entry in folder.parent.iterdir()] == ["base"]
    assert (folder / "notes.txt").read_text() == "mine"
    assert "CHAIR_i" in capsys.readouterr().out.splitlines()[-1]
