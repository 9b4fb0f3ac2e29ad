"""Implicit rewards on held-out preferences: accuracy, margin, displacement, length, with intervals over records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omnipref.errors import ConfigError, DataError, NeedsError, nearest
from omnipref.evaluation.document import Metric
from omnipref.evaluation.estimates import Array, Estimate, bootstrap, ratio, ratio_interval
from omnipref.preferences import Preference

if TYPE_CHECKING:
    from omnipref.training.scoring import ScoredCase

EVAL_JSON = "eval.json"
"""Where `omnipref eval` writes by default, and where `omnipref report` looks."""

HELD_OUT_METRICS = (
    Metric(
        "accuracy",
        "reward accuracy",
        "higher",
        note="Comparisons whose better case has the greater reward; ties are wrong.",
    ),
    Metric(
        "margin", "reward margin", "higher", False, 3, "Mean reward of the better case minus that of the worse case."
    ),
    Metric(
        "chosen_shift",
        "chosen shift",
        "",
        False,
        2,
        "Mean change of log p of the better case against the reference, in nats.",
    ),
    Metric("rejected_shift", "rejected shift", "", False, 2, "The same for the worse case."),
    Metric(
        "displaced",
        "displaced",
        "lower",
        note="Comparisons whose better case became less likely than under the reference.",
    ),
    Metric(
        "length_gap",
        "length gap",
        "",
        False,
        1,
        "Mean units (tokens) of the better case minus those of the worse case.",
    ),
)


@dataclass(frozen=True)
class _Compared:
    """Per comparison, `[M]`: log-likelihoods and units of the better and worse cases, and the record they belong to."""

    record: np.ndarray
    logp: Array
    units: Array
    ref_logp: Array | None
    beta: float

    @property
    def shift(self) -> Array:
        """`[M, 2]`: log p of better and worse, against the reference where there is one."""
        return self.logp - self.ref_logp if self.ref_logp is not None else self.logp

    @property
    def margin(self) -> Array:
        """`[M]`: beta times the difference of log-ratios; of log-likelihoods where there is no reference."""
        return self.beta * (self.shift[:, 0] - self.shift[:, 1])

    def per_record(self, value: Array) -> Array:
        """`[P, 2]`: sums and counts by record, so that a record's comparisons are resampled together."""
        index = {record: place for place, record in enumerate(dict.fromkeys(self.record.tolist()))}
        place = np.array([index[record] for record in self.record.tolist()])
        return np.stack([np.bincount(place, value), np.bincount(place)], 1).astype(np.float64)


_VALUES: Mapping[str, Callable[[_Compared], np.ndarray]] = {
    "accuracy": lambda compared: compared.margin > 0,
    "margin": lambda compared: compared.margin,
    "chosen_shift": lambda compared: compared.shift[:, 0],
    "rejected_shift": lambda compared: compared.shift[:, 1],
    "displaced": lambda compared: compared.shift[:, 0] < 0,
    "length_gap": lambda compared: compared.units[:, 0] - compared.units[:, 1],
}
_NEED_REFERENCE = frozenset({"chosen_shift", "rejected_shift", "displaced"})


def held_out(
    preferences: Sequence[Preference],
    scores: Sequence[Mapping[str, ScoredCase]],
    *,
    beta: float = 0.1,
    metrics: Sequence[str] = (),
    n: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Numbers of `HELD_OUT_METRICS` over all comparisons that are not ties; the interval resamples records.

    reward = beta * (log p - log p_ref), or beta * log p where there is no reference.

    Args:
        preferences: the records.
        scores: per record, role to score.
        beta: scale of the reward.
        metrics: which; empty takes all that the scores allow.
        n: resamples.
        seed: of the resampling.

    Raises:
        ConfigError: an unknown metric.
        NeedsError: a metric needs a reference and there is none.
        DataError: no comparison, a role without score, or a score that is not finite.

    Source: DPO, arXiv 2305.18290, section 4 (implicit reward).
    """
    compared = _compared(preferences, scores, beta)
    check_metrics(metrics, with_reference=compared.ref_logp is not None)
    possible = [name for name in _VALUES if compared.ref_logp is not None or name not in _NEED_REFERENCE]
    shares = {metric.key for metric in HELD_OUT_METRICS if metric.share}
    values: dict[str, Estimate] = {}
    for name in metrics or possible:
        rows = compared.per_record(np.asarray(_VALUES[name](compared), np.float64))
        share = name in shares
        values[name] = ratio_interval(*rows.T, n=n, seed=seed) if share else bootstrap(rows, ratio, n=n, seed=seed)
    return values


def check_metrics(metrics: Sequence[str], *, with_reference: bool) -> None:
    """Refuses metrics that cannot be had, before anything is scored.

    Raises:
        ConfigError: an unknown metric.
        NeedsError: a metric needs a reference and there is none.
    """
    for name in metrics:
        if name not in _VALUES:
            raise ConfigError(f"found the metric `{name}`; {nearest(name, _VALUES)}")
        if name in _NEED_REFERENCE and not with_reference:
            raise NeedsError(f"found no reference for `{name}`; expected `ref_model` or `ref_adapter`")


def _compared(preferences: Sequence[Preference], scores: Sequence[Mapping[str, ScoredCase]], beta: float) -> _Compared:
    if len(preferences) != len(scores):
        raise DataError(f"scores of {len(scores)} records", f"scores of all {len(preferences)}")
    record: list[int] = []
    pairs: list[tuple[ScoredCase, ScoredCase]] = []
    for place, (preference, score) in enumerate(zip(preferences, scores, strict=True)):
        for comparison in preference.comparisons:
            if comparison.tie:
                continue
            record.append(place)
            pairs.append((_of(score, comparison.better, preference), _of(score, comparison.worse, preference)))
    if not pairs:
        raise DataError("no comparison that is not a tie", "preferences with a better and a worse case")
    references = [case.ref_logp for pair in pairs for case in pair]
    known = [value for value in references if value is not None]
    if known and len(known) != len(references):
        raise DataError("reference scores of some cases", "of all cases or of none")
    return _Compared(
        np.array(record),
        np.array([[case.logp for case in pair] for pair in pairs]),
        np.array([[case.units for case in pair] for pair in pairs], dtype=np.float64),
        np.array(known).reshape(-1, 2) if known else None,
        beta,
    )


def _of(score: Mapping[str, ScoredCase], role: str, preference: Preference) -> ScoredCase:
    place = {"record": preference.record, "field": role, "source": preference.source or None}
    if role not in score:
        raise DataError(f"scores of {', '.join(score) or 'no case'} only", "a score of every compared case", **place)
    case = score[role]
    if not np.isfinite([case.logp, case.ref_logp or 0.0]).all():
        raise DataError(f"log-likelihood {case.logp}", "a finite number", **place)
    return case
