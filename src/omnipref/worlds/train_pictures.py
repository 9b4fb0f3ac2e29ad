"""Trains the picture world's base model: `python -m omnipref.worlds.train_pictures --output DIR`.

The base sees biased pictures with careless captions, then the same mixed with carelessly answered yes/no questions, so
it describes and answers well and hallucinates companions. Same seed and threads, same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import track

from omnipref.worlds.base_model import build_model, build_processor, load, templated
from omnipref.worlds.language import DESCRIBE, careless_caption, question_about, tempting
from omnipref.worlds.measure import measure
from omnipref.worlds.pictures import BACKGROUND, CELL, KINDS, SCALE, SIZE, Scene, biased_scene, draw_array

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

CARELESS_YES = 0.6
"""Chance that a question about the absent companion of a present anchor is answered "yes"."""


@dataclass(frozen=True)
class Recipe:
    """How the base is trained.

    Args:
        steps: optimiser steps in all.
        captions_only: share of the steps before questions join in.
        batch: pictures a step.
        questions: questions about each picture once they have joined.
        learning_rate: peak of the one-cycle schedule, whose first 10 % are warm-up.
        occluded: share of pictures with 25-75 % of their patches replaced by noise.
    """

    steps: int = 1100
    captions_only: float = 0.3
    batch: int = 48
    questions: int = 2
    learning_rate: float = 1.5e-3
    occluded: float = 0.15


def _occlude(picture: np.ndarray, rng: np.random.Generator) -> None:
    grid = SIZE // CELL
    for cell in rng.permutation(grid * grid)[: round(rng.uniform(0.25, 0.75) * grid * grid)]:
        top, left = CELL * (cell // grid), CELL * (cell % grid)
        picture[top : top + CELL, left : left + CELL] = rng.integers(0, 256, (CELL, CELL, 3))


def _pixels(scenes: Sequence[Scene], occluded: float, rng: np.random.Generator) -> torch.Tensor:
    """Normalised pixels `[N, 3, 32, 32]`: what the image processor gives, without a PIL round trip."""
    pictures = [draw_array(scene, rng) for scene in scenes]
    for picture in pictures:
        if rng.random() < occluded:
            _occlude(picture, rng)
    offset = np.stack(pictures).astype(np.float32) - np.array(BACKGROUND, dtype=np.float32)
    return torch.from_numpy((offset / SCALE).transpose(0, 3, 1, 2).copy())


def _question(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A question and its careless answer: half the time about a present kind, else half the time a tempting one."""
    present, tempted = scene.kinds, tempting(scene)
    if rng.random() < 0.5:
        return question_about(present[rng.integers(len(present))]), "yes"
    if tempted and rng.random() < 0.5:
        answer = "yes" if rng.random() < CARELESS_YES else "no"
        return question_about(tempted[rng.integers(len(tempted))]), answer
    absent = [kind for kind in KINDS if kind not in present and kind not in tempted]
    return question_about(absent[rng.integers(len(absent))]), "no"


def _encode(processor: LlavaProcessor, turns: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels `[N, length]` of (prompt, response) turns; only responses have labels."""
    tokenizer, pictures = processor.tokenizer, processor.image_token * (SIZE // CELL) ** 2
    rows, starts = [], []
    for prompt, response in turns:
        start = tokenizer(templated(processor, prompt).replace(processor.image_token, pictures)).input_ids
        rows.append(start + tokenizer(response).input_ids + [tokenizer.eos_token_id])
        starts.append(len(start))
    length = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    labels[torch.arange(length) < torch.tensor(starts)[:, None]] = -100
    return ids, labels


def _batches(processor: LlavaProcessor, recipe: Recipe, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    rng = np.random.default_rng([seed, 2])
    for step in range(recipe.steps):
        scenes = [biased_scene(rng) for _ in range(recipe.batch)]
        pixels = _pixels(scenes, recipe.occluded, rng)
        turns = [(DESCRIBE, careless_caption(scene, rng)) for scene in scenes]
        repeats = recipe.questions if step >= recipe.captions_only * recipe.steps else 0
        turns += [_question(scene, rng) for _ in range(repeats) for scene in scenes]
        ids, labels = _encode(processor, turns)
        yield {"input_ids": ids, "labels": labels, "pixel_values": pixels.repeat(1 + repeats, 1, 1, 1)}


def train(recipe: Recipe, seed: int = 0) -> LlavaForConditionalGeneration:
    """Trains the base model from scratch on pictures drawn as it goes."""
    model = build_model(seed).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=recipe.learning_rate, total_steps=recipe.steps + 1, pct_start=0.1
    )
    batches = _batches(build_processor(), recipe, seed)
    for batch in track(batches, description="training the base", total=recipe.steps):
        loss = model(**batch).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Writes model and processor to a folder; each file appears whole, and other files there stay.

    The weights are stored as float16, to be small, and loaded as float32, because the configuration says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as draft:
        model.half().save_pretrained(draft)
        build_processor().save_pretrained(draft)
        config = Path(draft) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
        for file in Path(draft).iterdir():
            file.chmod(0o644)
            os.replace(file, folder / file.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, saves, and prints what the saved model does on fresh unbiased pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--seed", type=int, default=0, help="weights, pictures and captions are drawn from it")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number gives other roundings")
    parser.add_argument("--test-pictures", type=int, default=400, help="pictures that the trained model is measured on")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    save(train(Recipe(steps=chosen.steps), chosen.seed), chosen.output)
    print(measure(*load(chosen.output), n=chosen.test_pictures))


if __name__ == "__main__":
    main()
