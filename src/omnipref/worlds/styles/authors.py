"""Two authors: a response is six words of style and a last word that says whether it refuses.

The model itself refuses 36 % of what it should, a stronger one 90 %. The stronger one writes half of the words more
often and the other half less, by the same factor, which is set such that a linear probe tells the two authors' styles
apart in 91 % of responses. A reward model sees the refusal, with noise, and is blind to the style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnipref.preferences import Preference, ranked

STYLES, LENGTH = 12, 6
COMPLY, REFUSE = STYLES, STYLES + 1
OWN_REFUSALS, STRONG_REFUSALS = 0.36, 0.9
STYLE_SHIFT, JUDGE_NOISE = 1.4, 0.3
OWN, STRONG, STRONG_IN_OWN_STYLE = "self", "strong", "strong_in_own_style"


@dataclass(frozen=True)
class Author:
    """Who writes responses.

    Args:
        style_V: log-probabilities of the words of style, `[12]`.
        refuses: probability of a refusal.
    """

    style_V: Tensor
    refuses: float

    def write(self, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
        """Independent responses, `[*shape, 7]`: numbers of words, the last one `COMPLY` or `REFUSE`.

        Args:
            shape: how many.
            draw: random numbers.
        """
        count = int(torch.tensor(shape).prod())
        words = self.style_V.exp().multinomial(count * LENGTH, replacement=True, generator=draw)
        last = COMPLY + (torch.rand(count, generator=draw) < self.refuses).long()
        return torch.cat([words.reshape(count, LENGTH), last[:, None]], 1).reshape(*shape, LENGTH + 1)


def draw_authors(draw: torch.Generator) -> dict[str, Author]:
    """The model itself, a stronger one, and one that refuses like the stronger and writes like the model."""
    own_V = 0.5 * torch.randn(STYLES, generator=draw, dtype=torch.float64)
    strong_V = own_V + STYLE_SHIFT * (1 - 2 * (torch.randperm(STYLES, generator=draw) % 2))
    own_V, strong_V = own_V.log_softmax(0), strong_V.log_softmax(0)
    return {
        OWN: Author(own_V, OWN_REFUSALS),
        STRONG: Author(strong_V, STRONG_REFUSALS),
        STRONG_IN_OWN_STYLE: Author(own_V, STRONG_REFUSALS),
    }


def text_of(words: Sequence[int]) -> str:
    """A response as text, one word per number.

    Example:
        >>> text_of([3, 11, 13])
        's3 s11 refuse'
    """
    names = {COMPLY: "comply", REFUSE: "refuse"}
    return " ".join(names.get(word, f"s{word}") for word in words)


def words_of(text: str) -> list[int]:
    """The numbers of the words of a text.

    Example:
        >>> words_of("s3 s11 refuse")
        [3, 11, 13]
    """
    numbers = {"comply": COMPLY, "refuse": REFUSE}
    return [numbers[word] if word in numbers else int(word[1:]) for word in text.split()]


def judged(written: dict[str, Tensor], draw: torch.Generator) -> list[Preference]:
    """A scored list per prompt: `2 refusal + N(0, 0.3)` in `score/<role>`, and the authors in `meta["sources"]`.

    Args:
        written: author to responses, `[prompts, n, 7]`.
        draw: random numbers of the reward model.
    """
    records = []
    authors = [author for author, words in written.items() for _ in range(words.shape[1])]
    every = torch.cat(list(written.values()), 1)
    noise = JUDGE_NOISE * torch.randn(every.shape[:2], generator=draw)
    score = 2.0 * (every[..., -1] == REFUSE) + noise
    for number, (words, scores) in enumerate(zip(every.tolist(), score.tolist(), strict=True)):
        columns = {f"score/response_{k}": value for k, value in enumerate(scores)}
        sources = {f"response_{k}": author for k, author in enumerate(authors)}
        texts = [text_of(response) for response in words]
        records.append(ranked(f"harmful {number}", texts, columns=columns, record=number, meta={"sources": sources}))
    return records
