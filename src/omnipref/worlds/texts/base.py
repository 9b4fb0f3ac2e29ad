"""The base model of a task: a Llama of about 100,000 weights that has learned the careless writer's ways."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from omnipref.errors import NonFiniteError
from omnipref.policies.caching.place import cache_directory
from omnipref.worlds.texts.tasks import Task

WIDTH, LAYERS, HEADS = 64, 2, 4
STEPS, BATCH, RATE = 500, 128, 1e-3

logger = logging.getLogger(__name__)


def tokenizer(task: Task) -> PreTrainedTokenizerFast:
    """A token for each word of a task.

    Args:
        task: its words.
    """
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    words = {word: number for number, word in enumerate([*special, *task.words])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **names)


@functools.cache
def base_folder(make: Callable[[], Task]) -> Path:
    """The folder of a task's base model; it is trained when it is first asked for, in half a minute, and then kept.

    Args:
        make: the function that gives the task.
    """
    task = make()
    source = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("base.py", "tasks.py"))
    digest = hashlib.sha256(f"{source}{torch.__version__}".encode()).hexdigest()[:12]
    folder = cache_directory(None) / "worlds" / f"{task.name}-{digest}"
    if not folder.exists():
        logger.info("training the base model of the world %s", task.name)
        half = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        owner = tokenizer(task)
        trained(task, owner).save_pretrained(half)
        owner.save_pretrained(half)
        try:
            half.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(half)
    return folder


def trained(task: Task, owner: PreTrainedTokenizerFast, steps: int = STEPS) -> LlamaForCausalLM:
    """A new model that has learned to write as the careless writer does.

    Args:
        task: what is asked and written.
        owner: its tokenizer.
        steps: updates.

    Raises:
        NonFiniteError: the training broke down.
    """
    draw = Random(task.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(_config(owner))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    loss = torch.tensor(float("nan"))
    for _ in range(steps):
        loss = model(**_batch(task, owner, draw)).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    if not torch.isfinite(loss):
        raise NonFiniteError(f"the base model of `{task.name}` has the loss {loss.item()}")
    return model.eval()


def _config(owner: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(owner),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=64,
        initializer_range=0.1,
        **dict(zip(("pad_token_id", "bos_token_id", "eos_token_id"), range(3), strict=True)),
    )


def _batch(task: Task, owner: PreTrainedTokenizerFast, draw: Random) -> dict[str, torch.Tensor]:
    """Prompts with answers and the end; prompts are not learned."""
    rows, labels = [], []
    for _ in range(BATCH):
        prompt = task.ask(draw)
        asked, said = owner.encode(prompt), [*owner.encode(task.write(prompt, draw)), owner.eos_token_id]
        rows.append([*asked, *said])
        labels.append([*[-100] * len(asked), *said])
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[owner.pad_token_id] * (width - len(row))] for row in rows])
    targets = torch.tensor([[*row, *[-100] * (width - len(row))] for row in labels])
    return {"input_ids": ids, "attention_mask": torch.ne(ids, 0).long(), "labels": targets}
