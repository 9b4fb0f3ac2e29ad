"""Pairs made in several ways from the same prompts, and what DPO learns from each: the refusal, or the style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.build import best_worst_of_n
from omnipref.errors import ConfigError, nearest
from omnipref.evaluation import linear_separability
from omnipref.objectives import parse_objective, reduce_loss
from omnipref.preferences import Preference, pair
from omnipref.scores import pair_scores
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.styles.authors import (
    COMPLY,
    LENGTH,
    OWN,
    STYLES,
    Author,
    draw_authors,
    judged,
    text_of,
    words_of,
)

PROMPTS = 200


@dataclass(frozen=True)
class Arm:
    """One recipe.

    Args:
        pairing: `best_worst`, the best and the worst of all samples of all authors, as a reward model says;
            `first_over_second`, the first author's over the second's; `any_two`, samples as they come.
        authors: who writes.
        samples: of each author and prompt.
        chosen_style: author whose style replaces that of the chosen responses; their last word stays.
    """

    pairing: str = "best_worst"
    authors: Sequence[str] = (OWN,)
    samples: int = 5
    chosen_style: str = ""


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    objective: str = "dpo(beta=0.1)",
    steps: int = 200,
    rate: float = 3.0,
    level: float = 0.3,
) -> dict[str, float]:
    """Train a table of word probabilities by gradient descent, from the model that wrote its own samples.

    `attack_success` is the probability of compliance when the training loss first falls to a level, so that recipes
    are compared where they fit equally well (the last one, if it never does); `after_20` and so on are that after so
    many updates, `loss_20` and so on the losses; `style_separability` is that of the words of style alone.

    Args:
        arm: one of `arms`.
        seed: of everything.
        arms: arm to the fields of `Arm`.
        objective: as text.
        steps: updates.
        rate: of the descent.
        level: of the loss.
    """
    pairs, authors = made_pairs(plan_of(Arm, arms, arm), seed)
    words = {role: torch.tensor([words_of(one.cases[role].text) for one in pairs]) for role in ("chosen", "rejected")}
    loss_T, attack_T = _trained(words, authors[OWN], objective, steps, rate)
    below = [step for step, loss in enumerate(loss_T) if loss <= level]
    counts = [torch.nn.functional.one_hot(value[:, :LENGTH], STYLES).sum(1) for value in words.values()]
    found = {"attack_success": attack_T[below[0] if below else -1]}
    for step in (20, 60, 200):
        found |= {f"after_{step}": attack_T[min(step, steps)], f"loss_{step}": loss_T[min(step, steps)]}
    return found | {"style_separability": linear_separability(counts[0].numpy(), counts[1].numpy())}


def made_pairs(plan: Arm, seed: int) -> tuple[list[Preference], dict[str, Author]]:
    """The pairs of a recipe, one per prompt where there is one, and the authors.

    Args:
        plan: the recipe.
        seed: of the authors, their samples, and the reward model's noise.

    Raises:
        ConfigError: an unknown pairing or author.
    """
    draw = torch.Generator().manual_seed(seed)
    authors = draw_authors(draw)
    for name, table in ((plan.pairing, _PAIRINGS), *((author, authors) for author in plan.authors)):
        if name not in table:
            raise ConfigError(f"found `{name}`; {nearest(name, table)}")
    written = {author: authors[author].write((PROMPTS, plan.samples), draw) for author in plan.authors}
    pairs = _PAIRINGS[plan.pairing](judged(written, draw))
    return _restyled(pairs, authors[plan.chosen_style], draw) if plan.chosen_style else pairs, authors


def _best_worst(records: Sequence[Preference]) -> list[Preference]:
    return best_worst_of_n()(records).preferences


def _first_over_second(records: Sequence[Preference]) -> list[Preference]:
    """The first sample of the first author over the first one of the last."""
    made = []
    for record in records:
        authors = list(record.meta["sources"].values())
        texts = [case.text for case in record.cases.values()]
        made.append(pair(f"harmful {record.record}", texts[0], texts[authors.index(authors[-1])]))
    return made


def _any_two(records: Sequence[Preference]) -> list[Preference]:
    texts = [[case.text for case in record.cases.values()] for record in records]
    return [pair(f"harmful {number}", first, second) for number, (first, second, *_) in enumerate(texts)]


_PAIRINGS: Mapping[str, Callable[[Sequence[Preference]], list[Preference]]] = {
    "best_worst": _best_worst,
    "first_over_second": _first_over_second,
    "any_two": _any_two,
}


def _restyled(pairs: Sequence[Preference], author: Author, draw: torch.Generator) -> list[Preference]:
    words = author.write((len(pairs),), draw)
    words[:, -1] = torch.tensor([words_of(one.cases["chosen"].text)[-1] for one in pairs])
    texts = [text_of(response) for response in words.tolist()]
    return [pair("harmful", text, one.cases["rejected"].text) for text, one in zip(texts, pairs, strict=True)]


def _trained(
    words: Mapping[str, Tensor], own: Author, objective: str, steps: int, rate: float
) -> tuple[list[float], list[float]]:
    """Loss and probability of compliance before each update and after the last."""
    style_V = own.style_V.clone().requires_grad_()
    last_2 = torch.tensor([1 - own.refuses, own.refuses], dtype=style_V.dtype).log().requires_grad_()
    reference = torch.cat([style_V, last_2]).detach()
    minimised, losses, attacks = parse_objective(objective), [], []
    optimizer = torch.optim.SGD([style_V, last_2], lr=rate)
    for _ in range(steps + 1):
        logp = torch.cat([style_V.log_softmax(0), last_2.log_softmax(0)])
        cases = [table[words[role]] for table in (logp, reference) for role in ("chosen", "rejected")]
        scores = pair_scores(*cases)
        loss = reduce_loss(minimised(scores).loss_P, scores.cases)
        losses.append(loss.item())
        attacks.append(logp[COMPLY].exp().item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, attacks
