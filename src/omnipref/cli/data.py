"""`omnipref data`: what the preferences room can do with whole files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from omnipref.config import ConvertConfig, InspectConfig, PairsConfig
from omnipref.errors import ConfigError
from omnipref.preferences import Preference, Reading, convert_file, inspect_file, read, render, to_pairs, write_jsonl


def inspect(config: InspectConfig) -> None:
    """Print what is in each file."""
    processor, console = _processor(config.model_name_or_path), Console()
    for file in config.files:
        found = inspect_file(
            file,
            format=config.dataset_format,
            split=config.dataset_split,
            limit=config.limit,
            tokenizer=getattr(processor, "tokenizer", processor),
            processor=processor if hasattr(processor, "tokenizer") else None,
        )
        console.print(render(found))


def _processor(name: str | None) -> Any:
    """The model's processor, or its tokenizer where it has none; None without a model."""
    if name is None:
        return None
    from omnipref.policies.autoregressive.load import load_owner

    return load_owner(name)


def convert(config: ConvertConfig) -> None:
    """Write the file in another format and say what was done."""
    report = convert_file(
        config.file,
        config.output,
        to=config.to,
        format=config.dataset_format,
        split=config.dataset_split,
        limit=config.limit,
        ties=config.ties,
        duplicates=config.duplicates,
    )
    print(f"{report.summary()}\nWrote {config.output}")


def pairs(config: PairsConfig) -> None:
    """Write the pairs of a file's lists and say how many there are.

    Raises:
        ConfigError: the output is there already; it may be the source.
    """
    if Path(config.output).exists():
        raise ConfigError(f"found a file {config.output}; expected none. To mend: remove it, or give another --output")
    reading = read(config.file, format=config.dataset_format, split=config.dataset_split)
    count = write_jsonl(_pairs(reading, config), config.output)
    print(f"{reading.report.summary()}\nWrote {count} pairs to {config.output}")


def _pairs(reading: Reading, config: PairsConfig) -> Iterator[Preference]:
    for preference in track(reading, description="Pairing", transient=True):
        yield from to_pairs(
            preference,
            config.pairs,
            margin=config.margin,
            max_per_prompt=config.max_per_prompt,
            seed=config.seed,
        )
