"""What is due to what: sentences made from contrasts by rule, never written beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from omnipref.evaluation.document import Contrast, Metric, Report
from omnipref.evaluation.estimates import Estimate, difference

_WORDS = {1: "Better", -1: "Worse", 0: "Not separable from chance"}


@dataclass(frozen=True)
class Verdict:
    """One metric of one contrast: arm minus control.

    Args:
        metric: the column.
        estimate: the difference and its interval.
        better: +1 when the arm is better by more than chance, -1 when worse, 0 when not separable.
        paired: whether the difference was measured on the same items.
    """

    metric: Metric
    estimate: Estimate
    better: int
    paired: bool

    @property
    def text(self) -> str:
        """Such as `CHAIR_i −2.1 points (−3.0 to −1.2)`."""
        value, low, high = (
            self.metric.text(x, sign=True) for x in (self.estimate.value, self.estimate.low, self.estimate.high)
        )
        return f"{self.metric.label} {value}{' points' if self.metric.share else ''} ({low} to {high})"


@dataclass(frozen=True)
class Finding:
    """A contrast with its verdicts, ready to be read."""

    contrast: Contrast
    verdicts: tuple[Verdict, ...]

    def of(self, better: int) -> tuple[Verdict, ...]:
        """The verdicts with this sign."""
        return tuple(verdict for verdict in self.verdicts if verdict.better == better)

    @property
    def headline(self) -> str:
        """What the contrast shows, in one or two short sentences, and no more."""
        said = [f"{word}: {names}." for sign, word in _WORDS.items() if (names := self._names(sign))]
        return " ".join(said) or "Not measured."

    def _names(self, better: int) -> str:
        return ", ".join(verdict.metric.label for verdict in self.of(better)).rstrip(".")


def verdict(metric: Metric, arm: Estimate, control: Estimate, paired: Estimate | None = None) -> Verdict:
    """Compares two arms in one metric: separable only if the interval of the difference leaves out 0.

    Args:
        metric: says which direction is better.
        arm: estimate of the arm.
        control: estimate of the control.
        paired: arm minus control on the same items, where known.
    """
    estimate = paired or difference(arm, control)
    sign = (estimate.value > 0) - (estimate.value < 0)
    direction = {"higher": 1, "lower": -1}[metric.better]
    return Verdict(metric, estimate, sign * direction if estimate.separable_from(0) else 0, paired is not None)


def findings(report: Report) -> list[Finding]:
    """One finding per contrast, over the metrics that both arms have and that have a better direction."""
    return [Finding(contrast, _verdicts(report, contrast)) for contrast in report.findings]


def _verdicts(report: Report, contrast: Contrast) -> tuple[Verdict, ...]:
    arm, control = report.row(contrast.arm).metrics, report.row(contrast.control).metrics
    return tuple(
        verdict(metric, arm[metric.key], control[metric.key], contrast.differences.get(metric.key))
        for metric in report.metrics
        if metric.better
        and metric.key in arm
        and metric.key in control
        and (not contrast.metrics or metric.key in contrast.metrics)
    )
