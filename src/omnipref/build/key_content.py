"""What a text says most: its key phrases by co-occurrence (RAKE), and versions of it that have lost some of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection

import numpy as np

from omnipref.build.builder import Builder, answered, case_of, each, generator, made_by
from omnipref.build.rationales import asked
from omnipref.build.texts import WORD
from omnipref.errors import ConfigError, DataError
from omnipref.preferences import Preference

DEGREE = "degree"
"""Role of the right answer to how much is missing; the wrong ones are `wrong_degree_1` and on."""

_FUNCTION_WORDS = """
a about after all also an and any are as at be because been before but by can could did do does each for from had has
have he her here his how i if in into is it its just like may me more most my no not of on one only or other our out
over she should so some such than that the their them then there these they this to up use very was we were what when
which who will with would you your
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that end a phrase: a short list of English function words, ours."""

_ASK = '\n\nThis response may have lost parts:\n"{text}"\nHow much of it is missing, from 0 for nothing to {last}?'


def key_phrases(text: str, stop: Collection[str] = STOP_WORDS) -> dict[str, float]:
    """The phrases of a text with their scores, highest first; of equal scores the first in the text.

    Phrases are runs of words between punctuation and stop words, in lower case. A word's score is its degree over its
    frequency, where the degree counts the words of all phrases that it stands in, itself included; a phrase's is the
    sum over its words.

    Args:
        text: any.
        stop: words that end a phrase.

    Example:
        >>> key_phrases("deep neural networks learn deep features", stop={"learn"})
        {'deep neural networks': 8.5, 'deep features': 4.5}

    Source: S. Rose, D. Engel, N. Cramer, W. Cowley, Automatic keyword extraction from individual documents, 2010.
    """
    phrases, end = [[]], 0
    for match in WORD.finditer(text):
        word = match[0].lower()
        if text[end : match.start()].strip() or word in stop:
            phrases.append([])
        if word not in stop:
            phrases[-1].append(word)
        end = match.end()
    phrases = [phrase for phrase in phrases if phrase]
    frequency = Counter(word for phrase in phrases for word in phrase)
    degree = Counter[str]()
    for phrase in phrases:
        for word in phrase:
            degree[word] += len(phrase)
    scores = {" ".join(phrase): sum(degree[word] / frequency[word] for word in phrase) for phrase in phrases}
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def without_phrases(text: str, phrases: Collection[str]) -> str:
    """A text without any occurrence of these phrases, upper and lower case alike; the blanks left behind are closed.

    Example:
        >>> without_phrases("Red cubes stand. A ball and red  cubes.", ["red cubes"])
        'stand. A ball and.'
    """
    for phrase in sorted(phrases, key=len, reverse=True):
        pattern = r"\s+".join(map(re.escape, phrase.split()))
        text = re.sub(rf"(?<![^\W_]){pattern}(?![^\W_])", "", text, flags=re.IGNORECASE)
    return re.sub(r" +(?=[.,;:!?])", "", re.sub(r" {2,}", " ", text)).strip() if phrases else text


def remove_key_content(
    levels: int = 3,
    most: float = 0.8,
    share: float = 1 / 3,
    highest_first: bool = False,
    seed: int = 0,
    role: str = "chosen",
) -> Builder:
    """How much of a response is missing: a version without some key phrases, and a question with `levels` answers.

    A level `c` from 0 to `levels − 1` is drawn, and `⌊q_c K + ½⌋` of the `K` key phrases are removed, with
    `q_c = most · c / (levels − 1)`; level 0 is the text as it is. The right level is the response of role `degree`, the
    others are those of `wrong_degree_1` and on. The record's other cases stay. A response with too few key phrases to
    tell the levels apart is dropped.

    Args:
        levels: C, 2 or more.
        most: share of the key phrases that the last level removes.
        share: share of all phrases that are key, the highest scores; rounded up.
        highest_first: remove the highest scores first, instead of any of the key phrases.
        seed: of the level and of what is removed, with the record's number; another seed is another epoch.
        role: the case whose response is degraded.

    Raises:
        ConfigError: an argument is out of range.

    Source: arXiv 2409.17791; numbers and question are ours.
    """
    if levels < 2 or not 0 < most <= 1 or not 0 < share <= 1:
        raise ConfigError(
            f"found levels={levels}, most={most}, share={share}; expected 2 or more, and shares in (0, 1]"
        )

    def change(record: Preference) -> list[Preference]:
        case = case_of(record, role)
        scores = key_phrases(case.text)
        key = list(scores)[: math.ceil(share * len(scores))]
        counts = removed_counts(len(key), levels, most)
        if len(set(counts)) < levels:
            found, cure = f"{len(key)} key phrase(s)", "drop the record, or use fewer levels"
            raise DataError(found, f"enough for {levels} levels that differ", cure=cure, field=role)
        rng = generator(seed, "remove_key_content", record.record)
        level = int(rng.integers(levels))
        gone = _drawn(key, counts[level], highest_first, rng)
        context = asked(case.context, _ASK.format(text=without_phrases(case.text, gone), last=levels - 1))
        others = [other for other in range(levels) if other != level]
        made = record.with_case(DEGREE, answered(context, str(level)))
        for k, other in enumerate(others, 1):
            made = made.with_case(f"wrong_{DEGREE}_{k}", answered(context, str(other)))
        return [made_by(made, "remove_key_content", seed=seed, level=level, removed=gone)]

    return each("remove_key_content", change)


def removed_counts(key: int, levels: int, most: float) -> list[int]:
    """How many of so many key phrases each level removes.

    Example:
        >>> removed_counts(5, levels=3, most=0.8)
        [0, 2, 4]
    """
    return [math.floor(most * level / (levels - 1) * key + 0.5) for level in range(levels)]


def _drawn(key: list[str], count: int, highest_first: bool, rng: np.random.Generator) -> list[str]:
    picked = range(count) if highest_first else sorted(rng.permutation(len(key))[:count].tolist())
    return [key[i] for i in picked]
