"""A tokenizer and a small Llama trained from scratch on dialogues, kept in a folder named by their settings."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from omnipref.preferences import Preference

MARKS = {"bos": "<|begin|>", "eos": "<|end|>", "pad": "<|pad|>"}
TURNS = ["<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """Size of the model and its training from scratch.

    Args:
        vocabulary: tokens of the byte-level BPE.
        width: of the hidden states.
        layers: of the model.
        row_tokens: dialogues are joined and cut into rows of this many tokens.
        batch: rows per step.
        epochs: passes over the dialogues.
        learning_rate: peak of the one-cycle schedule.
        seed: of weights and order.
    """

    vocabulary: int = 3000
    width: int = 160
    layers: int = 4
    row_tokens: int = 384
    batch: int = 8
    epochs: int = 4
    learning_rate: float = 2e-3
    seed: int = 0


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with marks for turns and a chat template; plain text gets the begin mark in front."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    marks = [*MARKS.values(), *TURNS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    begin = MARKS["bos"]
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, bpe.token_to_id(begin))]
    )
    owner = PreTrainedTokenizerFast(tokenizer_object=bpe, **{f"{name}_token": mark for name, mark in MARKS.items()})
    owner.chat_template = CHAT_TEMPLATE
    return owner


def chosen_dialogues(preferences: Sequence[Preference]) -> list[list[dict[str, str]]]:
    """Context and preferred response of each preference, as turns."""
    cases = [preference.cases["chosen"] for preference in preferences]
    return [[{"role": m.role, "content": m.text} for m in (*case.context, *case.response)] for case in cases]


def make_base(preferences: Sequence[Preference], settings: BaseSettings, work: Path) -> Path:
    """The folder of the model for these dialogues and settings; trained where it is not there yet.

    Args:
        preferences: whose chosen dialogues are learnt.
        settings: size and training.
        work: folder of such models.
    """
    dialogues = chosen_dialogues(preferences)
    key = json.dumps([asdict(settings), CHAT_TEMPLATE, dialogues])
    folder = work / f"base-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    owner = train_tokenizer([turn["content"] for dialogue in dialogues for turn in dialogue], settings.vocabulary)
    model, facts = train_base(owner, dialogues, settings)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    model.save_pretrained(temporary)
    owner.save_pretrained(temporary)
    (temporary / "training.json").write_text(json.dumps(facts, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    return folder


def small_llama(owner: PreTrainedTokenizerFast, settings: BaseSettings) -> LlamaForCausalLM:
    """Random weights of the settings' size."""
    torch.manual_seed(settings.seed)
    marks = {f"{name}_token_id": owner.convert_tokens_to_ids(mark) for name, mark in MARKS.items()}
    config = LlamaConfig(
        vocab_size=len(owner),
        hidden_size=settings.width,
        intermediate_size=settings.width * 11 // 4,
        num_hidden_layers=settings.layers,
        num_attention_heads=max(2, settings.width // 40),
        max_position_embeddings=2 * settings.row_tokens,
        tie_word_embeddings=True,
        **marks,  # type: ignore[arg-type]
    )
    return LlamaForCausalLM(config)


def train_base(
    owner: PreTrainedTokenizerFast, dialogues: Sequence[list[dict[str, str]]], settings: BaseSettings
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """Next-token training on whole dialogues; returns the model, and what it took."""
    started = time.perf_counter()
    model = small_llama(owner, settings).train()
    rows = _rows(owner, dialogues, settings.row_tokens)
    steps = settings.epochs * -(-len(rows) // settings.batch)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps, pct_start=0.1)
    loss = torch.tensor(float("nan"))
    bar = tqdm(_batches(rows, settings), total=steps, desc="base model", unit="step")
    for batch in bar:
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    parameters = sum(p.numel() for p in model.parameters())
    facts = {"parameters": parameters, "tokens": rows.numel(), "steps": steps}
    return model.eval(), {**facts, "last_loss": loss.item(), "seconds": round(time.perf_counter() - started, 1)}


def _rows(owner: PreTrainedTokenizerFast, dialogues: Sequence[list[dict[str, str]]], width: int) -> Tensor:
    """`[R, width]`: all dialogues in one line, cut; what is left over at the end is dropped."""
    texts = [str(owner.apply_chat_template(dialogue, tokenize=False)) for dialogue in dialogues]
    ids = [i for line in owner(texts, add_special_tokens=False)["input_ids"] for i in line]  # type: ignore[union-attr]
    return torch.tensor(ids[: len(ids) // width * width]).view(-1, width)


def _batches(rows: Tensor, settings: BaseSettings) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for places in torch.randperm(len(rows), generator=generator).split(settings.batch):
            yield rows[places]
