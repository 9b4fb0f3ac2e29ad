"""`omnipref sample`: responses to the prompts of a file, in parts: an interrupted run goes on to the same file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from omnipref.errors import DataError
from omnipref.policies.contexts import Context, Sampler
from omnipref.policies.parts import Part, run_in_parts
from omnipref.policies.prompt_files import context_of, prompt_only, read_all_prompts, refusal
from omnipref.preferences import RAW, Preference, to_json
from omnipref.preferences.write import saved_media


class SampleSettings(Protocol):
    """What `run` reads; `omnipref.config.SampleConfig` holds it."""

    dataset: list[str]
    output: str
    model_name_or_path: str
    adapter: str | None
    server: str | None
    num_samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    batch_size: int
    dataset_split: str
    dataset_format: str | None
    limit: int | None
    dtype: str
    trust_remote_code: bool
    seed: int


_PARTS = 8
"""Batches per part: what an interruption loses at most."""


def run(config: SampleSettings) -> Path:
    """Write one line per prompt: `record`, `prompt` (text or messages), `responses`, and `source`.

    Raises:
        ConfigError: the output exists, or belongs to an interrupted run of other settings.
        DataError: the prompts cannot be read at all.
        ServerError: the server answered nothing of a part; finished parts are kept.
    """
    records, refused = read_all_prompts(
        config.dataset, format=config.dataset_format, split=config.dataset_split, limit=config.limit
    )
    names = [name for name in SampleSettings.__annotations__ if name not in ("output", "batch_size")]
    settings = {name: getattr(config, name) for name in names}
    sampler = sampler_of(config)
    output = Path(config.output)

    def work(part: Sequence[Preference]) -> Part:
        return sampled(part, sampler, config.num_samples, output)

    aside = [refusal(error) for error in refused]
    size = config.batch_size * _PARTS
    made_of = [*config.dataset, config.model_name_or_path, config.adapter]
    written, dropped = run_in_parts(output, settings, records, size, work, "sampling", aside, made_of)
    print(f"{written} prompts answered, {dropped} put aside: {output}")
    return output


def sampler_of(config: SampleSettings) -> Sampler:
    """The sampler that a configuration names: a served model, or one loaded here."""
    options: dict[str, Any] = {
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": config.seed,
    }
    if config.server:
        from omnipref.policies.server import Server, ServerSampler

        return ServerSampler(Server(config.server, config.model_name_or_path), **options)
    from omnipref.policies.sampling import load_sampler

    loading = {"dtype": config.dtype, "trust_remote_code": config.trust_remote_code}
    rows = config.batch_size * config.num_samples
    return load_sampler(config.model_name_or_path, config.adapter, loading, batch_size=rows, **options)


def sampled(records: Sequence[Preference], sampler: Sampler, n: int, output: Path) -> Part:
    """Answer the contexts of some records; a context that cannot be encoded is put aside and the rest goes on."""
    answers, reasons = answers_of([context_of(record) for record in records], sampler, n)
    rows, dropped = [], []
    for number, record in enumerate(records):
        if answers[number]:
            rows.append(_row(record, answers[number], output))
        if number in reasons:
            dropped.append({**refusal(reasons[number]), "record": record.record, "source": record.source})
    return Part(rows, dropped)


def answers_of(
    contexts: Sequence[Context], sampler: Sampler, n: int
) -> tuple[dict[int, list[str]], dict[int, DataError]]:
    """Responses by the context's place (empty where none came), and why some are missing.

    Raises:
        ServerError: nothing was answered at all.
    """
    from omnipref.policies.server import ServerError

    open_ = list(range(len(contexts)))
    reasons: dict[int, DataError] = {}
    texts: Sequence[Sequence[str | None]] = []
    while open_:
        try:
            texts = sampler([contexts[place] for place in open_], n=n)
            break
        except DataError as error:
            if error.record is None:
                raise
            reasons[open_.pop(error.record)] = error
        except ServerError as error:
            if not any(text is not None for row in error.answers for text in row):
                raise
            texts = error.answers
            for request, reason in error.reasons.items():
                reasons[open_[request // n]] = DataError(f"no answer ({reason})", "an answer", cure="sample it again")
            break
    answers = {place: [] for place in range(len(contexts))}
    for place, row in zip(open_, texts, strict=True) if texts else ():
        answers[place] = [text for text in row if text is not None]
    return answers, reasons


def _row(record: Preference, answers: Sequence[str], output: Path) -> dict[str, Any]:
    context = context_of(record)
    plain = len(context) == 1 and context[0].role == RAW and not context[0].media
    saved = to_json(saved_media(replace(prompt_only(context), meta={}), output))
    prompt = context[0].text if plain else saved["context"]
    return {"record": record.record, "prompt": prompt, "responses": list(answers), "source": record.source}
