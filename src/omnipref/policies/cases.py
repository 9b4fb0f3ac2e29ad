"""The alignment of cases with preferences, built the same way for every kind of policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omnipref.preferences import Preference
from omnipref.scores import Cases


def align(preferences: Sequence[Preference]) -> Cases:
    """Number the cases of a batch: preference after preference, each in its own order of roles.

    A pair labels its chosen case +1 and its rejected case -1, so that unpaired objectives take pairs as well, unless
    it is a tie. A column is kept where every preference of the batch has it; `score/<role>` columns become `score` per
    case; `weight` is the record's column of that name, or the weight of its first comparison.

    Example:
        >>> from omnipref.preferences import pair
        >>> align([pair("a", "b", "c"), pair("d", "e", "f")]).rows["rejected"]
        tensor([1, 3])
    """
    roles = list(dict.fromkeys(role for preference in preferences for role in preference.cases))
    rows = {role: torch.full((len(preferences),), -1) for role in roles}
    owner: list[int] = []
    rank: list[int] = []
    label: list[int] = []
    score: list[float] = []
    for p, preference in enumerate(preferences):
        ranks = preference.ranks()
        for role in preference.cases:
            rows[role][p] = len(owner)
            owner.append(p)
            rank.append(ranks.get(role, -1))
            label.append(_label(preference, role))
            score.append(float(preference.columns.get(f"score/{role}", float("nan"))))
    shared = set.intersection(*(set(preference.columns) for preference in preferences)) if preferences else set()
    columns = {
        name: torch.tensor([float(preference.columns[name]) for preference in preferences])
        for name in sorted(shared)
        if not name.startswith("score/")
    }
    if score and all(value == value for value in score):
        columns["score"] = torch.tensor(score)
    columns["weight"] = torch.tensor([_weight(preference) for preference in preferences])
    return Cases(
        torch.tensor([preference.record for preference in preferences]),
        rows,
        torch.tensor(owner),
        torch.tensor(rank),
        torch.tensor(label),
        columns,
    )


def _weight(preference: Preference) -> float:
    """The record's own weight, else that of its first comparison."""
    first = preference.comparisons[0].weight if preference.comparisons else 1.0
    return float(preference.columns.get("weight", first))


def _label(preference: Preference, role: str) -> int:
    if role in preference.labels:
        return 1 if preference.labels[role] else -1
    if any(c.tie and role in (c.better, c.worse) for c in preference.comparisons):
        return 0
    return {"chosen": 1, "rejected": -1}.get(role, 0)
