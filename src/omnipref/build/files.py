"""`omnipref build`: builders on a file, in parts, so that an interrupted run goes on to the same file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from omnipref.build.builder import Builder, Step
from omnipref.build.expressions import Supplied, builder_of
from omnipref.errors import ConfigError
from omnipref.policies.parts import Part, run_in_parts
from omnipref.policies.prompt_files import read_all_prompts, refusal
from omnipref.preferences import Preference, to_json
from omnipref.preferences.write import saved_media

PART = 256
"""Records per part: what an interruption loses at most."""


class BuildSettings(Protocol):
    """What `run` reads; `omnipref.config.BuildConfig` holds it."""

    dataset: list[str]
    output: str
    builders: list[str]
    model_name_or_path: str | None
    trust_remote_code: bool
    dataset_split: str
    dataset_format: str | None
    limit: int | None
    seed: int


def run(config: BuildSettings) -> Path:
    """Write the preferences that the builders make, and what they left out with its reason to the side file.

    Raises:
        ConfigError: a builder cannot be read, the output exists, or it belongs to an interrupted run of other settings.
        DataError: the source cannot be read at all.
    """
    output = Path(config.output)
    if output.suffix != ".jsonl":
        raise ConfigError(f"found output {config.output!r}; expected a name that ends in .jsonl")
    builder = chained([builder_of(text, supplied(config)) for text in config.builders])
    records, refused = read_all_prompts(
        config.dataset, format=config.dataset_format, split=config.dataset_split, limit=config.limit
    )
    names = [name for name in BuildSettings.__annotations__ if name != "output"]
    settings = {name: getattr(config, name) for name in names}
    # Preparing may embed every picture: only when a part is missing.
    step = functools.cache(lambda: builder.prepare(records))
    aside = [refusal(error) for error in refused]
    written, dropped = run_in_parts(
        output,
        settings,
        records,
        PART,
        lambda part: _part(part, step(), output),
        "building",
        aside,
        [*config.dataset, config.model_name_or_path],
    )
    print(f"{written} preferences from {len(records)} records, {dropped} put aside: {output}")
    return output


def chained(builders: Sequence[Builder]) -> Builder:
    """Builders from left to right as one.

    Raises:
        ConfigError: there is none.
    """
    if not builders:
        raise ConfigError("found no builder; expected at least one, such as --builders random_image")
    return functools.reduce(lambda first, then: first >> then, builders)


def _part(records: Sequence[Preference], step: Step, output: Path) -> Part:
    built = step(records)
    rows = [to_json(saved_media(preference, output)) for preference in built.preferences]
    return Part(rows, [refusal(error) for error in built.dropped])


def supplied(config: BuildSettings) -> Supplied:
    """What a run gives to builders that leave it out: the seed, and a sampler and features of the model."""

    @functools.cache
    def sampler() -> Any:
        if not config.model_name_or_path:
            raise ConfigError("found no model for a builder that samples or embeds; expected --model-name-or-path")
        from omnipref.policies.sampling import load_sampler

        trust = {"trust_remote_code": config.trust_remote_code}
        return load_sampler(config.model_name_or_path, loading=trust, seed=config.seed)

    def features() -> Any:
        from omnipref.build.retrieval import vision_features

        return vision_features(sampler().model, sampler().owner)

    return {"seed": lambda: config.seed, "sampler": sampler, "features": features}
