"""The record: a context's cases and the comparisons over them.

Pairs, ranked and scored lists, step trees, unpaired likes and conditional preferences (same answer, other picture) are
all one `Preference`; what differs is which cases it holds and which comparisons.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

RAW = "raw"
"""Role of a message that is plain text (or media) outside any chat template."""


@dataclass(frozen=True)
class Part:
    """One piece of a message: text, or a reference to media.

    Args:
        type: `text`, `image`, `video`, `audio`, or another modality.
        value: the text; or a path, URL, bytes, `{"bytes": ..., "path": ...}`, PIL image or array.
    """

    type: str
    value: Any


@dataclass(frozen=True)
class Message:
    """A turn of a dialogue. The role `raw` marks content that takes no chat template."""

    role: str
    parts: tuple[Part, ...]

    @staticmethod
    def of(role: str, *parts: str | Part) -> Message:
        """A message from strings and parts.

        Example:
            >>> Message.of("user", Part("image", "a.png"), "what is this?").parts[1].value
            'what is this?'
        """
        return Message(role, tuple(part if isinstance(part, Part) else Part("text", part) for part in parts))

    @property
    def text(self) -> str:
        """All text parts, joined."""
        return "".join(part.value for part in self.parts if part.type == "text")

    @property
    def media(self) -> tuple[Part, ...]:
        """The parts that are not text, in order."""
        return tuple(part for part in self.parts if part.type != "text")


@dataclass(frozen=True)
class Case:
    """One (context, response) whose likelihood can be scored.

    A response is one or several messages; its text parts are its segments (steps, sentences): each is tokenised on its
    own, and the index of the part becomes `Scores.segment`.
    """

    context: tuple[Message, ...]
    response: tuple[Message, ...]

    @staticmethod
    def raw(prompt: str, response: str | Part) -> Case:
        """A case without chat template: a plain prompt and a plain response (text, or media for a generator)."""
        return Case((Message.of(RAW, prompt),), (Message.of(RAW, response),))

    @staticmethod
    def chat(context: Iterable[Message], response: str) -> Case:
        """A dialogue and the assistant's answer."""
        return Case(tuple(context), (Message.of("assistant", response),))

    @property
    def text(self) -> str:
        """The response's text."""
        return "".join(message.text for message in self.response)

    def replace_media(self, media: Iterable[Any]) -> Case:
        """The same case with its context's media exchanged in order, for conditional preferences.

        Raises:
            ValueError: the number of media differs.
        """
        media = list(media)
        count = sum(len(message.media) for message in self.context)
        if len(media) != count:
            raise ValueError(f"found {len(media)} replacement media; expected {count}, one per medium of the context")
        queue = iter(media)
        context = tuple(
            Message(
                message.role,
                tuple(part if part.type == "text" else Part(part.type, next(queue)) for part in message.parts),
            )
            for message in self.context
        )
        return replace(self, context=context)


@dataclass(frozen=True)
class Comparison:
    """One case is preferred to another; `tie` says that neither is.

    Args:
        better: role of the preferred case.
        worse: role of the other case.
        weight: multiplies the loss.
        margin: how much better, in units of the source's scores.
        aspect: what was judged, such as `helpfulness`.
        annotator: who judged: `human`, `closed_model`, `open_model`, `self`, `rule`, or a name.
    """

    better: str
    worse: str
    weight: float = 1.0
    margin: float | None = None
    aspect: str | None = None
    annotator: str | None = None
    tie: bool = False


@dataclass(frozen=True)
class Preference:
    """A context's cases plus the comparisons over them.

    Args:
        cases: role to case. Roles: `chosen`, `rejected`, `chosen@negative_image`, `response_0` ... `response_{K-1}`
            (best first is not required, comparisons decide), `step_3/rejected`, `completion` (unpaired).
        comparisons: which case is preferred to which.
        labels: role to True (desirable) or False, for unpaired data.
        columns: numbers that objectives may ask for, such as `margin` or `score/chosen`.
        record: number in the source, from 0.
        source: file or data set.
        meta: anything else worth keeping (ids, provenance, licence); never read by objectives.

    Example:
        >>> pair("What is 1+1?", "2", "3").roles
        ('chosen', 'rejected')
    """

    cases: Mapping[str, Case]
    comparisons: tuple[Comparison, ...] = ()
    labels: Mapping[str, bool] = field(default_factory=dict)
    columns: Mapping[str, float] = field(default_factory=dict)
    record: int = 0
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the cases, in order."""
        return tuple(self.cases)

    def ranks(self) -> dict[str, int]:
        """Role to rank, 0 best, of every case that is compared; ties share a rank.

        A case's rank is the length of the longest chain of cases preferred to it, so a full order gives 0 ... K-1.

        Raises:
            ValueError: the comparisons contradict each other.

        Example:
            >>> ranked("q", ["a", "b", "c"]).ranks()
            {'response_0': 0, 'response_1': 1, 'response_2': 2}
        """
        better = {role: [] for comparison in self.comparisons for role in (comparison.better, comparison.worse)}
        for comparison in self.comparisons:
            if not comparison.tie:
                better[comparison.worse].append(comparison.better)
        ranks: dict[str, int] = {}

        def rank(role: str, path: tuple[str, ...]) -> int:
            if role in path:
                raise ValueError(f"found a cycle of comparisons ({' > '.join((*path, role))}); expected an order")
            if role not in ranks:
                ranks[role] = max((rank(other, (*path, role)) + 1 for other in better[role]), default=0)
            return ranks[role]

        return {role: rank(role, ()) for role in self.cases if role in better}

    def with_case(self, role: str, case: Case, *comparisons: Comparison) -> Preference:
        """The same preference with one more case and comparisons that involve it."""
        return replace(self, cases={**self.cases, role: case}, comparisons=(*self.comparisons, *comparisons))


def _context(prompt: str | Iterable[Message]) -> tuple[Message, ...]:
    return (Message.of(RAW, prompt),) if isinstance(prompt, str) else tuple(prompt)


def _response(context: tuple[Message, ...], text: str | Part) -> tuple[Message, ...]:
    return (Message.of(RAW if context[-1].role == RAW else "assistant", text),)


def pair(prompt: str | Iterable[Message], chosen: str | Part, rejected: str | Part, **fields: Any) -> Preference:
    """A preference between two responses to one prompt; a string prompt takes no chat template."""
    context = _context(prompt)
    cases = {
        "chosen": Case(context, _response(context, chosen)),
        "rejected": Case(context, _response(context, rejected)),
    }
    return Preference(cases, (Comparison("chosen", "rejected"),), **fields)


def ranked(prompt: str | Iterable[Message], responses: Iterable[str | Part], **fields: Any) -> Preference:
    """A list of responses, best first, as roles `response_0` ... `response_{K-1}`."""
    context = _context(prompt)
    cases = {f"response_{k}": Case(context, _response(context, text)) for k, text in enumerate(responses)}
    roles = list(cases)
    comparisons = tuple(Comparison(better, worse) for better, worse in itertools.pairwise(roles))
    return Preference(cases, comparisons, **fields)


def unpaired(prompt: str | Iterable[Message], completion: str | Part, label: bool, **fields: Any) -> Preference:
    """One response that was liked or not, as role `completion`."""
    context = _context(prompt)
    return Preference(
        {"completion": Case(context, _response(context, completion))}, labels={"completion": label}, **fields
    )
