"""The configurations of all commands but `train`; each docstring is the command's `--help`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from tyro.conf import Positional

from omnipref.config.base import Config, Model, Records, Scoring


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Config):
    """Align a small vision-language model that hallucinates, measure it, and write a report.

    Examples:
      omnipref demo
      omnipref demo --seed 1 --output-dir demo-1
    """

    output_dir: str = "omnipref-demo"
    """Folder for the models, the numbers and `report.html`."""
    seed: int = 0
    """Draws the pictures, the samples and the order."""
    size: float = 1.0
    """One dial: scales pictures, steps and test set; 0.1 is a smoke test."""
    arms: list[str] = field(default_factory=list)
    """Which arms to train; empty trains all, controls included."""
    workers: int = 0
    """Processes that train arms side by side; 0 takes one per core, or one where there is an accelerator."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"size": (0.01, 100), "workers": (0, 64)}


@dataclass(frozen=True, kw_only=True)
class InspectConfig(Records):
    """Show what is in a preference file: counts, lengths, ties, duplicates, length gap, first bad records.

    Examples:
      omnipref data inspect prefs.jsonl
      omnipref data inspect prefs.parquet --model-name-or-path Qwen/Qwen2.5-0.5B-Instruct --limit 1000
    """

    files: Positional[list[str]]
    """Files, folders of `datasets`, or names on the hub."""
    model_name_or_path: str | None = None
    """Counts lengths in this model's tokens instead of words."""
    limit: int | None = None
    """Read only the first records."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"limit": (1, inf)}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Records):
    """Write preferences of any known format in omnipref's own, or with TRL's columns; bad records go to a side file.

    Examples:
      omnipref data convert ultrafeedback.parquet --output prefs.jsonl
      omnipref data convert rows.jsonl --dataset-format nectar --to trl --output prefs.jsonl
    """

    file: Positional[str]
    """File, folder of `datasets`, or name on the hub."""
    output: str
    """JSONL file to write."""
    to: Literal["native", "trl"] = "native"
    """omnipref's own format, or TRL's columns."""
    ties: Literal["drop", "keep"] = "drop"
    """What to do with tied comparisons."""
    duplicates: Literal["drop", "keep"] = "drop"
    """What to do with preferences seen before."""
    limit: int | None = None
    """Read only the first records."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"limit": (1, inf)}


