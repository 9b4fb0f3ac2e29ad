"""Token forests: cases that share a prefix share its tokens.

The cases of a preference form a tree of token runs; branches see their ancestors only, and a token's position is its
depth. A pair costs P + 2R tokens instead of 2(P + R), a list of K costs P + KR, a tree of steps costs its nodes.
Several trees can stand in one row: they do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Run:
    """A stretch of tokens without a branch: tokens `start ... end-1` of case `case`, below run `parent` (-1: none)."""

    parent: int
    case: int
    start: int
    end: int


@dataclass(frozen=True)
class Tree:
    """The runs of some sequences, parents first, and the runs on each sequence's path from the root."""

    runs: tuple[Run, ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of distinct tokens."""
        return sum(run.end - run.start for run in self.runs)


def grow(sequences: Sequence[np.ndarray]) -> Tree:
    """Merge sequences by their common prefixes.

    Example:
        >>> tree = grow([np.array([1, 2, 3]), np.array([1, 2, 4, 5])])
        >>> tree.size, tree.paths
        (5, ((0, 1), (0, 2)))
    """
    runs: list[Run] = []
    paths: list[list[int]] = [[] for _ in sequences]

    def branch(members: list[int], start: int, parent: int) -> None:
        groups: dict[int, list[int]] = {}
        for case in members:
            if len(sequences[case]) > start:
                groups.setdefault(int(sequences[case][start]), []).append(case)
        for group in groups.values():
            end = start + _common([sequences[case][start:] for case in group])
            runs.append(Run(parent, group[0], start, end))
            number = len(runs) - 1
            for case in group:
                paths[case].append(number)
            branch(group, end, number)

    branch(list(range(len(sequences))), 0, -1)
    return Tree(tuple(runs), tuple(tuple(path) for path in paths))


def _common(tails: Sequence[np.ndarray]) -> int:
    length = min(len(tail) for tail in tails)
    for tail in tails[1:]:
        different = np.flatnonzero(tail[:length] != tails[0][:length])
        length = int(different[0]) if len(different) else length
    return length


@dataclass(frozen=True)
class Span:
    """Where a run stands: columns `start ... stop-1` of its row, and the runs of the row on its path, itself last."""

    start: int
    stop: int
    path: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where the tokens of B rows stand, and where each case is scored.

    Args:
        case_BT: the case that a token is copied from, -1 for padding.
        depth_BT: its index in that case, which is also its position.
        run_BT: number of its run within the row; padding has a run of its own.
        ancestor_BGG: whether run g (last axis) is on the path to a run, itself included.
        predictor_NU: flat index (row * T + column) of the token that predicts each response token.
        own_NU: flat index of the response token itself.
        target_NU: the response token's index in its case.
        length_N: response tokens of each case.
        spans: the runs of each row, in its order.
        count_BT: cases that contain the token, `[B, T]`; 0 for padding.
    """

    case_BT: np.ndarray
    depth_BT: np.ndarray
    run_BT: np.ndarray
    ancestor_BGG: np.ndarray
    predictor_NU: np.ndarray
    own_NU: np.ndarray
    target_NU: np.ndarray
    length_N: np.ndarray
    spans: tuple[tuple[Span, ...], ...]
    count_BT: np.ndarray


def lay_out(trees: Sequence[Tree], prompts: Sequence[int], lengths: Sequence[int], row_tokens: int = 0) -> Layout:
    """Place trees in rows.

    Args:
        trees: one per preference; their cases are numbered on, tree after tree.
        prompts: prompt length of every case.
        lengths: whole length of every case.
        row_tokens: fill rows with several trees up to this many tokens, largest first; 0 gives each tree its own row.
    """
    rows = _fill([tree.size for tree in trees], row_tokens)
    first_case = np.cumsum([0, *(len(tree.paths) for tree in trees)])
    width = max(sum(trees[number].size for number in row) for row in rows)
    depth_of_runs = max(sum(len(trees[number].runs) for number in row) for row in rows) + 1
    case_BT = np.full((len(rows), width), -1)
    depth_BT = np.zeros_like(case_BT)
    run_BT = np.full_like(case_BT, depth_of_runs - 1)
    ancestor = np.repeat(np.eye(depth_of_runs, dtype=bool)[None], len(rows), 0)
    flat: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(lengths)
    spans: list[list[Span]] = [[] for _ in rows]
    for b, row in enumerate(rows):
        column = run_number = 0
        for number in row:
            tree, places = trees[number], []
            for run in tree.runs:
                span = slice(column, column + run.end - run.start)
                case_BT[b, span] = first_case[number] + run.case
                depth_BT[b, span] = np.arange(run.start, run.end)
                run_BT[b, span] = run_number + len(places)
                path: tuple[int, ...] = ()
                if run.parent >= 0:
                    ancestor[b, run_number + len(places)] |= ancestor[b, run_number + run.parent]
                    path = spans[b][run_number + run.parent].path
                spans[b].append(Span(span.start, span.stop, (*path, run_number + len(places))))
                places.append(b * width + np.arange(span.start, span.stop))
                column = span.stop
            for local, path in enumerate(tree.paths):
                flat[first_case[number] + local] = np.concatenate([places[run] for run in path])
            run_number += len(places)
    count_BT = np.bincount(np.concatenate(flat), minlength=case_BT.size).reshape(case_BT.shape)
    scored = _scored(flat, prompts, lengths)
    return Layout(case_BT, depth_BT, run_BT, ancestor, *scored, tuple(map(tuple, spans)), count_BT)


def row_tokens_of(sizes: Sequence[int], row_tokens: int = 0) -> int:
    """Tokens of all rows, padding included, that trees of these sizes take.

    Args:
        sizes: distinct tokens of each tree.
        row_tokens: see `lay_out`.

    Example:
        >>> row_tokens_of([5, 3, 2]), row_tokens_of([5, 3, 2], row_tokens=5), row_tokens_of([5, 3, 2], row_tokens=100)
        (15, 10, 10)
    """
    rows = _fill(sizes, row_tokens)
    return len(rows) * max(sum(sizes[number] for number in row) for row in rows)


def _fill(sizes: Sequence[int], row_tokens: int) -> list[list[int]]:
    if not row_tokens:
        return [[number] for number in range(len(sizes))]
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        place = next((r for r, left in enumerate(room) if left >= sizes[number]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(max(row_tokens, sizes[number]))
        rows[place].append(number)
        room[place] -= sizes[number]
    return rows


def _scored(
    flat: Sequence[np.ndarray], prompts: Sequence[int], lengths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A token is scored by the state of the token before it on its own path; a first token has none and is left out."""
    starts = [max(1, prompt) for prompt in prompts]
    length_N = np.array([length - start for start, length in zip(starts, lengths, strict=True)])
    units = int(length_N.max())
    predictor = np.zeros((len(flat), units), dtype=np.int64)
    own, target = np.zeros_like(predictor), np.zeros_like(predictor)
    for n, (path, start, length) in enumerate(zip(flat, starts, length_N, strict=True)):
        predictor[n, :length] = path[start - 1 : start - 1 + length]
        own[n, :length] = path[start : start + length]
        target[n, :length] = np.arange(start, start + length)
    return predictor, own, target, length_N
