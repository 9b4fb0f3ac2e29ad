"""Preferences as a data set of encoded records, checked before training starts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, IterableDataset
from tqdm.auto import tqdm

from omnipref.errors import DataError, NeedsError
from omnipref.objectives.objective import Needs
from omnipref.policies.policy import Batch, Policy
from omnipref.preferences import Preference

logger = logging.getLogger(__name__)

BUILDERS = {
    "mismatched": "omnipref build mismatched",
    "chosen@negative_image": "omnipref build similar_image (or random_image, occlude)",
}
"""Which command adds the cases of a role."""


class EncodedPreferences(Dataset):
    """Encoded records, by index; build it with `prepare`."""

    def __init__(self, encoded: Sequence[Any]):
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Any:
        return self.encoded[index]


class StreamedPreferences(IterableDataset):
    """Records that are encoded as they are read; bad ones are set aside."""

    def __init__(self, policy: Policy, preferences: Iterable[Preference], needs: Needs, aside: Path):
        self.policy, self.preferences, self.needs, self.aside = policy, preferences, needs, aside

    def __iter__(self) -> Iterator[Any]:
        return encode_all(self.policy, self.preferences, self.needs, self.aside)


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
    shown = tqdm(preferences, desc="encoding", unit="record", disable=not progress, leave=False)
    encoded = list(encode_all(policy, shown, needs, aside))
    if not encoded:
        raise DataError("no record that can be trained on", "at least one", cure=f"look at the reasons in {aside}")
    return EncodedPreferences(encoded)


def encode_all(policy: Policy, preferences: Iterable[Preference], needs: Needs, aside: Path) -> Iterator[Any]:
    """Encode records one by one, setting bad ones aside."""
    count = 0
    for preference in preferences:
        check_needs(needs, preference)
        try:
            yield policy.encode(narrowed(preference, needs))
        except DataError as error:
            count += 1
            _set_aside(aside, error, fresh=count == 1)
            logger.warning("set aside: %s", error)
    if count:
        logger.warning("%d records were set aside, with reasons in %s", count, aside)


def _set_aside(path: Path, error: DataError, fresh: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {"record": error.record, "field": error.field, "source": error.source, "reason": error.reason}
    with path.open("w" if fresh else "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def narrowed(preference: Preference, needs: Needs) -> Preference:
    """Only the cases that the objective reads, so that no other is encoded or scored; all if it names none."""
    read = set(needs.roles)
    if needs.lists:
        read |= set(preference.ranks())
    if needs.labels:
        read |= set(preference.labels) or {"chosen", "rejected"}
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
    have = f"it has the roles {', '.join(preference.roles)}"
    for role in sorted(needs.roles - set(preference.roles)):
        listed = "chosen" in needs.roles and any(name.startswith("response_") for name in preference.roles)
        default = "turn lists into pairs with --pairs best_vs_worst" if listed else "add the column to the data"
        cure = BUILDERS.get(role, default)
        raise NeedsError(f"{place}: the objective compares `{role}`, which it lacks; {have}. To mend: {cure}")
    if needs.lists and len(set(preference.ranks().values())) < 2:
        raise NeedsError(f"{place}: the objective needs a ranking of two or more cases, and there is none; {have}")
    labelled = preference.labels or {"chosen", "rejected"} & set(preference.roles)
    if needs.labels and not labelled:
        raise NeedsError(f"{place}: the objective needs liked and disliked cases (`label`), and there are none; {have}")
    for column in sorted(needs.columns - set(preference.columns)):
        known = ", ".join(sorted(preference.columns)) or "no columns"
        raise NeedsError(f"{place}: the objective reads column `{column}`, which it lacks; it has {known}")


def collator(policy: Policy) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """The data loader's last step: record numbers, by which it is counted, and the batch."""

    def collate(encoded: Sequence[Any]) -> dict[str, Any]:
        batch: Batch = policy.collate(encoded)
        return {"record": batch.cases.record_P, "batch": batch}

    return collate
