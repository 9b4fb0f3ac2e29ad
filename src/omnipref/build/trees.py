"""Trees of solutions: a right one is cut at some of its steps, and the model goes on from there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from omnipref.build.builder import Builder, Built, case_of, generator, made_by, placed
from omnipref.build.infill import continuing
from omnipref.errors import ConfigError, DataError
from omnipref.policies.contexts import Context, Sampler
from omnipref.policies.prompt_files import context_of
from omnipref.preferences import RAW, Case, Message, Part, Preference

STEP = r"(?i)(?=\bstep\s+\d+\s*[:.])|(?<=\n)(?=\S)"
"""Where a step begins: at `Step 3:` or at the start of a line."""


def in_steps(text: str, mark: str = STEP) -> list[str]:
    """The steps of a text, which put together are the text again.

    Args:
        text: a solution.
        mark: pattern of the places where a step begins.

    Example:
        >>> in_steps("Step 1: 3 + 5 = 8. Step 2: 8 + 9 = 17.")
        ['Step 1: 3 + 5 = 8. ', 'Step 2: 8 + 9 = 17.']
    """
    found: list[str] = []
    for piece in re.split(mark, text):
        if found and not found[-1].strip():
            found[-1] += piece
        elif piece:
            found.append(piece)
    return found


@dataclass(frozen=True)
class _Branch:
    """A place in a solution, and what the model is to continue there."""

    record: int
    cut: int
    start: str
    context: Context


def tree_expand(
    sampler: Sampler,
    branches: int = 3,
    mark: str = STEP,
    chosen: str = "chosen",
    rejected: str = "rejected",
    seed: int = 0,
) -> Builder:
    """Lists of solutions that share beginnings: the right one, branches off it, and the wrong one if there is one.

    A right solution is cut before `branches` of its steps, different ones while there are such, and the model goes on
    from each cut. Roles are `response_0` (the right one), `response_1` ..., and last the wrong one; each response has
    its steps as parts, so objectives see them as segments. Who grades them comes after: `tree_expand() >> judge(...)`.

    Args:
        sampler: the model that goes on.
        branches: how many, at least 1; two that read the same are kept once.
        mark: pattern of the places where a step begins.
        chosen: role of the right solution.
        rejected: role of the wrong one, which may be missing.
        seed: of the cuts, together with the record's number.

    Raises:
        ConfigError: an argument is out of range.

    Source: arXiv 2410.12854, appendix, and its released `data_pipeline`.
    """
    if branches < 1:
        raise ConfigError(f"found branches={branches!r}; expected 1 or more")
    try:
        re.compile(mark)
    except re.error as error:
        raise ConfigError(f"found mark={mark!r} ({error}); expected a pattern such as {STEP!r}") from None

    def step(records: Sequence[Preference]) -> Built:
        built, good, wanted = Built([]), list[Preference](), list[_Branch]()
        for record in records:
            try:
                wanted += _branches(record, len(good), case_of(record, chosen), branches, mark, seed)
                good.append(record)
            except DataError as error:
                built.dropped.append(placed(error, record))
        answers = sampler([branch.context for branch in wanted], n=1) if wanted else []
        for number, record in enumerate(good):
            own = [(b, texts[0]) for b, texts in zip(wanted, answers, strict=True) if b.record == number]
            built.preferences.append(_tree(record, own, mark, chosen, rejected))
        return built

    return Builder("tree_expand", lambda pool: step)


def _branches(record: Preference, number: int, case: Case, branches: int, mark: str, seed: int) -> list[_Branch]:
    steps = in_steps(case.text, mark)
    if len(steps) < 2:
        raise DataError(
            f"{len(steps)} step in the right solution",
            "marks of two steps or more",
            cure="write each step on a line of its own or as `Step 2: ...`, or give another `mark`",
        )
    draw = generator(seed, "tree_expand", record.record)
    order = [int(cut) for _ in range(-(-branches // len(steps))) for cut in draw.permutation(len(steps))]
    starts = [(cut, "".join(steps[:cut])) for cut in order[:branches]]
    # A trailing space would split the next word's token for most tokenizers.
    return [_Branch(number, cut, start, continuing(case.context, start.rstrip())) for cut, start in starts]


def _tree(
    record: Preference, branches: Sequence[tuple[_Branch, str]], mark: str, chosen: str, rejected: str
) -> Preference:
    context = context_of(record)
    grown = [f"{branch.start}{answer.lstrip()}" for branch, answer in branches if answer.strip()]
    wrong = [record.cases[rejected].text] if rejected in record.cases else []
    texts = list(dict.fromkeys([record.cases[chosen].text, *grown, *wrong]))
    cases = {f"response_{k}": _stepwise(context, text, mark) for k, text in enumerate(texts)}
    made = Preference(cases, record=record.record, source=record.source, meta=record.meta)
    return made_by(made, "tree_expand", cuts=[branch.cut for branch, _ in branches], distinct=len(texts))


def _stepwise(context: Context, text: str, mark: str) -> Case:
    role = RAW if context[-1].role == RAW else "assistant"
    return Case(tuple(context), (Message(role, tuple(Part("text", step) for step in in_steps(text, mark))),))
