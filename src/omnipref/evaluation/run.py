"""`omnipref eval`: measures a model on held-out preferences, and answer files against their benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnipref.evaluation.document import Arm, Metric
from omnipref.evaluation.estimates import Estimate
from omnipref.evaluation.files import read_rows, string, strings, write_atomic
from omnipref.evaluation.held_out import HELD_OUT_METRICS, check_metrics, held_out
from omnipref.evaluation.objects import chair
from omnipref.evaluation.tables import print_table
from omnipref.preferences import Preference

if TYPE_CHECKING:
    from omnipref.config import EvalConfig
    from omnipref.training.scoring import ScoredCase

Scored = Mapping[str, "ScoredCase"]
Score = Callable[[Sequence[Preference], Path], Sequence[Scored]]
"""Scores every case of one source's records in order; those that cannot be scored go to the path and are left out."""

CHAIR_METRICS = (
    Metric("chair_i", "CHAIR_i", "lower", note="Share of the named objects that are not in the picture."),
    Metric("chair_s", "CHAIR_s", "lower", note="Share of texts that name at least one object that is not there."),
    Metric("coverage", "coverage", "higher", note="Share of the objects in the picture that the text names."),
    Metric("objects", "objects named", "", False, 2, "Mean number of objects named per text."),
    Metric("length", "words", "", False, 1, "Mean number of words per text."),
)
POPE_METRICS = (
    Metric("accuracy", "accuracy", "higher", note="Share of yes/no questions answered right."),
    Metric("precision", "precision", "higher", note="Of the objects said to be there, the share that is there."),
    Metric("recall", "recall", "higher", note="Of the objects that are there, the share said to be there."),
    Metric("f1", "F1", "higher", note="Harmonic mean of precision and recall."),
    Metric(
        "yes_ratio", "yes ratio", "", note="Share of questions answered with yes; half of the true answers are yes."
    ),
)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; written as JSON.

    Args:
        model: folder or name.
        metrics: keys of `HELD_OUT_METRICS` to estimates.
        records: records measured.
        set_aside: records that could not be scored; they lie in a quarantine file with their reasons.
        config: the configuration.
    """

    model: str
    metrics: dict[str, Estimate]
    records: int
    set_aside: int
    config: dict[str, Any]


def evaluate(config: EvalConfig, score: Score | None = None) -> Evaluation:
    """`omnipref eval`: measures a model on held-out preferences, writes `config.output`, prints the table.

    Args:
        config: model, reference, data, metrics.
        score: scores the records of one source; by default with the model that the configuration names.

    Raises:
        ConfigError: an unknown metric.
        NeedsError: a metric needs a reference and there is none.
        DataError: records without comparisons, or scores that are not finite.
    """
    check_metrics(config.metrics, with_reference=bool(config.ref_model or config.ref_adapter))
    score = score or _model_scores(config)
    preferences, scores, given = [], [], 0
    for place, source in enumerate(_sources(config)):
        scored = score(source, Path(config.output).with_suffix(f".{place}.quarantine.jsonl"))
        kept = _scored(source, scored)
        preferences += kept
        scores += scored
        given += len(source)
    metrics = held_out(
        preferences, scores, beta=config.beta, metrics=config.metrics, n=config.bootstrap, seed=config.seed
    )
    result = Evaluation(config.model_name_or_path, metrics, len(scores), given - len(scores), asdict(config))
    write_values(config.output, asdict(result))
    columns = [metric for metric in HELD_OUT_METRICS if metric.key in metrics]
    caption = f"95 % over {result.records} records, {result.set_aside} set aside; written to {config.output}"
    print_table([Arm(Path(result.model).name, metrics)], columns, caption=caption)
    return result


def _sources(config: EvalConfig) -> list[list[Preference]]:
    from omnipref.preferences.read import read

    options = {"format": config.dataset_format, "split": config.dataset_split, "limit": config.limit}
    return [list(read(source, **options)) for source in config.dataset]


def _model_scores(config: EvalConfig) -> Score:
    """Scores with the model and reference that a configuration names, loaded once."""
    from omnipref.training.scoring import load_scorer, score_preferences

    scorer = load_scorer(config)

    def score(preferences: Sequence[Preference], aside: Path) -> list[Scored]:
        options = {"batch_size": config.batch_size, "seed": config.seed, "aside": aside}
        found = score_preferences(scorer.policy, scorer.model, preferences, scorer.reference, **options)
        return [{case.role: case for case in cases} for cases in found]

    return score


def _scored(preferences: Sequence[Preference], scores: Sequence[Scored]) -> list[Preference]:
    """The records of one source that have scores, in order."""
    numbers = {preference.record: preference for preference in preferences}
    return [numbers[next(iter(cases.values())).record] for cases in scores]


def write_values(path: Path | str, values: Mapping[str, Any]) -> Path:
    """Writes numbers as JSON, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(path, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def evaluate_generations(path: Path | str, *, n: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """CHAIR_i, CHAIR_s, coverage, objects named and length of a file of generated texts.

    Args:
        path: JSON lines with `text`, `mentioned` (objects the text names) and `present` (objects in the picture).
        n: resamples.
        seed: of the resampling.

    Raises:
        DataError: names the line and the field.
    """
    rows = list(enumerate(read_rows(path)))
    mentioned = [strings(row, "mentioned", record, path) for record, row in rows]
    present = [set(strings(row, "present", record, path)) for record, row in rows]
    texts = [string(row, "text", record, path) for record, row in rows]
    return chair(mentioned, present, texts).estimates(n=n, seed=seed)
