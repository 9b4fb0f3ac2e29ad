"""Answers of eight words to prompts of six kinds; every word is worth something, and judges see that through noise.

The policy is a table of 30 words under each of 6 contexts, so that its divergence from the reference and its true
reward are exact. An answer's true reward is three times the mean worth of its words; worth is counted from the mean
under the reference, whose own reward is therefore 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnipref.worlds.bandits.policies import Tabular, divergence, expected, sample

CONTEXTS, WORDS, LENGTH, PROMPTS = 6, 30, 8, 60
SCALE = 3.0


@dataclass(frozen=True)
class Answers:
    """One draw of the world: P prompts with K answers of U words each.

    Args:
        reference_XV: log-probabilities of each word under each context.
        worth_XV: of each word, with mean 0 under the reference.
        context_P: kind of each prompt.
        words_PKU: answers of the reference.
        observed_PK: their true rewards plus noise.
    """

    reference_XV: Tensor
    worth_XV: Tensor
    context_P: Tensor
    words_PKU: Tensor
    observed_PK: Tensor

    def policy(self) -> Tabular:
        """A new policy at the reference."""
        return Tabular(self.reference_XV)

    def rows(self, words_PKU: Tensor) -> Tensor:
        """The context of each word of answers `[P, K, U]`, prompt after prompt: `[P·K, U]`."""
        length = words_PKU.shape[2]
        return self.context_P[:, None, None].expand_as(words_PKU).reshape(-1, length)

    def place(self, logp_XV: Tensor) -> tuple[float, float]:
        """Where a policy stands: its divergence from the reference in nats per word, and its true reward.

        Args:
            logp_XV: its log-probabilities.
        """
        return divergence(logp_XV, self.reference_XV), SCALE * expected(logp_XV, self.worth_XV)


def draw_world(seed: int, answers: int = 5, noise: float = 0.5) -> Answers:
    """A world, its prompts and answers of the reference to them.

    Logits of the reference and worth of words are standard normal; a word is worth the same in every context, but for
    the mean.

    Args:
        seed: of everything.
        answers: per prompt; the first of them do not depend on how many there are.
        noise: standard deviation of what judges see around the true reward.
    """
    draw = torch.Generator().manual_seed(seed)
    reference_XV = torch.randn(CONTEXTS, WORDS, generator=draw, dtype=torch.float64).log_softmax(1)
    worth_V = torch.randn(WORDS, generator=draw, dtype=torch.float64)
    worth_XV = worth_V - (reference_XV.exp() * worth_V).sum(1, keepdim=True)
    context_P = torch.arange(PROMPTS) % CONTEXTS
    words, seen = [], []
    for _ in range(answers):
        words_PU = sample(reference_XV, context_P, draw, LENGTH)
        true_P = SCALE * worth_XV[context_P[:, None], words_PU].mean(1)
        words.append(words_PU)
        seen.append(true_P + noise * torch.randn(PROMPTS, generator=draw, dtype=torch.float64))
    return Answers(reference_XV, worth_XV, context_P, torch.stack(words, 1), torch.stack(seen, 1))
