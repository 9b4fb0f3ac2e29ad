"""Judges behind an OpenAI-compatible server: absolute scores and comparisons, read from their text."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnipref.policies.contexts import Context
from omnipref.policies.server import Server, ServerError
from omnipref.preferences import Case, Message, Part
from omnipref.rewards.judges import Judge, both_orders
from omnipref.rewards.reward import Reward, RewardTerm

_SCORE = re.compile(r"(?:score|rating)\W{0,6}(-?\d+(?:\.\d+)?)", re.IGNORECASE)
_BARE_SCORE = re.compile(r"\W{0,4}(-?\d+(?:\.\d+)?)(?:\s*/\s*\d+)?\W{0,4}")
_VERDICT = re.compile(r"verdict\W{0,6}(a|b|tie)\b", re.IGNORECASE)
_BARE_VERDICT = re.compile(r"\W{0,4}(a|b|tie)\W{0,4}", re.IGNORECASE)
_VERDICTS = {"a": 1.0, "b": -1.0, "tie": 0.0}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unscored:
    """A case or pair of cases without a score: what the judge said, and why that is no score."""

    cases: tuple[Case, ...]
    reply: str | None
    reason: str


Quarantine = Callable[[Unscored], None]
"""What is done with cases that got no score."""


def warn(unscored: Unscored) -> None:
    """Report it in the log."""
    log.warning("no score for %r: %s", unscored.cases[0].text[:60], unscored.reason)


def quarantine_file(path: str | Path) -> Quarantine:
    """Append each unscored case to a JSONL file with prompt, responses, reply and reason."""

    def write(unscored: Unscored) -> None:
        line = {
            "prompt": _asked(unscored.cases[0]),
            "responses": [case.text for case in unscored.cases],
            "reply": unscored.reply,
            "reason": unscored.reason,
        }
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def server_reward(
    server: Server,
    criterion: str = "how correct, complete and faithful to what is shown the answer is",
    *,
    low: float = 1.0,
    high: float = 10.0,
    quarantine: Quarantine = warn,
) -> Reward:
    """A judge's score of each case, scaled to [0, 1]: (score - low) / (high - low).

    Args:
        server: where to ask; give it `options={"temperature": 0}` for scores that repeat.
        criterion: what is judged, in words.
        low: worst score.
        high: best score.
        quarantine: gets the cases whose reply holds no score between the two, or never came; their reward is NaN.

    Raises:
        ServerError: when called, if no request at all was answered.
    """
    task = (
        f'Judge {criterion}. End with one line "Score: N", where N is a number from {low:g} (worst) to {high:g} (best).'
    )

    def score(cases: Sequence[Case]) -> list[float]:
        contexts = [_question(case.context, task, {"Answer": case}) for case in cases]
        found = _read(
            server, contexts, [(case,) for case in cases], lambda reply: _number(reply, low, high), quarantine
        )
        return [(value - low) / (high - low) for value in found]

    return Reward((RewardTerm("server_reward", score),))


def server_judge(
    server: Server,
    criterion: str = "which answer is more correct, complete and faithful to what is shown",
    *,
    swap: bool = True,
    quarantine: Quarantine = warn,
) -> Judge:
    """A judge that compares two cases of one context.

    Args:
        server: where to ask.
        criterion: what is judged, in words.
        swap: ask in both orders and count only verdicts that agree; otherwise position bias goes into the data.
        quarantine: gets the pairs whose reply holds no verdict, or never came.

    Raises:
        ServerError: when called, if no request at all was answered.
    """
    task = f'Judge {criterion}. End with one line "Verdict: A", "Verdict: B" or "Verdict: tie".'

    def judge(pairs: Sequence[tuple[Case, Case]]) -> list[float]:
        contexts = [_question(first.context, task, {"Answer A": first, "Answer B": second}) for first, second in pairs]
        return _read(server, contexts, list(pairs), _verdict, quarantine)

    return both_orders(judge) if swap else judge


def _question(context: Context, task: str, answers: dict[str, Case]) -> Context:
    """One user message: the dialogue with its media in place, the answers, the task."""
    parts: list[Part] = []
    for message in context:
        parts += [Part("text", f"[{message.role}]\n"), *message.parts, Part("text", "\n\n")]
    said = "\n\n".join(f"[{name}]\n{case.text}" for name, case in answers.items())
    return (Message("user", (*parts, Part("text", f"{said}\n\n{task}"))),)


def _asked(case: Case) -> str:
    return "\n".join(message.text for message in case.context)


def _read(
    server: Server,
    contexts: Sequence[Context],
    cases: Sequence[tuple[Case, ...]],
    parse: Callable[[str], float | str],
    quarantine: Quarantine,
) -> list[float]:
    """Ask, and turn each reply into a number; what is no number is quarantined and NaN."""
    replies: Sequence[str | None]
    try:
        replies, reasons = server.ask([(context, {}) for context in contexts], "judging"), {}
    except ServerError as error:
        if len(error.reasons) == len(contexts):
            raise
        replies, reasons = error.answers, error.reasons
    values = []
    for number, reply in enumerate(replies):
        found = parse(reply) if reply is not None else reasons[number]
        if isinstance(found, str):
            quarantine(Unscored(cases[number], reply, found))
            found = math.nan
        values.append(found)
    return values


def _number(reply: str, low: float, high: float) -> float | str:
    """The last score a reply names, or why there is none."""
    named = _SCORE.findall(reply)
    bare = _BARE_SCORE.fullmatch(reply.strip())
    text = named[-1] if named else bare[1] if bare else None
    if text is None:
        return f"found no score in {reply[-80:]!r}; expected a line such as `Score: {high:g}`"
    value = float(text)
    return value if low <= value <= high else f"found score {value:g}; expected {low:g} to {high:g}"


def _verdict(reply: str) -> float | str:
    """The last verdict a reply names, or why there is none."""
    named = _VERDICT.findall(reply)
    bare = _BARE_VERDICT.fullmatch(reply.strip())
    text = named[-1] if named else bare[1] if bare else None
    if text is None:
        return f"found no verdict in {reply[-80:]!r}; expected a line such as `Verdict: tie`"
    return _VERDICTS[text.lower()]
