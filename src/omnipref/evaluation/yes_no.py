"""Yes/no questions: accuracy, precision, recall, F1 and yes-ratio, and POPE's files and rules.

Source: POPE, arXiv 2305.10355.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnipref.errors import DataError
from omnipref.evaluation.estimates import Array, Estimate, bootstrap, divide
from omnipref.evaluation.files import identified, number, read_rows, string

SPLITS = ("random", "popular", "adversarial")
_NO_WORDS = {"No", "not", "no"}
_CORRECT, _PREDICTED, _LABELLED, _BOTH, _ALL = range(5)
_STATISTICS = {
    "accuracy": lambda means: divide(means[..., _CORRECT], means[..., _ALL]),
    "precision": lambda means: divide(means[..., _BOTH], means[..., _PREDICTED]),
    "recall": lambda means: divide(means[..., _BOTH], means[..., _LABELLED]),
    "f1": lambda means: divide(2 * means[..., _BOTH], means[..., _PREDICTED] + means[..., _LABELLED]),
    "positive_ratio": lambda means: divide(means[..., _PREDICTED], means[..., _ALL]),
}


@dataclass(frozen=True)
class Confusion:
    """Answers against labels, summed per picture.

    Args:
        rows: `[N, 5]`: right answers, answers of the positive class, labels of it, both, and all questions.
    """

    rows: Array

    def estimates(self, *, n: int = 2000, seed: int = 0) -> dict[str, Estimate]:
        """`accuracy`, `precision`, `recall`, `f1`, `positive_ratio`, resampled by picture; 0 where undefined."""
        return {name: bootstrap(self.rows, statistic, n=n, seed=seed) for name, statistic in _STATISTICS.items()}


def confusion(
    answers: Sequence[str], labels: Sequence[str], *, positive: str, groups: Sequence[Hashable] | None = None
) -> Confusion:
    """Counts answers against labels.

    Args:
        answers: parsed answers; anything but the labels' words is simply wrong.
        labels: `yes` or `no`.
        positive: the class that precision and recall are about: `yes` for POPE, `no` for AMBER.
        groups: the picture of each question, so that questions about one picture are resampled together.

    Raises:
        DataError: lengths differ, nothing to count, or a label is neither `yes` nor `no`.
    """
    groups = range(len(labels)) if groups is None else groups
    if not len(answers) == len(labels) == len(groups) or not labels:
        raise DataError(f"{len(answers)} answers, {len(labels)} labels", "one answer per label, at least one")
    for record, label in enumerate(labels):
        if label not in ("yes", "no"):
            raise DataError(f"{label!r}", "`yes` or `no`", record=record, field="label")
    index = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    rows = np.zeros((len(index), 5))
    for group, answer, label in zip(groups, answers, labels, strict=True):
        said, true = answer == positive, label == positive
        rows[index[group]] += (answer == label, said, true, said and true, 1)
    return Confusion(rows)


def parse_yes_no(text: str) -> str:
    """POPE's rule: `no` if the first sentence has the word `No`, `not` or `no`, otherwise `yes`.

    Released code: cut at the first full stop, drop commas, split at spaces, look for exactly these three words; so `NO`
    and `none` count as yes. Here: the same, after stripping white space at both ends, as writers of answer files do.

    Example:
        >>> [parse_yes_no(text) for text in ("No, there is not.", "Yes. There is no doubt.", "NO")]
        ['no', 'yes', 'yes']

    Source: evaluate.py of POPE's repository (RUCAIBox/POPE).
    """
    words = text.strip().split(".")[0].replace(",", "").split(" ")
    return "no" if _NO_WORDS & set(words) else "yes"


def pope(
    answers: Sequence[str],
    labels: Sequence[str],
    pictures: Sequence[Hashable] | None = None,
    *,
    n: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """POPE's five numbers: `accuracy`, `precision`, `recall`, `f1` (positive class: yes) and `yes_ratio`.

    Args:
        answers: raw answers, parsed by `parse_yes_no`.
        labels: `yes` or `no`.
        pictures: the picture of each question; the interval is over pictures where given, otherwise over questions.
        n: resamples.
        seed: of the resampling.

    Example:
        >>> values = pope(["Yes", "No", "yes", "no"], ["yes", "no", "no", "no"])
        >>> [round(values[name].value, 3) for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")]
        [0.75, 0.5, 1.0, 0.667, 0.5]

    Source: arXiv 2305.10355, section 4.
    """
    counted = confusion([parse_yes_no(text) for text in answers], labels, positive="yes", groups=pictures)
    values = counted.estimates(n=n, seed=seed)
    return {"yes_ratio" if name == "positive_ratio" else name: value for name, value in values.items()}


@dataclass(frozen=True)
class PopeQuestion:
    """One line of a POPE file."""

    question_id: int
    image: str
    text: str
    label: str


def read_pope(path: Path | str) -> list[PopeQuestion]:
    """Reads a POPE question file: one JSON object a line with `question_id`, `image`, `text`, `label`.

    Raises:
        DataError: names the line and the field.
    """
    questions = []
    for record, row in enumerate(read_rows(path)):
        label = string(row, "label", record, path)
        if label not in ("yes", "no"):
            raise DataError(f"{label!r}", "`yes` or `no`", record=record, field="label", source=str(path))
        image, text = string(row, "image", record, path), string(row, "text", record, path)
        questions.append(PopeQuestion(number(row, "question_id", record, path), image, text, label))
    return questions


def pope_files(folder: Path | str) -> dict[str, Path]:
    """The question file of each split in a folder, by name `*_pope_<split>.json`.

    Raises:
        DataError: none is there, or several for one split.
    """
    found: dict[str, Path] = {}
    for split in SPLITS:
        files = sorted(Path(folder).glob(f"*_pope_{split}.json"))
        if len(files) > 1:
            raise DataError(f"{', '.join(file.name for file in files)}", f"one file for `{split}`", source=str(folder))
        if files:
            found[split] = files[0]
    if not found:
        raise DataError("no *_pope_<split>.json", f"at least one of {', '.join(SPLITS)}", source=str(folder))
    return found


def read_answers(path: Path | str, expected: Sequence[int]) -> list[str]:
    """Raw answers in the order of `expected` ids, from JSON lines with `question_id` and `answer` (or `text`).

    Raises:
        DataError: an answer is missing, doubled, or belongs to no question.
    """
    answers = identified(read_rows(path), "question_id", ("answer", "text"), path)
    missing, foreign = [key for key in expected if key not in answers], set(answers) - set(expected)
    if missing or foreign:
        which = f"question {missing[0]}" if missing else f"question {min(foreign)}, which was not asked"
        found = f"no answer to {which}" if missing else f"an answer to {which}"
        cure = "answer every question of the same file once"
        raise DataError(found, f"one answer to each of {len(expected)} questions", cure=cure, source=str(path))
    return [answers[key] for key in expected]


def pope_file(answers: Path | str, questions: Path | str, *, n: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """POPE's numbers of an answer file against a question file, with intervals over pictures."""
    asked = read_pope(questions)
    said = read_answers(answers, [question.question_id for question in asked])
    labels, pictures = [question.label for question in asked], [question.image for question in asked]
    return pope(said, labels, pictures, n=n, seed=seed)
