"""The leaderboard: every objective at equal steps and at equal divergence, over the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnipref.comparing.trace import Trace
from omnipref.evaluation.estimates import Estimate, mean_interval


@dataclass(frozen=True)
class Standing:
    """One objective, with Student's 95 % intervals over seeds.

    Args:
        objective: as it prints.
        end: true reward after all steps; None where a seed did not stay finite.
        at_kl: true reward where the path first gets as far as `Board.kl`; None where a seed never does.
        kl: divergence after all steps.
        behind: reward minus that of the first row at equal divergence, paired by seed.
        behind_end: reward minus that of the best at equal steps, paired by seed.
        furthest: the largest divergence that every seed reaches.
        broke: how many seeds did not stay finite.
    """

    objective: str
    end: Estimate | None
    at_kl: Estimate | None
    kl: Estimate | None
    behind: Estimate | None
    behind_end: Estimate | None
    furthest: float
    broke: int


@dataclass(frozen=True)
class Board:
    """Standings, best first at equal divergence, then at equal steps.

    Args:
        kl: the divergence at which objectives are compared, in nats.
        limited_by: the objective that gets least far, which sets `kl` where none was asked for; empty otherwise.
        standings: the rows.
    """

    kl: float
    limited_by: str
    standings: tuple[Standing, ...]


def board(traces: Mapping[str, Sequence[Trace]], kl: float | None = None) -> Board:
    """Rank objectives.

    Args:
        traces: objective to its paths, one per seed, the same seeds for all.
        kl: divergence at which to compare; None: the largest that every path reaches.

    Raises:
        DataError: a single seed.
    """
    furthest = {name: min(path.furthest for path in paths) for name, paths in traces.items()}
    least = min(furthest, key=furthest.__getitem__)
    budget = furthest[least] if kl is None else kl
    far = {name: [path.at_kl(budget) for path in paths] for name, paths in traces.items()}
    ends = {name: [_end(path, "reward") for path in paths] for name, paths in traces.items()}
    first, first_end = _best(far), _best(ends)
    rows = [
        Standing(
            objective=name,
            end=_interval(ends[name]),
            at_kl=_interval(far[name]),
            kl=_interval([_end(path, "kl") for path in paths]),
            behind=_interval(_minus(far[name], far[first])) if first and first != name else None,
            behind_end=_interval(_minus(ends[name], ends[first_end])) if first_end and first_end != name else None,
            furthest=furthest[name],
            broke=sum(path.broke is not None for path in paths),
        )
        for name, paths in traces.items()
    ]
    rows.sort(key=lambda row: (_value(row.at_kl), _value(row.end)), reverse=True)
    return Board(budget, least if kl is None else "", tuple(rows))


Values = Sequence[float | None]


def _end(path: Trace, name: str) -> float | None:
    return None if path.broke is not None else path.values[name][-1]


def _interval(values: Values) -> Estimate | None:
    known = [value for value in values if value is not None]
    return mean_interval(known) if len(known) == len(values) else None


def _minus(one: Values, other: Values) -> Values:
    return [None if a is None or b is None else a - b for a, b in zip(one, other, strict=True)]


def _value(estimate: Estimate | None) -> float:
    return -float("inf") if estimate is None else estimate.value


def _best(values: Mapping[str, Values]) -> str | None:
    """The name of the highest mean, among those whose values are all known."""
    known = {name: _interval(own) for name, own in values.items()}
    best = max(known, key=lambda name: _value(known[name]))
    return None if known[best] is None else best
