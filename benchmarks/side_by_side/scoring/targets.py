"""What was asked for, and whether it was reached; every number is computed from the samples of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from side_by_side.scoring.clock import ratio

Result = Mapping[str, Any]
"""`questions` by name, and `memory` by workload and side."""


@dataclass(frozen=True)
class Target:
    """A number that was asked for.

    Args:
        what: in words.
        bound: the number.
        measure: its value in a result; None where it was not measured.
        at_least: whether more is better.
    """

    what: str
    bound: float
    measure: Callable[[Result], float | None]
    at_least: bool = True

    def judged(self, result: Result) -> dict[str, Any]:
        """The value, and whether it is reached; None where it was not measured."""
        value = self.measure(result)
        better = None if value is None else (value >= self.bound if self.at_least else value <= self.bound)
        return {
            "what": self.what,
            "bound": self.bound,
            "at_least": self.at_least,
            "value": value,
            "reached": better,
        }


def first_point(result: Result, name: str, *sides: str) -> Mapping[str, Any] | None:
    """The only point of a main workload, if it was measured with these sides."""
    question = result["questions"].get(name)
    point = question["points"][0] if question and question["points"] else None
    return point if point and all(point["seconds"].get(side) for side in sides) else None


def times(name: str, over: str, under: str = "forest") -> Callable[[Result], float | None]:
    """Median of one side's seconds over another's."""

    def measure(result: Result) -> float | None:
        point = first_point(result, name, over, under)
        return ratio(point["seconds"], over, under)["median"] if point else None

    return measure


def limit(point: Mapping[str, Any], side: str) -> float:
    """By how much distinct tokens are fewer than those that a side pushes, padding included."""
    return point["pushed"][side] / point["distinct"]["tokens"]


def share(point: Mapping[str, Any], side: str = "loop") -> float:
    """How much of that limit the measured ratio is."""
    return ratio(point["seconds"], side, "forest")["median"] / limit(point, side)


def memory_ratio(result: Result, name: str) -> float | None:
    """Peak of our forest over that of the hand-written loop."""
    found = result["memory"].get(name, {})
    return found["forest"]["rise_mib"] / found["loop"]["rise_mib"] if {"forest", "loop"} <= set(found) else None


def main_points(result: Result, *sides: str) -> Iterator[Mapping[str, Any]]:
    """Points of the workloads without a sweep that were measured with these sides."""
    for name, question in result["questions"].items():
        if not question["axis"] and (point := first_point(result, name, *sides)):
            yield point


def _least_cache(result: Result) -> float | None:
    sides = ("forest", "forest_cached")
    return min((ratio(point["seconds"], *sides)["median"] for point in main_points(result, *sides)), default=None)


def _least_share(result: Result) -> float | None:
    return min((share(point) for point in main_points(result, "loop", "forest")), default=None)


def _most_memory(result: Result) -> float | None:
    return max((value for name in result["memory"] if (value := memory_ratio(result, name)) is not None), default=None)


TARGETS: Sequence[Target] = (
    Target("text pairs: times TRL's speed", 4.0, times("text_pairs", "trl")),
    Target("text pairs: times the hand-written loop's speed", 1.6, times("text_pairs", "loop")),
    Target("HH-RLHF pairs: times the hand-written loop's speed", 1.8, times("hh", "loop")),
    Target("vision-language pairs: times the hand-written loop's speed", 1.8, times("vision_pairs", "loop")),
    Target("lists of 8: times the hand-written loop's speed", 3.6, times("list_8", "loop")),
    Target(
        "tree: cost over that of as many tokens in a plain sequence", 1.25, times("tree", "forest", "sequence"), False
    ),
    Target("reference scores cached: further speed, least of all cases", 1.25, _least_cache),
    Target("peak memory over the hand-written loop's, most of all cases", 0.7, _most_memory, False),
    Target("share of the token-count limit that is reached, least of all cases", 0.8, _least_share),
)


def judged(result: Result) -> list[dict[str, Any]]:
    """All targets."""
    return [target.judged(result) for target in TARGETS]


def utilisation(point: Mapping[str, Any], side: str) -> tuple[float, float] | None:
    """Model-FLOPs utilisation of a side: from the FLOPs of the distinct tokens, and from those of the padded rows.

    The first is what a side gets done that is needed, the second what a loop over padded rows keeps the device busy
    with; a side that shares prompts may exceed 1 in the second. None where the device's peak is not known.
    """
    if not point.get("peak_flops") or not point["seconds"].get(side):
        return None
    seconds = float(np.median(point["seconds"][side]))
    useful = "distinct_cached" if side == "forest_cached" else "distinct"
    done = (point["flops"][useful], point["flops"]["padded"])
    return done[0] / seconds / point["peak_flops"], done[1] / seconds / point["peak_flops"]
