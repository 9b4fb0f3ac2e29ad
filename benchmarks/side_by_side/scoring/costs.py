"""Tokens and FLOPs: what sides do, what the distinct tokens of a tree need, and what devices can do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from omnipref.policies.autoregressive.backbone import blocks_of
from omnipref.policies.autoregressive.encode import EncodedPreference
from omnipref.policies.autoregressive.forest import Tree, grow
from omnipref.policies.autoregressive.last_block import feed_forward
from side_by_side.scoring.peers import longest_paths
from side_by_side.scoring.samples import Sample
from side_by_side.scoring.shapes import encoders

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}
"""Dense bfloat16 TFLOP/s that makers state, by a part of the device's name; the SXM boards of the H100 and H200."""
POLICY, REFERENCE = 3, 1
"""Forward passes' worth of work: a backward pass costs two."""


@dataclass(frozen=True)
class Work:
    """What goes through a model once.

    Args:
        tokens: through the layers.
        pairs: (query, key) pairs of attention that some token needs.
        scored: places through the head.
        pictures: through the encoder.
        last: tokens through the last layer's feed-forward part, whose result matters where a state is read.
    """

    tokens: int = 0
    pairs: int = 0
    scored: int = 0
    pictures: int = 0
    last: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def tree_of(encoded: EncodedPreference) -> Tree:
    """The distinct tokens of a preference."""
    return grow([case.identity for case in encoded.cases])


def distinct(samples: Iterable[Sample]) -> Work:
    """The least that exact scores need: every distinct token once, every place that predicts something once."""
    return sum((_distinct(sample.encoded) for sample in samples), Work())


def _distinct(encoded: EncodedPreference) -> Work:
    tree = tree_of(encoded)
    pairs = sum((run.end * (run.end + 1) - run.start * (run.start + 1)) // 2 for run in tree.runs)
    items = {item.key for case in encoded.cases for item in case.prompt.items}
    scored = len(scored_tokens(encoded, tree))
    return Work(tree.size, pairs, scored, len(items), scored)


def scored_tokens(encoded: EncodedPreference, tree: Tree) -> set[tuple[int, int]]:
    """The tree's tokens (run, place in it) that some case scores."""
    found = set()
    for case, path in zip(encoded.cases, tree.paths, strict=True):
        for run in path:
            own = tree.runs[run]
            found |= {(run, place) for place in range(max(own.start, len(case.prompt.ids)), min(own.end, case.length))}
    return found


def unrolled(encoded: EncodedPreference) -> tuple[np.ndarray, int]:
    """The distinct tokens of a preference in the order of its runs, and how many of them are scored."""
    tree = tree_of(encoded)
    ids = [encoded.cases[run.case].ids[run.start : run.end] for run in tree.runs]
    return np.concatenate(ids), len(scored_tokens(encoded, tree))


def padded(batches: Iterable[Sequence[Sample]]) -> Work:
    """What the loop needs: a row per path, each batch padded to its longest; scored places without padding."""
    total = Work()
    for samples in batches:
        rows = [row for sample in samples for row in longest_paths(sample.encoded.cases)]
        width = max(row.length for row in rows)
        scored = sum(len(case.response) for sample in samples for case in sample.encoded.cases)
        pictures = sum(len(row.prompt.items) for row in rows)
        tokens = len(rows) * width
        total += Work(tokens, tokens * (width + 1) // 2, scored, pictures, tokens)
    return total


@dataclass(frozen=True)
class Meter:
    """FLOPs of a model's parts.

    Args:
        token: of the layers without the last one's feed-forward part, per token.
        pair: of attention, per pair.
        place: of the head, per scored place.
        picture: of the encoder, per picture; frozen, so it only runs forward.
        last: of the last layer's feed-forward part, per token.
    """

    token: int
    pair: int
    place: int
    picture: int = 0
    last: int = 0

    @staticmethod
    def of(model: nn.Module, patches: int = 0) -> Meter:
        """Count the weights of a model.

        Args:
            model: with a head.
            patches: of a picture, as the encoder sees it.
        """
        config = model.config.get_text_config()  # type: ignore[union-attr,operator]
        encoding = sum(_weights(part) for part in encoders(model).values())
        body = _weights(model.model) - model.get_input_embeddings().weight.numel() - encoding  # type: ignore[arg-type,operator]
        heads = config.num_attention_heads * getattr(
            config, "head_dim", config.hidden_size // config.num_attention_heads
        )
        head = config.hidden_size * config.vocab_size
        last = sum(map(_weights, feed_forward(blocks_of(model)[-1])))
        pair = 4 * heads * config.num_hidden_layers
        return Meter(2 * (body - last), pair, 2 * head, 2 * encoding * patches, 2 * last)

    def step(self, work: Work, *, reference: bool = True, shared: bool = False) -> int:
        """FLOPs of a step: policy forward and backward, and the reference's forward pass.

        Args:
            work: what goes through each model.
            reference: whether the reference runs.
            shared: whether both take the same features of pictures, whose frozen encoders are equal.
        """
        text = work.tokens * self.token + work.last * self.last + work.pairs * self.pair + work.scored * self.place
        passes = POLICY + REFERENCE * reference
        looks = 1 if shared else 1 + reference
        return passes * text + looks * work.pictures * self.picture


def _weights(module: nn.Module) -> int:
    """Weights of its matrices."""
    return sum(weight.numel() for weight in module.parameters() if weight.ndim > 1)


def peak_flops(device: str, dtype: torch.dtype) -> float | None:
    """FLOP/s that the device's maker states for bfloat16; None for others."""
    if device == "cpu" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name()
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in name), None)
