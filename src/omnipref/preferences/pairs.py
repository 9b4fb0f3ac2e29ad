"""From lists to pairs, from pairs to likes, and a split that no prompt or picture crosses."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from omnipref.errors import ConfigError, DataError
from omnipref.preferences.checks import case_key, digest, messages_key, parts_of
from omnipref.preferences.media import media_key
from omnipref.preferences.records import Comparison, Preference

Pair = tuple[str, str]


def to_pairs(
    preference: Preference,
    policy: Literal["all", "best_vs_worst", "adjacent", "random"] = "all",
    *,
    margin: float = 0.0,
    drop_ties: bool = True,
    max_per_prompt: int | None = None,
    seed: int = 0,
) -> list[Preference]:
    """Pairs `chosen` and `rejected` of a preference's cases.

    Only pairs that the comparisons imply (directly or through others) are made. Pairs of equal cases and pairs with the
    same texts and media as an earlier one are left out.

    Args:
        preference: a pair, a ranked or scored list, a tree, or a conditional preference.
        policy: `all` untied pairs, K(K-1)/2 of K untied; `best_vs_worst`, one; `adjacent` in rank, K-1 of K untied;
            `random`, `max_per_prompt` of all (one where that is None).
        margin: least difference of the scores (or least margin of the comparison).
        drop_ties: leave tied comparisons out; otherwise they follow the untied pairs, marked `tie`.
        max_per_prompt: most pairs to give; drawn at random, in their order.
        seed: of the draws, together with the record number.

    Raises:
        ConfigError: an unknown policy.
        DataError: a margin is asked for and the record has neither scores nor margins.

    Example:
        >>> from omnipref.preferences import ranked
        >>> len(to_pairs(ranked("q", "abcdefghi")))
        36
    """
    if policy not in _POLICIES:
        raise ConfigError(f"found policy {policy!r}; expected one of {', '.join(_POLICIES)}")
    pairs = _POLICIES[policy](preference, _closure(preference))
    pairs = [pair for pair in pairs if margin <= 0 or _gap(preference, pair) >= margin]
    limit = 1 if policy == "random" and max_per_prompt is None else max_per_prompt
    made = _distinct([_pair(preference, pair) for pair in pairs])
    if limit is not None and len(made) > limit:
        draw = random.Random(f"{seed}/{preference.source}/{preference.record}")
        made = [made[i] for i in sorted(draw.sample(range(len(made)), limit))]
    ties = [] if drop_ties else [(c.better, c.worse) for c in preference.comparisons if c.tie]
    return made + [_pair(preference, pair, tie=True) for pair in ties]


def _closure(preference: Preference) -> list[Pair]:
    """Every (better, worse) that follows from the untied comparisons, best first."""
    ranks = preference.ranks()
    below: dict[str, set[str]] = {role: set() for role in ranks}
    for role in sorted(ranks, key=lambda role: -ranks[role]):
        for comparison in preference.comparisons:
            if comparison.better == role and not comparison.tie:
                below[role] |= {comparison.worse} | below[comparison.worse]
    order = sorted(ranks, key=lambda role: ranks[role])
    return [(better, worse) for better in order for worse in order if worse in below[better]]


def _all(preference: Preference, pairs: list[Pair]) -> list[Pair]:
    return pairs


def _best_vs_worst(preference: Preference, pairs: list[Pair]) -> list[Pair]:
    ranks = preference.ranks()
    return sorted(pairs, key=lambda pair: ranks[pair[0]] - ranks[pair[1]])[:1]


def _adjacent(preference: Preference, pairs: list[Pair]) -> list[Pair]:
    ranks = preference.ranks()
    order = sorted(ranks, key=lambda role: ranks[role])
    return [pair for pair in pairwise(order) if pair in pairs]


_POLICIES: dict[str, Callable[[Preference, list[Pair]], list[Pair]]] = {
    "all": _all,
    "best_vs_worst": _best_vs_worst,
    "adjacent": _adjacent,
    "random": _all,
}


def _direct(preference: Preference, pair: Pair) -> Comparison:
    for comparison in preference.comparisons:
        if (comparison.better, comparison.worse) == pair:
            return comparison
    annotators = {comparison.annotator for comparison in preference.comparisons}
    return Comparison(*pair, annotator=annotators.pop() if len(annotators) == 1 else None)


def _scores(preference: Preference, pair: Pair) -> list[float]:
    return [preference.columns[f"score/{role}"] for role in pair if f"score/{role}" in preference.columns]


def _gap(preference: Preference, pair: Pair) -> float:
    scores, stated = _scores(preference, pair), _direct(preference, pair).margin
    if len(scores) < 2 and stated is None:
        raise DataError(
            "neither scores nor a margin",
            "the columns score/<role>",
            cure="use margin=0, or score the responses",
            record=preference.record,
            field=f"score/{pair[0]}",
            source=preference.source or None,
        )
    return scores[0] - scores[1] if len(scores) == 2 else float(stated or 0.0)


def _pair(preference: Preference, pair: Pair, *, tie: bool = False) -> Preference:
    cases = {"chosen": preference.cases[pair[0]], "rejected": preference.cases[pair[1]]}
    scores = _scores(preference, pair)
    columns = {name: value for name, value in preference.columns.items() if not name.startswith("score/")}
    direct = _direct(preference, pair)
    if len(scores) == 2:
        columns |= {"score/chosen": scores[0], "score/rejected": scores[1]}
        direct = replace(direct, margin=scores[0] - scores[1])
    comparison = replace(direct, better="chosen", worse="rejected", tie=tie)
    meta = {**preference.meta, "roles": list(pair)} if pair != ("chosen", "rejected") else preference.meta
    return replace(preference, cases=cases, comparisons=(comparison,), labels={}, columns=columns, meta=meta)


def _distinct(pairs: list[Preference]) -> list[Preference]:
    found: dict[tuple[str, str], Preference] = {}
    for one in pairs:
        key = (case_key(one.cases["chosen"]), case_key(one.cases["rejected"]))
        if key[0] != key[1]:
            found.setdefault(key, one)
    return list(found.values())


def to_unpaired(preference: Preference, *, threshold: float | None = None) -> list[Preference]:
    """One labelled `completion` per case: of a pair, chosen is liked and rejected is not.

    Args:
        preference: a pair or list; what is unpaired already stays, a case each.
        threshold: of the scores, at or above which a case is liked. Without one, the best of a list are liked, the
            worst are not, and those between, which no comparison labels, are left out.

    Raises:
        DataError: a threshold is given and a case has no score.

    Example:
        >>> from omnipref.preferences import pair
        >>> [one.labels["completion"] for one in to_unpaired(pair("q", "good", "bad"))]
        [True, False]
    """
    labels = dict(preference.labels)
    if threshold is not None:
        labels = {role: _score(preference, role) >= threshold for role in preference.cases}
    elif not labels:
        ranks = preference.ranks()
        worst = max(ranks.values(), default=0)
        labels = {role: rank == 0 for role, rank in ranks.items() if rank in (0, worst) and worst > 0}
    return [
        replace(
            preference,
            cases={"completion": preference.cases[role]},
            comparisons=(),
            labels={"completion": label},
            columns={},
            meta={**preference.meta, "role": role},
        )
        for role, label in labels.items()
    ]


def _score(preference: Preference, role: str) -> float:
    name = f"score/{role}"
    if name not in preference.columns:
        cure = "leave threshold out, or score the responses"
        source = preference.source or None
        raise DataError("no score", "a score", cure=cure, record=preference.record, field=name, source=source)
    return preference.columns[name]


def to_ranked(preference: Preference) -> Preference:
    """The same cases as roles `response_0` ... with the best first; ties keep their order.

    Example:
        >>> from omnipref.preferences import pair
        >>> to_ranked(pair("q", "good", "bad")).roles
        ('response_0', 'response_1')
    """
    ranks = preference.ranks()
    order = sorted(ranks, key=lambda role: ranks[role])
    name = {role: f"response_{k}" for k, role in enumerate(order)}
    columns = dict(preference.columns)
    scores = {f"score/{name[role]}": columns.pop(f"score/{role}") for role in order if f"score/{role}" in columns}
    return replace(
        preference,
        cases={name[role]: preference.cases[role] for role in order},
        comparisons=tuple(replace(c, better=name[c.better], worse=name[c.worse]) for c in preference.comparisons),
        labels={name[role]: label for role, label in preference.labels.items() if role in name},
        columns={**columns, **scores},
    )


def split(
    preferences: Iterable[Preference], fraction: float, seed: int = 0
) -> tuple[list[Preference], list[Preference]]:
    """Training and held-out preferences, such that no text prompt and no medium is in both.

    Preferences that share a prompt or a medium stay together; a prompt about pictures counts with its pictures, since
    one question is asked about many. Groups are taken in an order given by their content and the seed until the
    held-out part is full.

    Args:
        preferences: all of them; media files are read to be told apart by content.
        fraction: share to hold out, between 0 and 1; reached from below, a group is never cut.
        seed: of the order.

    Raises:
        ConfigError: a fraction outside (0, 1).
        DataError: every group is larger than the part to hold out.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"found fraction {fraction}; expected a number between 0 and 1")
    preferences = list(preferences)
    group = _groups([_keys(preference) for preference in preferences])
    sizes = {name: group.count(name) for name in set(group)}
    held: set[str] = set()
    room = round(fraction * len(preferences))
    for name in sorted(sizes, key=lambda name: digest([str(seed), name])):
        if sizes[name] <= room:
            held.add(name)
            room -= sizes[name]
    if not held:
        cure = "hold out more, or gather more prompts and pictures"
        raise DataError(
            f"{len(sizes)} group(s) of shared prompts and media, none small enough", "smaller ones", cure=cure
        )
    marked = list(zip(preferences, (name in held for name in group), strict=True))
    return [one for one, out in marked if not out], [one for one, out in marked if out]


def _keys(preference: Preference) -> list[str]:
    contexts = [case.context for case in preference.cases.values()]
    prompts = [messages_key(one) for one in contexts if not any(message.media for message in one)]
    return [*prompts, *(media_key(part.value) for _, part in parts_of(preference) if part.type != "text")]


def _groups(keys: Sequence[list[str]]) -> list[str]:
    """For each item the smallest key of its group, where items that share a key are of one group (union-find)."""
    parent = {key: key for item in keys for key in item}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for item in keys:
        for key in item[1:]:
            low, high = sorted((root(item[0]), root(key)))
            parent[high] = low
    return [root(item[0]) for item in keys]
