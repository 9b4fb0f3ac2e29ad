"""Preferences as a data set of encoded records, checked before training starts."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from omnipref.errors import DataError, NeedsError
from omnipref.objectives.objective import Needs
from omnipref.policies.policy import Policy
from omnipref.preferences import Preference
from omnipref.training.parts import divide

logger = logging.getLogger(__name__)

_BUILD = "omnipref build FILE --builders {} --output OUT"
_REFERENCE_SAMPLE = _BUILD.format("\"own_samples(n=1, role='reference_sample')\" --model-name-or-path REFERENCE")
CURES = {
    "mismatched": _BUILD.format("mismatched"),
    "chosen@negative_image": f"{_BUILD.format('random_image')} (or occlude, similar_image)",
    "chosen@instructed": _BUILD.format("inter_instructions"),
    "chosen@disobeyed": _BUILD.format("intra_instructions"),
    "degree": _BUILD.format("remove_key_content"),
    "rationale": _BUILD.format("write_rationale rationale_case --model-name-or-path MODEL"),
    "reference_sample": f"ask for `reference_sample_0` instead, and make it: {_REFERENCE_SAMPLE}",
    "reference_sample_0": _REFERENCE_SAMPLE,
    "sample_0": "draw it from the model at every step with --online 'own_samples(n=2)'",
}
"""What adds the cases of a role."""

SHOWN = 5
"""Records that are set aside are told one by one up to this number; all of them are in the side file."""


CACHE_BYTES = 2**30
"""Encoded records are kept in memory up to this size; those beyond are encoded again when they are needed."""


class EncodedPreferences(Dataset):
    """Encoded records, by index; build it with `prepare`.

    Args:
        policy: encodes records that were not kept.
        preferences: all records.
        kept: encoded records by index, for as many as fit in memory.
    """

    def __init__(self, policy: Policy, preferences: Sequence[Preference], kept: Mapping[int, Any]):
        self.policy, self.preferences, self.kept = policy, preferences, kept

    def __len__(self) -> int:
        return len(self.preferences)

    def __getitem__(self, index: int) -> Any:
        return self.kept[index] if index in self.kept else self.policy.encode(self.preferences[index])


class StreamedPreferences(IterableDataset):
    """Records that are encoded as they are read, once per epoch; loader processes share them out.

    Args:
        policy: encodes the records.
        preferences: starts reading them, at every epoch anew.
        needs: what the objective reads.
        aside: file for records that cannot be encoded.
    """

    def __init__(self, policy: Policy, preferences: Callable[[], Iterable[Preference]], needs: Needs, aside: Path):
        self.policy, self.preferences, self.needs, self.aside = policy, preferences, needs, aside

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is None:
            own, aside = iter(self.preferences()), self.aside
        else:
            own = itertools.islice(self.preferences(), worker.id, None, worker.num_workers)
            aside = self.aside.with_suffix(f".{worker.id}{self.aside.suffix}")
        with SetAside(aside) as refused:
            count = 0
            for preference in own:
                for encoded in _encoded(self.policy, preference, self.needs, refused):
                    count += 1
                    yield encoded
            if not count and worker is None:
                raise _nothing(aside, refused)


def prepare(
    policy: Policy, preferences: Sequence[Preference], needs: Needs, aside: Path, *, progress: bool = True
) -> EncodedPreferences:
    """Check that the data have what the objective needs, and encode every record once.

    Args:
        policy: encodes the records.
        preferences: all records.
        needs: what the objective reads.
        aside: JSONL file for records that cannot be encoded, with number, field and reason.
        progress: whether to show a bar.

    Raises:
        NeedsError: a record lacks a role, a rank, a label or a column that the objective reads.
        DataError: no record is left.
    """
    for preference in preferences:
        check_needs(needs, preference)
    good: list[Preference] = []
    kept: dict[int, Any] = {}
    size = 0
    with SetAside(aside, len(preferences)) as refused:
        for preference in tqdm(preferences, desc="encoding", unit="record", disable=not progress, leave=False):
            for encoded in _encoded(policy, preference, needs, refused):
                size += _size(encoded)
                if size <= CACHE_BYTES:
                    kept[len(good)] = encoded
                good.append(narrowed(preference, needs))
    if not good:
        raise _nothing(aside, refused)
    return EncodedPreferences(policy, good, kept)


def _nothing(aside: Path, refused: SetAside) -> DataError:
    if not refused.first:
        return DataError("no record", "at least one", cure="look at the data with `omnipref data inspect`")
    cure = f"look at the reasons in {aside}; the first: {refused.first}"
    return DataError("no record that can be used", "at least one", cure=cure)


def _encoded(policy: Policy, preference: Preference, needs: Needs, refused: SetAside) -> Iterator[Any]:
    check_needs(needs, preference)
    try:
        yield policy.encode(narrowed(preference, needs))
    except DataError as error:
        refused.add(error)


def _size(value: Any) -> int:
    """Bytes of the arrays and tensors inside an encoded record."""
    if isinstance(value, (Tensor, np.ndarray)):
        return int(value.nbytes)
    if isinstance(value, Preference):
        return 0
    if is_dataclass(value):
        return sum(_size(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        value = value.values()
    return sum(_size(item) for item in value) if isinstance(value, (list, tuple, ValuesView)) else 0


class SetAside:
    """The side file of records that cannot be encoded: put in place as a whole at the end, by the first process only.

    Args:
        path: the file; one that an earlier run left is removed if nothing is set aside.
        total: how many records there are, where that is known.
    """

    def __init__(self, path: Path, total: int | None = None):
        self.path, self.total, self.lines = path, total, list[str]()
        self.first = ""

    def add(self, error: DataError) -> None:
        """Note one record with its reason."""
        self.first = self.first or str(error)
        line = {"record": error.record, "field": error.field, "source": error.source, "reason": error.reason}
        self.lines.append(json.dumps(line, ensure_ascii=False))
        if len(self.lines) <= SHOWN:
            logger.warning("set aside: %s", error)

    def __enter__(self) -> SetAside:
        return self

    def __exit__(self, *_: object) -> None:
        if os.environ.get("RANK", "0") != "0":
            return
        if not self.lines:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("\n".join([*self.lines, ""]), encoding="utf-8")
        os.replace(temporary, self.path)
        count = f"{len(self.lines)} of {self.total}" if self.total else str(len(self.lines))
        logger.warning("records set aside: %s, with reasons in %s", count, self.path)


def narrowed(preference: Preference, needs: Needs) -> Preference:
    """Only the cases that the objective reads, so that no other is encoded or scored; all if it names none."""
    read = set(needs.roles)
    if needs.lists:
        read |= set(preference.ranks())
    if needs.labels:
        read |= set(preference.labels) or {"chosen", "rejected"}
    if needs.groups:
        read |= set(preference.cases)
    kept = {role: case for role, case in preference.cases.items() if role in read}
    if not kept or len(kept) == len(preference.cases):
        return preference
    comparisons = tuple(c for c in preference.comparisons if {c.better, c.worse} <= set(kept))
    return replace(preference, cases=kept, comparisons=comparisons)


def check_needs(needs: Needs, preference: Preference) -> None:
    """Refuse a record that lacks what the objective reads.

    Raises:
        NeedsError: says which record, what it lacks, and what adds it.
    """
    place = f"{preference.source or 'data'}, record {preference.record}"
    tied = [c for c in preference.comparisons if c.tie and {c.better, c.worse} <= needs.roles]
    if tied and not needs.ties:
        raise NeedsError(f"{place}: the objective prefers `{tied[0].better}`, but the record says that it is a tie")
    have = f"it has the roles {', '.join(preference.roles)}"
    for role in sorted(needs.roles - set(preference.roles)):
        cure = CURES.get(role) or _other_roles(needs, preference)
        raise NeedsError(f"{place}: the objective compares `{role}`, which it lacks; {have}. To mend: {cure}")
    if needs.lists and len(set(preference.ranks().values())) < 2:
        raise NeedsError(f"{place}: the objective needs a ranking of two or more cases, and there is none; {have}")
    if needs.groups and len(preference.cases) < 2:
        cure = 'draw several at every step with --online "group(reward=..., n=8)"'
        raise NeedsError(f"{place}: the objective compares two or more samples of a context; {have}. To mend: {cure}")
    in_ties = {role for c in preference.comparisons if c.tie for role in (c.better, c.worse)}
    labelled = preference.labels or {"chosen", "rejected"} & (set(preference.roles) - in_ties)
    if needs.labels and not labelled:
        raise NeedsError(f"{place}: the objective needs liked and disliked cases (`label`), and there are none; {have}")
    scored = all(f"score/{role}" in preference.columns for role in preference.roles)
    have_columns = {*preference.columns, "weight", *(["score"] if scored else [])}
    for column in sorted(needs.columns - have_columns):
        known = ", ".join(sorted(preference.columns)) or "no columns"
        cure = _filled(column)
        raise NeedsError(
            f"{place}: the objective reads column `{column}`, which it lacks; it has {known}. To mend: {cure}"
        )


def _other_roles(needs: Needs, preference: Preference) -> str:
    """What to do with a record whose cases have other roles than those that are compared."""
    if preference.labels:
        return "train liked and disliked responses with --objective 'bco()' or \"kto(baseline='batch')\""
    if "chosen" in needs.roles and any(name.startswith("response_") for name in preference.roles):
        return "turn lists into pairs with --pairs best_vs_worst"
    if len(preference.roles) == len(needs.roles) == 2:
        better, worse = preference.roles
        return f'name the roles that are there, such as --objective "dpo(chosen={better!r}, rejected={worse!r})"'
    return "make it with a builder (`omnipref build --help`), or take data that have it"


def _filled(column: str) -> str:
    """What gives each record a number under a column."""
    if column != "score":
        return f"give each record a number `{column}` among the `columns` of omnipref's own format"
    return (
        "judge the responses (`omnipref build FILE --builders 'judge(reward=...)'`), or give each its score: "
        "`score_chosen` and `score_rejected`, or `scores` of a list"
    )


def collator(policy: Policy, max_tokens: int | None = None) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """The data loader's last step: record numbers, by which it is counted, and the batch in one part or several.

    Args:
        policy: lays records out.
        max_tokens: most tokens of a part; None for one part.
    """

    def collate(encoded: Sequence[Any]) -> dict[str, Any]:
        groups = [list(range(len(encoded)))] if max_tokens is None else divide(policy.tokens, encoded, max_tokens)
        parts = [policy.collate([encoded[i] for i in group]) for group in groups]
        return {"record": torch.cat([part.cases.record_P for part in parts]), "parts": parts}

    return collate
