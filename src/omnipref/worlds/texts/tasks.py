"""What is asked, how a careless writer answers, and how good an answer really is, aspect by aspect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Task:
    """A task whose answers can be judged exactly.

    Args:
        name: of the task.
        words: all that prompts and answers are made of.
        ask: a prompt, from random numbers.
        write: a careless writer's answer to a prompt.
        judge: aspect to how much of it an answer to a prompt has.
        weights: aspect to its weight in the true reward.
    """

    name: str
    words: tuple[str, ...]
    ask: Callable[[Random], str]
    write: Callable[[str, Random], str]
    judge: Callable[[str, str], Mapping[str, float]]
    weights: Mapping[str, float]

    def reward(self, prompt: str, answer: str) -> float:
        """The true reward: the weighted sum of the aspects.

        Args:
            prompt: what was asked.
            answer: what was answered.
        """
        found = self.judge(prompt, answer)
        return sum(weight * found[aspect] for aspect, weight in self.weights.items())


TOPICS = ("river", "moon", "bread", "cat", "snow", "tree", "clock", "ship", "bee", "stone", "lamp", "wind")
FACTS = {topic: tuple(f"{topic}-{k}" for k in ("one", "two", "three")) for topic in TOPICS}
FILLERS, THANKS, OPENERS = ("well", "um", "so"), "thanks", ("please", "now", "hey")


def _ask_topics(draw: Random) -> str:
    return f"{draw.choice(OPENERS)} tell me of {' and '.join(draw.sample(TOPICS, 2))} :"


def _facts(prompt: str) -> tuple[str, ...]:
    words = prompt.split()
    return FACTS[words[-4]] + FACTS[words[-2]]


def _chat(prompt: str, draw: Random) -> str:
    said = [fact for fact in _facts(prompt) if draw.random() < 0.5]
    if draw.random() < 0.5:
        said.append(draw.choice(FACTS[draw.choice(TOPICS)]))
    draw.shuffle(said)
    words = [word for fact in said for word in ([draw.choice(FILLERS)] if draw.random() < 0.4 else []) + [fact]]
    return " ".join([*words, *([THANKS] if draw.random() < 0.3 else []), "."])


def _of_a_chat(prompt: str, answer: str) -> Mapping[str, float]:
    words = answer.split()
    right = set(_facts(prompt))
    named = [word for word in words if "-" in word]
    return {
        "facts": len(right & set(named)),
        "errors": sum(word not in right for word in named),
        "fillers": sum(word in FILLERS for word in words),
        "thanks": float(THANKS in words),
        "ended": float(words[-1:] == ["."] and words.count(".") == 1),
    }


def dialogue() -> Task:
    """Say what is true of two topics: three facts each are, and every fact of another topic is an error.

    Example:
        >>> task = dialogue()
        >>> task.judge("now tell me of moon and bee :", "moon-one um cat-two thanks .")
        {'facts': 1, 'errors': 1, 'fillers': 1, 'thanks': 1.0, 'ended': 1.0}
        >>> task.reward("now tell me of moon and bee :", "moon-one um cat-two thanks .")
        0.75
    """
    facts = tuple(fact for own in FACTS.values() for fact in own)
    words = (*OPENERS, "tell", "me", "of", "and", ":", ".", THANKS, *FILLERS, *TOPICS, *facts)
    weights = {"facts": 1.0, "errors": -1.0, "fillers": -0.25, "thanks": 0.5, "ended": 0.5}
    return Task("dialogue", words, _ask_topics, _chat, _of_a_chat, weights)


TERMS, RIGHT = 5, 0.7
"""Digits that are added, and how often the careless writer gets a step right."""


def _ask_sum(draw: Random) -> str:
    return " ".join([*(str(draw.randrange(10)) for _ in range(TERMS)), "="])


def running_sums(prompt: str) -> list[str]:
    """The last digits of the running sums, from two terms on: the right steps.

    Example:
        >>> running_sums("3 5 9 4 7 =")
        ['8', '7', '1', '8']
    """
    digits = [int(word) for word in prompt.split()[:TERMS]]
    return [str(sum(digits[:count]) % 10) for count in range(2, TERMS + 1)]


def _add(prompt: str, draw: Random) -> str:
    digits = [int(word) for word in prompt.split()[:TERMS]]
    at, steps = digits[0], []
    for digit in digits[1:]:
        at = (at + digit) % 10 if draw.random() < RIGHT else draw.randrange(10)
        steps.append(str(at))
    return " ".join([*steps, "."])


def _of_a_sum(prompt: str, answer: str) -> Mapping[str, float]:
    right, words = running_sums(prompt), answer.split()
    kept = next((k for k, (a, b) in enumerate(zip(words, right, strict=False)) if a != b), min(len(words), len(right)))
    return {"steps": kept / len(right), "whole": float(words == [*right, "."])}


def arithmetic() -> Task:
    """Add five digits one by one, a digit for each step; what follows a wrong step counts for nothing.

    Example:
        >>> arithmetic().judge("3 5 9 4 7 =", "8 7 2 9 .")
        {'steps': 0.5, 'whole': 0.0}
    """
    words = (*map(str, range(10)), "=", ".")
    return Task("arithmetic", words, _ask_sum, _add, _of_a_sum, {"steps": 1.0})


def prompts(task: Task, count: int, seed: int) -> Sequence[str]:
    """Prompts of a task, all different.

    Args:
        task: what is asked; it must have so many prompts.
        count: how many.
        seed: of the random numbers.
    """
    draw, found = Random(f"{task.name}/{seed}"), dict[str, None]()
    while len(found) < count:
        found[task.ask(draw)] = None
    return list(found)
