"""Preferences from the model's own samples: sample, judge, and pair what was judged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from omnipref.build.builder import Builder, Built, answered, each, made_by, placed
from omnipref.errors import DataError
from omnipref.policies.contexts import Sampler
from omnipref.policies.prompt_files import context_of
from omnipref.preferences import Case, Comparison, Preference, to_pairs
from omnipref.rewards import Reward


def sample(sampler: Sampler, n: int = 6, distinct: bool = True) -> Builder:
    """`n` responses to each record's context as roles `response_0` ...; empty ones are dropped.

    The record's own cases are replaced; a record without any usable response is dropped with its reason.

    Args:
        sampler: draws them.
        n: how many.
        distinct: whether equal ones are kept once.
    """

    def step(records: Sequence[Preference]) -> Built:
        built = Built([])
        answers = sampler([context_of(record) for record in records], n=n)
        for record, texts in zip(records, answers, strict=True):
            try:
                built.preferences.append(_responses(record, texts, distinct))
            except DataError as error:
                built.dropped.append(placed(error, record))
        return built

    return Builder("sample", lambda pool: step)


def _responses(record: Preference, texts: Sequence[str], distinct: bool) -> Preference:
    kept = [text for text in (dict.fromkeys(texts) if distinct else texts) if text.strip()]
    if not kept:
        raise DataError(f"{len(texts)} empty samples", "text", cure="raise max_new_tokens or look at the prompt")
    context = context_of(record)
    cases = {f"response_{k}": answered(context, text) for k, text in enumerate(kept)}
    new = replace(record, cases=cases, comparisons=(), labels={}, columns={})
    return made_by(new, "sample", n=len(texts), distinct=len(set(kept)))


def judge(reward: Reward, annotator: str = "rule") -> Builder:
    """Score every response and rank them, best first; scores are the columns `score/<role>`.

    Responses without a score (NaN) are left out; a record without any is dropped.

    Args:
        reward: higher is better.
        annotator: who judges, kept on each comparison: `rule`, `self`, `open_model`, `closed_model`, `human`.
    """

    def step(records: Sequence[Preference]) -> Built:
        built = Built([])
        scores = iter(reward([case for record in records for case in record.cases.values()]))
        for record in records:
            found = [(case, next(scores)) for case in record.cases.values()]
            try:
                built.preferences.append(_ranked(record, found, annotator))
            except DataError as error:
                built.dropped.append(placed(error, record))
        return built

    return Builder("judge", lambda pool: step)


def _ranked(record: Preference, found: Sequence[tuple[Case, float]], annotator: str) -> Preference:
    scored = sorted((item for item in found if not math.isnan(item[1])), key=lambda item: -item[1])
    if not scored:
        raise DataError(f"{len(found)} responses without a score", "scores", cure="read the judge's quarantine file")
    cases = {f"response_{k}": case for k, (case, _) in enumerate(scored)}
    scores = {f"response_{k}": score for k, (_, score) in enumerate(scored)}
    columns = {f"score/{role}": score for role, score in scores.items()}
    new = replace(record, cases=cases, columns=columns, comparisons=_comparisons(scores, annotator), labels={})
    return made_by(new, "judge", unscored=len(found) - len(scored))


def _comparisons(scores: dict[str, float], annotator: str) -> tuple[Comparison, ...]:
    """Ties inside a level of equal scores; every case of a level over every case of the next: all else follows."""
    levels = [list(group) for _, group in itertools.groupby(scores, key=lambda role: scores[role])]
    ties = [pair for level in levels for pair in itertools.pairwise(level)]
    clear = [pair for pair_of in itertools.pairwise(levels) for pair in itertools.product(*pair_of)]
    return tuple(
        Comparison(better, worse, margin=scores[better] - scores[worse], annotator=annotator, tie=tie)
        for pairs, tie in ((clear, False), (ties, True))
        for better, worse in pairs
    )


def pairs(
    policy: Literal["all", "best_vs_worst", "adjacent", "random"] = "best_vs_worst",
    margin: float = 0.0,
    max_per_prompt: int | None = None,
    seed: int = 0,
) -> Builder:
    """Pairs from ranked and scored lists by `preferences.to_pairs`; a record whose responses tie is dropped.

    Args:
        policy: which of the pairs that the comparisons imply.
        margin: least difference of the scores.
        max_per_prompt: most pairs of one record, drawn at random.
        seed: of the draws, with the record's number.
    """

    def change(record: Preference) -> list[Preference]:
        made = to_pairs(record, policy, margin=margin, max_per_prompt=max_per_prompt, seed=seed)
        if not made:
            scores = sorted({value for name, value in record.columns.items() if name.startswith("score/")})
            found = (
                f"{len(record.cases)} response(s) of scores {', '.join(f'{score:g}' for score in scores) or 'unknown'}"
            )
            raise DataError(found, f"two that differ by {margin:g} or more" if margin else "two that differ")
        return [made_by(one, "pairs", policy=policy) for one in made]

    return each("pairs", change)


def best_vs_worst(sampler: Sampler, reward: Reward, n: int = 6, margin: float = 0.0) -> Builder:
    """Sample `n` responses, judge them, and pair the best with the worst; records whose scores tie are dropped.

    Columns: `score/chosen`, `score/rejected`; the comparison's margin is their difference. Of equal scores the first
    sampled is taken.
    """
    return sample(sampler, n) >> judge(reward) >> pairs("best_vs_worst", margin)


def from_samples(
    sampler: Sampler,
    reward: Reward,
    n: int = 6,
    policy: Literal["ranked", "all", "best_vs_worst", "adjacent", "random"] = "ranked",
) -> Builder:
    """Sample and judge, then pair by a policy of `pairs`; `ranked` keeps the scored list as it is."""
    listed = sample(sampler, n) >> judge(reward)
    return listed if policy == "ranked" else listed >> pairs(policy)


def group(sampler: Sampler, reward: Reward, n: int = 8, differing: bool = False) -> Builder:
    """Sample `n` responses and score them, for group-relative objectives such as `grpo`: equal ones are all kept.

    A record of which fewer than two responses can be scored is dropped.

    Args:
        sampler: draws the responses.
        reward: higher is better.
        n: how many.
        differing: whether to drop groups whose scores are all equal, which teach nothing (DAPO, arXiv 2503.14476).

    Example:
        >>> from omnipref.preferences import pair
        >>> from omnipref.rewards import count
        >>> build = group(lambda contexts, n: [["a fork", "a", "a"][:n] for _ in contexts], -count("fork"), n=3)
        >>> build([pair("What? ", "two", "three")]).preferences[0].columns
        {'score/response_0': 0.0, 'score/response_1': 0.0, 'score/response_2': -1.0}
    """

    def check(record: Preference) -> list[Preference]:
        scores = list(record.columns.values())
        if len(scores) < 2:
            raise DataError(f"{len(scores)} of {n} responses with a score", "two or more", cure="more samples")
        if differing and len(set(scores)) < 2:
            raise DataError(f"{len(scores)} responses of score {scores[0]:g}", "two that differ", cure="more samples")
        return [record]

    return sample(sampler, n, distinct=False) >> judge(reward) >> each("group", check)
