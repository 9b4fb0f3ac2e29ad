"""A batch in parts of limited size: which preferences go together, and how their scores become one batch again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from omnipref.policies.policy import Batch
from omnipref.scores import Cases, Scores


@dataclass(frozen=True)
class Part:
    """A part of a batch and its share of the preferences; 0 for one that only keeps step with other processes."""

    batch: Batch
    share: float


def divide(tokens: Callable[[Sequence[Any]], int], encoded: Sequence[Any], limit: int) -> list[list[int]]:
    """Groups of records, as few and as full as first-fit makes them, none over the limit unless a record alone is.

    Args:
        tokens: what records take as one batch, padding included.
        encoded: records.
        limit: most tokens of a group.

    Returns:
        Indices of each group's records, in the order of `encoded`.

    Example:
        >>> divide(sum, [5, 3, 4, 2], limit=7)
        [[0, 3], [1, 2]]
    """
    groups: list[list[int]] = []
    sizes = [tokens([each]) for each in encoded]
    for index in sorted(range(len(encoded)), key=lambda i: -sizes[i]):
        fits = (group for group in groups if tokens([encoded[i] for i in (*group, index)]) <= limit)
        group = next(fits, None)
        if group is None:
            groups.append(group := [])
        group.append(index)
    return [sorted(group) for group in groups]


def join(parts: Sequence[Scores]) -> Scores:
    """One batch from the scores of its parts: `[N, U]` are padded to the longest, cases and preferences counted on.

    Args:
        parts: scores of disjoint preferences, all with a reference or none, with the same extras.
    """
    if len(parts) == 1:
        return parts[0]
    units = max(part.logp.shape[1] for part in parts)

    def cat(values: Sequence[Tensor | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        if len(given) < len(parts):
            return None
        return torch.cat([pad(v, [0, 0] * (v.dim() - 2) + [0, units - v.shape[1]]) for v in given])

    whole = {name: cat([getattr(part, name) for part in parts]) for name in ("logp", "mask", "ref_logp", "segment")}
    shared = set.intersection(*(set(part.extras) for part in parts))
    extras = {name: cat([part.extras[name] for part in parts]) for name in sorted(shared)}
    assert whole["logp"] is not None and whole["mask"] is not None
    return Scores(
        whole["logp"],
        whole["mask"],
        join_cases([part.cases for part in parts]),
        whole["ref_logp"],
        whole["segment"],
        {name: value for name, value in extras.items() if value is not None},
        _auxiliary(parts),
    )


def _auxiliary(parts: Sequence[Scores]) -> Tensor | None:
    """The mean of the models' own losses over preferences, as if each part were a step of accumulation."""
    given = [part.auxiliary * part.cases.count for part in parts if part.auxiliary is not None]
    return torch.stack(given).sum() / sum(part.cases.count for part in parts) if given else None


def join_cases(parts: Sequence[Cases]) -> Cases:
    """One alignment from those of disjoint preferences; a column is kept where all parts have it."""
    device = parts[0].record_P.device
    roles = dict.fromkeys(role for part in parts for role in part.rows)
    columns = set.intersection(*(set(part.columns) for part in parts))
    starts_N, starts_P = _starts([len(part.preference_N) for part in parts]), _starts([part.count for part in parts])

    def rows(role: str) -> Tensor:
        lines = []
        for part, start in zip(parts, starts_N, strict=True):
            row_P = part.rows.get(role, torch.full((part.count,), -1, device=device))
            lines.append(torch.where(row_P >= 0, row_P + start, row_P))
        return torch.cat(lines)

    return Cases(
        torch.cat([part.record_P for part in parts]),
        {role: rows(role) for role in roles},
        torch.cat([part.preference_N + start for part, start in zip(parts, starts_P, strict=True)]),
        torch.cat([part.rank_N for part in parts]),
        torch.cat([part.label_N for part in parts]),
        {name: torch.cat([part.columns[name] for part in parts]) for name in sorted(columns)},
    )


def _starts(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[:i]) for i in range(len(lengths))]


Values = Mapping[str, Tensor]
"""Values that an objective differentiates: `logp` and extras, `[N, U]`, by name."""


def values_of(scores: Scores) -> dict[str, Tensor]:
    """The values of scores that carry a gradient."""
    return {name: value for name, value in {"logp": scores.logp, **scores.extras}.items() if value.requires_grad}


def surrogate(scores: Scores, gradients: Values) -> Tensor:
    """A scalar of value 0 whose gradient is the chain rule's: `Σ_v gradient_v · v`, less itself.

    Args:
        scores: of one part, with gradient.
        gradients: of the whole batch's loss, by the names of `values_of`, in the part's shape.
    """
    total = scores.logp.sum() * 0
    for name, value in values_of(scores).items():
        if name in gradients:
            total = total + (gradients[name] * value).sum()
    return total - total.detach()