@dataclass(frozen=True, kw_only=True)
class PairsConfig(Records):
    """Turn ranked and scored lists into pairs.

    Examples:
      omnipref data pairs nectar.jsonl --output pairs.jsonl
      omnipref data pairs ratings.jsonl --pairs all --margin 1 --max-per-prompt 4 --output pairs.jsonl
    """

    file: Positional[str]
    """File, folder of `datasets`, or name on the hub."""
    output: str
    """JSONL file to write."""
    pairs: Literal["all", "best_vs_worst", "adjacent", "random"] = "best_vs_worst"
    """Which pairs of a list are kept."""
    margin: float = 0.0
    """Least difference of the two scores."""
    max_per_prompt: int | None = None
    """Most pairs of a list, drawn at random."""
    seed: int = 0
    """Draws the pairs, together with the record's number."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"margin": (0, inf), "max_per_prompt": (1, inf)}


@dataclass(frozen=True, kw_only=True)
class BuildConfig(Records):
    """Make preferences: perturb, sample, judge, retrieve, filter; the builders run from left to right.

    Examples:
      omnipref build prefs.jsonl --builders "occlude(share=0.75)" --output with_pictures.jsonl
      omnipref build prompts.jsonl --builders "best_vs_worst(reward=-count('fork'), n=6)" similar_image \\
          --model-name-or-path run --output pairs.jsonl
    """

    dataset: Positional[list[str]]
    """Records to start from: preferences or prompts."""
    output: str
    """JSONL file to write; an interrupted run continues it."""
    builders: list[str]
    """Builders with their options, first to last."""
    model_name_or_path: str | None = None
    """Model of the builders that sample or embed."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    limit: int | None = None
    """Read only the first records."""
    seed: int = 0
    """Draws whatever is random, together with the record's number."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"limit": (1, inf)}


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Model):
    """Sample responses to prompts, locally or from an OpenAI-compatible server.

    Examples:
      omnipref sample prompts.jsonl --model-name-or-path run --num-samples 6 --output samples.jsonl
      omnipref sample prompts.jsonl --server http://localhost:8000/v1 --model-name-or-path served --output samples.jsonl
    """

    dataset: Positional[list[str]]
    """Prompts, or preferences whose contexts are the prompts."""
    output: str
    """File to write; an interrupted run continues it."""
    server: str | None = None
    """Address of an OpenAI-compatible server, which knows `model_name_or_path`; None samples in this process."""
    num_samples: int = 1
    """Responses per prompt."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus."""
    max_new_tokens: int = 256
    """Longest response."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        **Model.bounds,
        "num_samples": (1, inf),
        "temperature": (0, inf),
        "top_p": (0, 1),
        "max_new_tokens": (1, inf),
    }


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Scoring):
    """Write the log-likelihood of every case under a model, and its implicit reward against a reference.

    Examples:
      omnipref score prefs.jsonl --model-name-or-path run --output scores.jsonl
      omnipref score prefs.jsonl --model-name-or-path run --ref-model base --beta 0.1 --output rewards.jsonl
      omnipref score prefs.jsonl --model-name-or-path base --dtype float32 --fill-cache --output base.jsonl
    """

    dataset: Positional[list[str]]
    """Preferences to score."""
    output: str
    """File to write, one line per preference."""
    bf16: bool = False
    """Compute in bfloat16 (autocast), as `omnipref train --bf16` does."""
    fill_cache: bool = False
    """Keep the scores per token in `cache_dir`, where `omnipref train` with the same model, `dtype`, `bf16` and records
    takes its reference scores from; those that are there are not computed again."""
    cache_vision_features: bool = False
    """Keep what the encoders make of pictures and clips there too, for `omnipref train --cache-vision-features`."""
    cache_dir: str | None = None
    """Folder of the caches, shared by runs; None: `$OMNIPREF_CACHE`, else `~/.cache/omnipref`."""

    def conflicts(self) -> Iterator[str]:
        """A place for caches, and nothing to keep in it."""
        yield from Scoring.conflicts(self)
        if self.cache_dir and not (self.fill_cache or self.cache_vision_features):
            yield "`cache_dir` says where to keep what `fill_cache` or `cache_vision_features` asks to keep; add one"


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Scoring):
    """Measure a model on held-out preferences: accuracy, margin, displacement, length, with intervals.

    Examples:
      omnipref eval held_out.jsonl --model-name-or-path run --ref-model base --output eval.json
    """

    dataset: Positional[list[str]]
    """Preferences that were not trained on."""
    output: str = "eval.json"
    """File to write."""
    metrics: list[str] = field(default_factory=list)
    """Which metrics; empty takes all that the data allow."""
    bootstrap: int = 2000
    """Resamples behind an interval."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {**Scoring.bounds, "bootstrap": (100, inf)}


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Write one self-contained HTML page about one or several runs: table, curves, what it means.

    Examples:
      omnipref report run --output report.html
      omnipref report run-a run-b --title "Two learning rates"
    """

    runs: Positional[list[str]]
    """Output folders of `train`, `eval` or `demo`."""
    output: str = "report.html"
    """File to write."""
    title: str | None = None
    """Heading of the page; the folders' names by default."""


@dataclass(frozen=True, kw_only=True)
class MethodsConfig(Config):
    """List the published methods that can be trained, with their papers.

    Examples:
      omnipref methods
      omnipref methods --modality image-text
      omnipref methods --form markdown > methods.md
    """

    modality: str | None = None
    """Only methods of this modality."""
    form: Literal["table", "markdown", "json"] = "table"
    """How to print."""
    check: bool = False
    """Import every method too, and list what fails."""


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(Config):
    """Run the claim of a method: its arms and controls over several seeds; say plainly whether it held.

    Arms that were already run are taken from `output_dir`, so an interrupted run continues.

    Examples:
      omnipref reproduce re-align
      omnipref reproduce all --modality text --seeds 3
    """

    slug: Positional[str]
    """Method, or `all`."""
    modality: str | None = None
    """With `all`: only methods of this modality."""
    seeds: int | None = None
    """How many seeds; the claim's own number by default. With fewer than the record that is there,
    the result is kept beside it, as `<slug>.trial.json`."""
    output_dir: str = "benchmarks/claims"
    """Folder for `<slug>.json` and the arms' numbers."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the arms, such as a smaller size; the result is then not the claim's."""
    fresh: bool = False
    """Run every arm again."""

    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"seeds": (2, 1000)}


@dataclass(frozen=True, kw_only=True)
class EnvConfig(Config):
    """Print versions, devices and optional extras, for bug reports.

    Examples:
      omnipref env
    """
