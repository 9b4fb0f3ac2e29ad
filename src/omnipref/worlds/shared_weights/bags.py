"""Bags of words: does knowing how much of a text is missing help to know which of two texts is better?

A text is ten of 60 words, 20 of which are key words with a value. The policy writes words one by one, by logits `E_v·w`
of embeddings `E` that a head shares: it is to tell from the mean embedding of a text how many of its key words are
gone. In one world all values are positive, so that more key content is better; in another they have both signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnipref.objectives import parse_objective
from omnipref.scores import Scores
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.scorers.cases import minimised, scored

WORDS, KEYS, LENGTH, WIDTH, FRESH = 60, 20, 10, 6, 2000
LEVELS, MOST = 3, 0.8


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text; `choice` reads the roles `degree`, `wrong_degree_1` and `wrong_degree_2`.
        pairs: how many.
        signed: values of both signs, so that the amount of key content says nothing of quality.
        other_words: words without a value stand for the key words in the degraded texts.
    """

    objective: str
    pairs: int = 30
    signed: bool = False
    other_words: bool = False


@dataclass(frozen=True)
class Bags:
    """Pairs of texts.

    Args:
        chosen_PW: the better texts, numbers of words.
        rejected_PW: the worse ones.
    """

    chosen_PW: Tensor
    rejected_PW: Tensor


class Embedded(nn.Module):
    """Embeddings of words, the direction that makes a policy of them, and a head of levels; both start at zero.

    Args:
        embedding_VD: `E`, `[60, 6]`.
    """

    def __init__(self, embedding_VD: Tensor):
        super().__init__()
        self.embedding_VD = nn.Parameter(embedding_VD)
        self.direction_D = nn.Parameter(torch.zeros(WIDTH))
        self.head = nn.Linear(WIDTH, LEVELS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self) -> Tensor:
        """Log-probability of each word, `[V]`; that of the reference, before training, is even."""
        return (self.embedding_VD @ self.direction_D).log_softmax(0)

    def levels(self, text_PW: Tensor, left_PW: Tensor) -> Tensor:
        """Logits of how much is missing, `[P, C]`.

        Args:
            text_PW: whole texts.
            left_PW: bool, the words that are still there.
        """
        weight_PW1 = left_PW[:, :, None] / left_PW.sum(1)[:, None, None]
        return self.head((weight_PW1 * self.embedding_VD[text_PW]).sum(1))


def draw_pairs(count: int, value_V: Tensor, noise: float, draw: torch.Generator) -> Bags:
    """Pairs of texts with at least two words of either kind that may be removed, the better one first.

    Args:
        count: how many.
        value_V: of each word; the quality of a text is the sum over its words.
        noise: standard deviation of the labels' noise, of each text.
        draw: random numbers.
    """
    texts = torch.randint(WORDS, (16 * count, LENGTH), generator=draw)
    enough = [((texts >= low) & (texts < low + KEYS)).sum(1) >= 2 for low in (0, KEYS)]
    two_2PW = texts[enough[0] & enough[1]][: 2 * count].reshape(2, count, LENGTH)
    quality_2P = value_V[two_2PW].sum(2)
    quality_2P = quality_2P + noise * torch.randn(quality_2P.shape, generator=draw)
    first_P1 = (quality_2P[0] > quality_2P[1])[:, None]
    return Bags(torch.where(first_P1, *two_2PW), torch.where(first_P1, *two_2PW.flip(0)))


def degraded(text_PW: Tensor, low: int, level_P: Tensor, draw: torch.Generator) -> Tensor:
    """Which words are left at each level, `[P, W]` bool: some of those from `low` to `low + 20` are removed.

    Args:
        text_PW: texts.
        low: the first word that may be removed.
        level_P: 0, 1 or 2.
        draw: random numbers.
    """
    key_PW = (text_PW >= low) & (text_PW < low + KEYS)
    gone_P = (MOST * level_P / (LEVELS - 1) * key_PW.sum(1) + 0.5).floor()
    order_PW = torch.where(key_PW, torch.rand(key_PW.shape, generator=draw), 2.0).argsort(1).argsort(1)
    return ~(key_PW & (order_PW < gone_P[:, None]))


def run(
    arm: str, seed: int, *, arms: Mapping[str, Mapping[str, Any]], steps: int = 200, rate: float = 0.02
) -> dict[str, float]:
    """Train with Adam on all pairs at once, one level drawn for each pair and update.

    `accuracy` is the share of new pairs, labelled without noise, that the implicit reward orders right; `kl` the
    divergence from the reference, in nats per text; `told` how often the head names the level of a degraded text.

    Args:
        arm: one of `arms`.
        seed: of everything.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: of Adam.
    """
    plan, draw = plan_of(Arm, arms, arm), torch.Generator().manual_seed(seed)
    value_V = torch.randn(WORDS, generator=draw) * (torch.arange(WORDS) < KEYS)
    value_V = value_V if plan.signed else value_V.abs()
    model = Embedded(torch.randn(WORDS, WIDTH, generator=draw))
    fresh, known = draw_pairs(FRESH, value_V, 0.0, draw), draw_pairs(plan.pairs, value_V, 1.0, draw)
    low, objective = KEYS if plan.other_words else 0, parse_objective(plan.objective)

    def scores() -> Scores:
        level_P = torch.randint(LEVELS, (plan.pairs,), generator=draw)
        left_PW = degraded(known.chosen_PW, low, level_P, draw)
        return _scored(model, known, level_P, left_PW)

    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in minimised(scores, lambda progress: objective, optimizer, steps):
        pass
    return _measured(model, fresh, low, draw)


def _scored(model: Embedded, pairs: Bags, level_P: Tensor, left_PW: Tensor) -> Scores:
    """Log-ratios of both texts, and the head's logits, the right level first."""
    ratio_V = model() + torch.tensor(float(WORDS)).log()
    order_PC = (level_P[:, None] + torch.arange(LEVELS)) % LEVELS
    answers = model.levels(pairs.chosen_PW, left_PW).gather(1, order_PC).unbind(1)
    return scored(
        {
            "chosen": ratio_V[pairs.chosen_PW].sum(1),
            "rejected": ratio_V[pairs.rejected_PW].sum(1),
            "degree": answers[0],
            **{f"wrong_degree_{k}": answers[k] for k in range(1, LEVELS)},
        }
    )


def _measured(model: Embedded, fresh: Bags, low: int, draw: torch.Generator) -> dict[str, float]:
    with torch.no_grad():
        logp_V = model()
        margin_P = logp_V[fresh.chosen_PW].sum(1) - logp_V[fresh.rejected_PW].sum(1)
        level_P = torch.randint(LEVELS, (FRESH,), generator=draw)
        logits_PC = model.levels(fresh.chosen_PW, degraded(fresh.chosen_PW, low, level_P, draw))
        divergence = (logp_V.exp() * (logp_V + torch.tensor(float(WORDS)).log())).sum()
    return {
        "accuracy": (margin_P > 0).float().mean().item(),
        "kl": LENGTH * divergence.item(),
        "told": (logits_PC.argmax(1) == level_P).float().mean().item(),
    }
