"""Instructions that a response obeys or not by construction, so that prompts can be preferred without a judge.

A kind of instruction makes a sentence from an argument, and that sentence can be checked on any text. Arguments are
computed from the responses: no response is ever changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omnipref.build.builder import Builder, case_of, each, generator, made_by
from omnipref.build.rationales import asked
from omnipref.build.texts import WORD
from omnipref.errors import ConfigError, DataError
from omnipref.preferences import Case, Comparison, Preference

SPARE = ("however", "therefore", "perhaps", "finally", "because", "instead", "together", "usually", "moreover", "still")
"""Words to ask for that a response may lack, besides those of the other response."""


@dataclass(frozen=True)
class Instruction:
    """A sentence, and whether a text obeys it.

    Example:
        >>> [instruction("at_most", 3).obeyed(text) for text in ("one two three", "one two three four")]
        [True, False]
    """

    text: str
    obeyed: Callable[[str], bool]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [match[0].lower() for match in WORD.finditer(text)]


KINDS: Mapping[str, tuple[str, Callable[[list[str], int | str], bool]]] = {
    "at_least": ("Use at least {} words.", lambda said, n: len(said) >= int(n)),
    "at_most": ("Use at most {} words.", lambda said, n: len(said) <= int(n)),
    "containing": ('Use the word "{}".', lambda said, word: word in said),
    "avoiding": ('Do not use the word "{}".', lambda said, word: word not in said),
    "starting": ('Start with the word "{}".', lambda said, word: said[:1] == [word]),
    "ending": ('End with the word "{}".', lambda said, word: said[-1:] == [word]),
}
"""Kind to its sentence and its check of a text's words."""

GROUPS = (("at_least", "at_most"), ("containing",), ("avoiding",), ("starting",), ("ending",))
"""At most one kind of each group goes into a prompt: two lengths can exclude each other."""


def instruction(kind: str, argument: int | str) -> Instruction:
    """The instruction of a kind with an argument: a number of words, or a word in lower case."""
    sentence, check = KINDS[kind]
    return Instruction(sentence.format(argument), lambda text: check(words(text), argument))


def _arguments(kind: str, text: str, other: str) -> list[int | str]:
    """What a kind can be asked for: numbers around the text's length; its words, the other text's, and spare ones."""
    said = words(text)
    if kind in GROUPS[0]:
        return list(range(1, 2 * len(said) + 2))
    return list(dict.fromkeys([*said, *words(other), *SPARE]))


def intra_instructions(seed: int = 0) -> Builder:
    """The same response under two prompts, one of which it obeys better: roles `<role>@obeyed`, `<role>@disobeyed`.

    For the chosen and for the rejected response apart, 2 to 5 kinds of instruction are drawn. Half of the prompts are
    all obeyed against not all obeyed, half some obeyed against none; both prompts hold the same kinds in the same
    order, and only arguments differ. A record whose responses allow fewer than two kinds is dropped.

    Args:
        seed: of the draws, with the record's number.

    Source: arXiv 2505.12845; kinds, numbers and wording are ours.
    """

    def change(record: Preference) -> list[Preference]:
        rng = generator(seed, "intra_instructions", record.record)
        made = record
        for role, other in (("chosen", "rejected"), ("rejected", "chosen")):
            case = case_of(record, role)
            sides = _two_prompts(case.text, case_of(record, other).text, rng)
            better, worse = f"{role}@obeyed", f"{role}@disobeyed"
            made = made.with_case(better, _instructed(case, sides[0]))
            made = made.with_case(worse, _instructed(case, sides[1]), Comparison(better, worse, annotator="rule"))
        return [made_by(made, "intra_instructions", seed=seed)]

    return each("intra_instructions", change)


def inter_instructions(seed: int = 0, most: int = 3) -> Builder:
    """The same pair under instructions that tell it apart: roles `chosen@instructed` and `rejected@instructed`.

    One to `most` instructions are drawn that the chosen response obeys and the rejected one does not. A record that
    nothing tells apart is dropped.

    Args:
        seed: of the draws, with the record's number.
        most: instructions in a prompt at most.

    Raises:
        ConfigError: `most` is below 1.

    Source: arXiv 2505.12845; kinds, numbers and wording are ours.
    """
    if most < 1:
        raise ConfigError(f"found most={most}; expected 1 or more")

    def change(record: Preference) -> list[Preference]:
        rng = generator(seed, "inter_instructions", record.record)
        better, worse = (case_of(record, role) for role in ("chosen", "rejected"))
        found: list[Instruction] = []
        for kind in _kinds(rng):
            able = [instruction(kind, argument) for argument in _arguments(kind, better.text, worse.text)]
            able = [one for one in able if one.obeyed(better.text) and not one.obeyed(worse.text)]
            found += [able[int(rng.integers(len(able)))]] if able else []
        if not found:
            raise DataError("no instruction that tells the responses apart", "one", cure="drop the record")
        found = found[: int(rng.integers(1, most + 1))]
        names = ("chosen@instructed", "rejected@instructed")
        made = record.with_case(names[0], _instructed(better, found))
        made = made.with_case(names[1], _instructed(worse, found), Comparison(*names, annotator="rule"))
        return [made_by(made, "inter_instructions", seed=seed, count=len(found))]

    return each("inter_instructions", change)


def _kinds(rng: np.random.Generator) -> list[str]:
    """One kind of each group, in a random order."""
    groups = [GROUPS[i] for i in rng.permutation(len(GROUPS))]
    return [group[int(rng.integers(len(group)))] for group in groups]


def _two_prompts(text: str, other: str, rng: np.random.Generator) -> tuple[list[Instruction], list[Instruction]]:
    """Instructions that a text obeys better, and others of the same kinds."""
    both: list[tuple[Instruction, Instruction]] = []
    used: set[int | str] = set()
    wanted = int(rng.integers(2, len(GROUPS) + 1))
    for kind in _kinds(rng):
        # A word that two instructions name could make them exclude each other.
        options = {argument: instruction(kind, argument) for argument in _arguments(kind, text, other)}
        free = [argument for argument in options if argument not in used]
        sides = [[a for a in free if options[a].obeyed(text) is right] for right in (True, False)]
        if all(sides) and len(both) < wanted:
            picked = [side[int(rng.integers(len(side)))] for side in sides]
            used |= set(picked)
            both.append((options[picked[0]], options[picked[1]]))
    if len(both) < 2:
        raise DataError(f"{len(both)} instruction(s) for a response", "two or more", cure="drop the record")
    some = rng.permutation(len(both))[: int(rng.integers(1, len(both) + 1))]
    if rng.integers(2):
        return [right for right, _ in both], [wrong if i in some else right for i, (right, wrong) in enumerate(both)]
    return [right if i in some else wrong for i, (right, wrong) in enumerate(both)], [wrong for _, wrong in both]


def _instructed(case: Case, instructions: Sequence[Instruction]) -> Case:
    return Case(asked(case.context, "\n" + " ".join(one.text for one in instructions)), case.response)
