"""AMBER: hallucination in free descriptions (CHAIR, Cover, Hal, Cog) and in yes/no answers.

Paper: arXiv 2311.07397. Released code: `inference.py` of junyangwang0410/AMBER. Here: the same counting, with intervals
over pictures. The released script finds nouns with NLTK and near-synonyms with a spaCy model (similarity above 0.8);
here nouns are the words of AMBER's own vocabulary, and a similarity may be passed in, so that nothing has to be
downloaded. Without it, near-synonyms outside the association table count as hallucinations: compare only with numbers
made the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnipref.errors import DataError
from omnipref.evaluation.estimates import Estimate, ratio_interval, share_interval
from omnipref.evaluation.files import number, read_json, read_rows, read_text, string, strings
from omnipref.evaluation.yes_no import confusion

Similar = Callable[[str, str], bool]


@dataclass(frozen=True)
class Amber:
    """AMBER's annotations.

    Args:
        truth: id of a generative query to the objects in its picture.
        tempting: id of a generative query to absent objects that people would imagine there.
        labels: id of a discriminative query to its kind and true answer, `yes` or `no`.
        association: an object to the words that also name it.
        safe_words: words that never count as hallucinated.
    """

    truth: Mapping[int, Sequence[str]]
    tempting: Mapping[int, Sequence[str]]
    labels: Mapping[int, tuple[str, str]]
    association: Mapping[str, Sequence[str]]
    safe_words: frozenset[str]

    @property
    def vocabulary(self) -> frozenset[str]:
        """Every word that counts as an object."""
        return frozenset(self.association).union(*self.association.values())

    def nouns(self, text: str) -> list[str]:
        """The words of the vocabulary that a text names, plurals reduced, repetitions included."""
        known = self.vocabulary
        forms = ([word, *_singulars(word)] for word in re.findall(r"[a-z]+", text.lower()))
        return [named for words in forms if (named := next((word for word in words if word in known), None))]


def _singulars(word: str) -> list[str]:
    endings = {"ies": "y", "ves": "f", "es": "", "s": ""}
    return [word[: -len(end)] + new for end, new in endings.items() if word.endswith(end) and len(word) > len(end) + 1]


def read_amber(folder: Path | str) -> Amber:
    """Reads `annotations.json`, `relation.json` and `safe_words.txt` of AMBER's `data` folder.

    Raises:
        DataError: names the file, the record and the field.
    """
    folder = Path(folder)
    source = folder / "annotations.json"
    truth, tempting, labels = {}, {}, {}
    for record, row in enumerate(read_rows(source)):
        identifier, kind = number(row, "id", record, source), string(row, "type", record, source)
        if "hallu" in row:
            truth[identifier] = strings(row, "truth", record, source)
            tempting[identifier] = strings(row, "hallu", record, source)
        else:
            labels[identifier] = (kind, string(row, "truth", record, source))
    safe = frozenset(read_text(folder / "safe_words.txt").split())
    return Amber(truth, tempting, labels, read_json(folder / "relation.json"), safe)


def amber_generative(
    nouns: Mapping[int, Sequence[str]], amber: Amber, *, similar: Similar | None = None, n: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """`chair`, `cover`, `hal`, `cog` of descriptions, as shares, with intervals over pictures.

    CHAIR = hallucinated / mentioned objects; Cover = objects named / objects in the picture; Hal = descriptions with
    any hallucination; Cog = tempting absent objects named / all tempting absent objects.

    Args:
        nouns: id of a query to the objects its description names, `Amber.nouns` for instance.
        amber: the annotations.
        similar: whether two words mean nearly the same; None for exact words and associations only.
        n: resamples.
        seed: of the resampling.

    Raises:
        DataError: an id has no annotation.

    Source: arXiv 2311.07397, section 3.3.
    """
    foreign = [identifier for identifier in nouns if identifier not in amber.truth]
    if foreign or not nouns:
        found = f"a description for query {foreign[0]}" if foreign else "no descriptions"
        raise DataError(found, "ids of generative queries in annotations.json")
    counts = np.array([_count(words, amber, identifier, similar) for identifier, words in nouns.items()], dtype=float)
    wrong, named, found, present, imagined, tempting = counts.T
    return {
        "chair": ratio_interval(wrong, named, n=n, seed=seed),
        "cover": ratio_interval(found, present, n=n, seed=seed),
        "hal": share_interval(int((wrong > 0).sum()), len(wrong)),
        "cog": ratio_interval(imagined, tempting, n=n, seed=seed),
    }


def _count(words: Sequence[str], amber: Amber, identifier: int, similar: Similar | None) -> tuple[int, ...]:
    truth, tempting = amber.truth[identifier], amber.tempting[identifier]
    true, false = _names(truth, amber.association), _names(tempting, amber.association)
    found: set[int] = set()
    imagined: set[int] = set()
    wrong = 0
    for word in words:
        if word in amber.safe_words:
            continue
        if word in true:
            found.add(true[word])
            continue
        place = _nearest(word, false, similar)
        imagined |= set() if place is None else {place}
        place = _nearest(word, true, similar)
        found |= set() if place is None else {place}
        wrong += place is None
    return wrong, len(words), len(found), len(truth), len(imagined), len(tempting)


def _names(objects: Sequence[str], association: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Each word that names an object to the object's place; associated words first, as in the released code."""
    associated = [(word, place) for place, name in enumerate(objects) for word in association.get(name, ())]
    named: dict[str, int] = {}
    for word, place in [*associated, *((name, place) for place, name in enumerate(objects))]:
        named.setdefault(word, place)
    return named


def _nearest(word: str, names: Mapping[str, int], similar: Similar | None) -> int | None:
    if word in names or similar is None:
        return names.get(word)
    return next((place for name, place in names.items() if similar(word, name)), None)


def amber_discriminative(
    answers: Mapping[int, str], amber: Amber, *, n: int = 2000, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Accuracy, precision, recall and F1 of yes/no answers, over all questions and by kind of question.

    The positive class is `no` (a hallucination denied). Only the answers `Yes` and `No`, in any case and with or
    without a full stop, count; anything else is wrong.

    Args:
        answers: id of a query to the raw answer.
        amber: the annotations.
        n: resamples.
        seed: of the resampling.

    Raises:
        DataError: an id has no annotation.

    Source: arXiv 2311.07397, section 3.3.
    """
    kinds: dict[str, list[int]] = {"all": list(answers)}
    for identifier in answers:
        if identifier not in amber.labels:
            raise DataError(f"an answer to query {identifier}", "ids of discriminative queries in annotations.json")
        kinds.setdefault(amber.labels[identifier][0], []).append(identifier)
    said = {identifier: text.strip().rstrip(".").lower() for identifier, text in answers.items()}
    return {
        kind: confusion([said[key] for key in keys], [amber.labels[key][1] for key in keys], positive="no").estimates(
            n=n, seed=seed
        )
        for kind, keys in kinds.items()
    }


def amber_score(chair: float, f1: float) -> float:
    """AMBER score = (100 - CHAIR + F1) / 2, both in percent.

    Example:
        >>> amber_score(40, 70)
        65.0

    Source: arXiv 2311.07397, section 3.3.
    """
    return (100 - chair + f1) / 2
