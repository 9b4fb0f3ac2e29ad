"""Judges compare two cases: order swap against position bias, and rewards made from comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

from omnipref.policies.contexts import context_key
from omnipref.preferences import Case
from omnipref.rewards.reward import Reward, RewardTerm


class Judge(Protocol):
    """Says which of two cases is better."""

    def __call__(self, pairs: Sequence[tuple[Case, Case]]) -> list[float]:
        """+1 where the first case is better, -1 where the second is, 0 for a tie, NaN for no verdict."""
        ...


def both_orders(judge: Judge) -> Judge:
    """Ask in both orders; a preference counts only where the two verdicts agree, all else is a tie.

    A missing verdict in either order leaves none.
    """

    def judged(pairs: Sequence[tuple[Case, Case]]) -> list[float]:
        asked = [*pairs, *((second, first) for first, second in pairs)]
        verdicts = judge(asked)
        forth, back = verdicts[: len(pairs)], verdicts[len(pairs) :]
        return [_agreed(one, -other) for one, other in zip(forth, back, strict=True)]

    return judged


def _agreed(one: float, other: float) -> float:
    if math.isnan(one) or math.isnan(other):
        return math.nan
    return one if one == other else 0.0


def win_rate(judge: Judge) -> Reward:
    """Mean verdict of a case against the other cases of its context, from -1 (loses all) to 1 (wins all).

    Comparisons without verdict are left out; a case with none left, or alone in its context, has no reward (NaN).
    """

    def score(cases: Sequence[Case]) -> list[float]:
        groups: dict[str, list[int]] = {}
        for place, case in enumerate(cases):
            groups.setdefault(context_key(case.context), []).append(place)
        duels = [duel for group in groups.values() for duel in itertools.combinations(group, 2)]
        won: list[list[float]] = [[] for _ in cases]
        verdicts = judge([(cases[first], cases[second]) for first, second in duels])
        for (first, second), verdict in zip(duels, verdicts, strict=True):
            if not math.isnan(verdict):
                won[first].append(verdict)
                won[second].append(-verdict)
        return [sum(values) / len(values) if values else math.nan for values in won]

    return Reward((RewardTerm("win_rate", score),))
