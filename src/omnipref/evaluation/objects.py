"""CHAIR and its companions: which of the objects a text names are in the picture.

Source: arXiv 1809.02156 (CHAIR_i and CHAIR_s); coverage as in AMBER, arXiv 2311.07397.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from omnipref.errors import DataError
from omnipref.evaluation.estimates import Array, Estimate, bootstrap, ratio_interval, share_interval


@dataclass(frozen=True)
class ObjectCounts:
    """Per picture: what was named, what was wrong, what was found; all `[N]` float64.

    Args:
        mentioned: objects named.
        hallucinated: of these, not in the picture.
        present: objects in the picture.
        found: of these, named.
        length: words of the text; None when no texts were given.
    """

    mentioned: Array
    hallucinated: Array
    present: Array
    found: Array
    length: Array | None = None

    def estimates(self, *, n: int = 2000, seed: int = 0) -> dict[str, Estimate]:
        """`chair_i`, `chair_s`, `coverage`, `objects` and, with texts, `length`, each with its interval over pictures.

        CHAIR_i = sum of hallucinated / sum of mentioned; CHAIR_s = share of texts with any hallucination;
        coverage = sum of found / sum of present; `objects` and `length` are means per text. A model that names nothing
        has CHAIR_i 0; its coverage shows it.
        """
        bad = int((self.hallucinated > 0).sum())
        values = {
            "chair_i": ratio_interval(self.hallucinated, self.mentioned, n=n, seed=seed),
            "chair_s": share_interval(bad, len(self.mentioned)),
            "coverage": ratio_interval(self.found, self.present, n=n, seed=seed),
            "objects": bootstrap(self.mentioned, n=n, seed=seed),
        }
        return values if self.length is None else {**values, "length": bootstrap(self.length, n=n, seed=seed)}


def chair(
    mentioned: Sequence[Collection[str]], present: Sequence[Collection[str]], texts: Sequence[str] | None = None
) -> ObjectCounts:
    """Counts the objects that each text names against those in its picture.

    Args:
        mentioned: per text, the objects it names. A list counts every mention, as CHAIR's released code does; a set
            counts each object once.
        present: per picture, the objects in it.
        texts: the texts, for their length in words.

    Raises:
        DataError: the lists differ in length or are empty, or an item is a bare string.

    Example:
        >>> counts = chair([["dog", "cat", "cup"], ["dog"], ["boat"], []], [{"dog"}, {"dog"}, {"boat"}, {"cup"}])
        >>> values = counts.estimates()
        >>> values["chair_i"].value, values["chair_s"].value, values["coverage"].value
        (0.4, 0.25, 0.75)

    Source: arXiv 1809.02156, section 3.
    """
    _check(mentioned, present, texts)
    truth = [set(objects) for objects in present]
    return ObjectCounts(
        mentioned=_array([len(named) for named in mentioned]),
        hallucinated=_array(
            [sum(name not in true for name in named) for named, true in zip(mentioned, truth, strict=True)]
        ),
        present=_array([len(true) for true in truth]),
        found=_array([len(true & set(named)) for named, true in zip(mentioned, truth, strict=True)]),
        length=None if texts is None else _array([len(text.split()) for text in texts]),
    )


def _array(values: Sequence[int]) -> Array:
    return np.array(values, dtype=np.float64)


def _check(mentioned: Sequence, present: Sequence, texts: Sequence | None) -> None:
    sizes = {len(mentioned), len(present)} | (set() if texts is None else {len(texts)})
    if len(sizes) != 1 or 0 in sizes:
        counted = f"{len(mentioned)} lists of named and {len(present)} of present objects"
        raise DataError(
            counted + ("" if texts is None else f", {len(texts)} texts"), "one of each per picture, at least one"
        )
    for field, lists in (("mentioned", mentioned), ("present", present)):
        for record, item in enumerate(lists):
            if isinstance(item, str):
                raise DataError(f"the text {item!r}", "a list of object names", record=record, field=field)
