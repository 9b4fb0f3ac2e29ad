"""Text builders: swap or remove words, or take another record's answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from omnipref.build.builder import Builder, Step, answered, case_of, each, each_step, generator, made_by, paired
from omnipref.errors import ConfigError, DataError
from omnipref.preferences import Case, Preference

MISMATCHED = "mismatched"
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

Predicate = Callable[[Case, str], bool]
"""Whether a word of a case's response is meant, such as: names a thing; is not in the picture."""


def words_of(words: Sequence[str]) -> Predicate:
    """The predicate that a word is one of these, upper and lower case alike."""
    known = {word.lower() for word in words}
    return lambda case, word: word.lower() in known


def _predicate(words: Sequence[str] | Predicate) -> Predicate:
    return words if callable(words) else words_of(words)


def role_of(record: Preference, role: str | None) -> str:
    """The role itself, or the record's first."""
    return role or record.roles[0]


def word_swap(words: Sequence[str], count: int = 1, seed: int = 0, role: str | None = None) -> Builder:
    """Rejected is the response with some of its words exchanged for others of the same list.

    Args:
        words: words that can stand for each other, such as names of things.
        count: words to exchange; fewer where the response has fewer.
        seed: draws the places and the words, with the record's number.
        role: the case to perturb, which becomes `chosen`; the record's first by default.

    Raises:
        ConfigError: fewer than two different words, or a count below 1.
    """
    known = list(dict.fromkeys(word.lower() for word in words))
    if len(known) < 2 or count < 1:
        raise ConfigError(f"found {len(known)} different words and count {count}; expected two or more, and 1 or more")

    def change(record: Preference) -> list[Preference]:
        name = role_of(record, role)
        case = case_of(record, name)
        places = [match for match in WORD.finditer(case.text) if match[0].lower() in known]
        if not places:
            raise DataError("none of the words", f"one of {', '.join(known[:6])}", cure="give more words", field=name)
        rng = generator(seed, "word_swap", record.record)
        picked = sorted(rng.permutation(len(places))[:count].tolist(), reverse=True)
        text = case.text
        for match in (places[i] for i in picked):
            others = [word for word in known if word != match[0].lower()]
            text = text[: match.start()] + others[int(rng.integers(len(others)))] + text[match.end() :]
        new = paired(record, case, answered(case.context, text), "rule")
        return [made_by(new, "word_swap", seed=seed, swapped=[places[i][0] for i in picked[::-1]])]

    return each("word_swap", change)


def remove_words(wrong: Sequence[str] | Predicate, role: str | None = None) -> Builder:
    """Chosen is the response corrected by removing its wrong words; rejected is the response as it was.

    A word goes with the article before it and the `and` or comma that joined it.

    Args:
        wrong: words, or a predicate of case and word.
        role: the case to correct; the record's first by default.

    Records with nothing to remove, or nothing left, are dropped with the reason.

    Example:
        >>> from omnipref.preferences import pair
        >>> built = remove_words(["fork"])([pair("describe", "a fork and a plate and a fork", "x")])
        >>> built.preferences[0].cases["chosen"].text
        'a plate'
    """
    meant = _predicate(wrong)

    def change(record: Preference) -> list[Preference]:
        name = role_of(record, role)
        case = case_of(record, name)
        removed = [match[0] for match in WORD.finditer(case.text) if meant(case, match[0])]
        if not removed:
            raise DataError("no wrong word", "at least one", cure="nothing to correct", field=name)
        new = paired(record, answered(case.context, without(case.text, removed)), case, "rule")
        return [made_by(new, "remove_words", removed=removed)]

    return each("remove_words", change)


def without(text: str, words: Sequence[str]) -> str:
    """A text without these words, their articles, and the joins that they leave behind."""
    names = "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True))
    join = r"(?:\s*,\s*and\b|\s*,|\s*\band\b)?"
    left = re.sub(rf"{join}\s*(?:\b(?:an?|the)\s+)?\b(?:{names})\b", "", text, flags=re.IGNORECASE)
    return re.sub(r"^\s*(?:,|and\b)\s*", "", left, flags=re.IGNORECASE).strip()


def mismatched(seed: int = 0, role: str | None = None) -> Builder:
    """Another record's response to this context, as role `mismatched`: what KTO measures its reference point on.

    It has no label and no comparison. The other response never reads like this one.

    Args:
        seed: draws the other record, with this record's number.
        role: the case whose response is given away; each record's first by default.

    Source: arXiv 2402.01306, section 4.1 (z from mismatched pairs of a batch).
    """

    def prepare(pool: Sequence[Preference]) -> Step:
        texts = list(dict.fromkeys(case_of(one, role_of(one, role)).text for one in pool))
        place = {text: number for number, text in enumerate(texts)}

        def change(record: Preference) -> list[Preference]:
            own = case_of(record, role_of(record, role))
            others = len(texts) - (own.text in place)
            if not others:
                raise DataError("no other response in the pool", "at least two different ones", cure="use more records")
            draw = int(generator(seed, MISMATCHED, record.record).integers(others))
            draw += draw >= place.get(own.text, len(texts))
            return [made_by(record.with_case(MISMATCHED, answered(own.context, texts[draw])), MISMATCHED, seed=seed)]

        return each_step(change)

    return Builder(MISMATCHED, prepare)
