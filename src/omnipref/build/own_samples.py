"""The model's own responses beside the cases of a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from omnipref.build.builder import Builder, Built, answered, made_by, placed
from omnipref.errors import DataError
from omnipref.policies.contexts import Sampler
from omnipref.policies.prompt_files import context_of
from omnipref.preferences import Preference


def own_samples(sampler: Sampler, n: int = 2, role: str = "sample") -> Builder:
    """Add `n` independent responses of the model as roles `sample_0` ...; equal ones are kept.

    Args:
        sampler: draws them.
        n: how many.
        role: the roles' name, before the number.

    Example:
        >>> from omnipref.preferences import pair
        >>> built = own_samples(lambda contexts, n: [["2"] * n for _ in contexts], n=2)([pair("1+1=", "2", "3")])
        >>> built.preferences[0].roles
        ('chosen', 'rejected', 'sample_0', 'sample_1')
    """

    def step(records: Sequence[Preference]) -> Built:
        built = Built([])
        answers = sampler([context_of(record) for record in records], n=n)
        for record, texts in zip(records, answers, strict=True):
            if not all(text.strip() for text in texts):
                error = DataError(f"an empty sample among {n}", "text", cure="allow longer responses")
                built.dropped.append(placed(error, record))
                continue
            context = context_of(record)
            cases = {f"{role}_{k}": answered(context, text) for k, text in enumerate(texts)}
            built.preferences.append(made_by(replace(record, cases={**record.cases, **cases}), "own_samples", n=n))
        return built

    return Builder("own_samples", lambda pool: step)
