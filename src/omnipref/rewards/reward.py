"""Rewards: one number per case, higher is better; they add and scale like numbers, as objectives do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from omnipref.errors import DataError
from omnipref.preferences import Case

Score = Callable[[Sequence[Case]], Sequence[float]]
"""One number per case; NaN where there is none, whose reason the reward has reported itself."""


@dataclass(frozen=True)
class RewardTerm:
    """One weighted summand of a reward."""

    name: str
    score: Score
    weight: float = 1.0


@dataclass(frozen=True)
class Reward:
    """A weighted sum of terms: r(x, y) = Σ_i w_i r_i(x, y).

    A case that any term cannot score has no reward (NaN).

    Example:
        >>> from omnipref.preferences import Case
        >>> reward = length() - 2 * count("fork")
        >>> reward([Case.raw("q", "a plate"), Case.raw("q", "a plate and a fork")])
        [2.0, 3.0]
    """

    terms: tuple[RewardTerm, ...]

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        """The reward of each case.

        Raises:
            ValueError: a term returned another number of scores than there are cases.
            DataError: a score is no number, such as a judge's text; names the term and what it said.
        """
        total = [0.0] * len(cases)
        for term in self.terms:
            scores = term.score(cases)
            if len(scores) != len(cases):
                raise ValueError(f"found {len(scores)} scores from `{term.name}`; expected {len(cases)}, one per case")
            total = [old + term.weight * _number(term.name, score) for old, score in zip(total, scores, strict=True)]
        return total

    def __add__(self, other: Reward) -> Reward:
        return Reward(self.terms + other.terms)

    def __mul__(self, factor: float) -> Reward:
        return Reward(tuple(replace(term, weight=term.weight * factor) for term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Reward:
        return self * -1.0

    def __sub__(self, other: Reward) -> Reward:
        return self + -other


def _number(name: str, score: object) -> float:
    if isinstance(score, str) or not hasattr(score, "__float__"):
        raise DataError(
            f"{score!r} from the judge `{name}`",
            "a number",
            cure="return a number, or NaN where there is none; `server_reward` reads numbers from replies",
            field="score",
        )
    return float(score)  # type: ignore[arg-type]


def rule(score: Callable[[Case], float], name: str = "rule") -> Reward:
    """A function of one case as a reward.

    Example:
        >>> from omnipref.preferences import Case
        >>> rule(lambda case: case.text.endswith("."))([Case.raw("q", "Yes."), Case.raw("q", "Yes")])
        [1.0, 0.0]
    """
    return Reward((RewardTerm(name, lambda cases: [_number(name, score(case)) for case in cases]),))


def length() -> Reward:
    """The number of words of the response."""
    return rule(lambda case: len(case.text.split()), "length")


def count(pattern: str) -> Reward:
    """How often a regular expression matches the response, upper and lower case alike.

    Raises:
        re.error: the pattern is no regular expression.
    """
    compiled = re.compile(pattern, re.IGNORECASE)
    return rule(lambda case: sum(1 for _ in compiled.finditer(case.text)), "count")
