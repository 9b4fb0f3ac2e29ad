"""The demo's report: table, curves, pictures with answers, and what is due to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omnipref.demo import arms as rows
from omnipref.demo.arms import DemoArm
from omnipref.demo.measure import METRICS, Measured
from omnipref.evaluation import Answer, Arm, Contrast, Curve, Exhibit, Metric, Report, png_base64, run_facts
from omnipref.evaluation.findings import verdict
from omnipref.worlds import Picture, hallucinated, mentioned

CONTRASTS = (
    ("text DPO", rows.TEXT, rows.BASE),
    ("the visual term", rows.VISUAL, rows.TEXT),
    ("the contrast of pictures (against an anchor that holds the chosen caption up)", rows.VISUAL, rows.ANCHOR),
    ("knowing which picture is the true one (against a coin)", rows.VISUAL, rows.FLIPPED),
    ("a lower learning rate for text DPO", rows.SLOWER, rows.TEXT),
)
CURVES = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen")
EXHIBITS = 8
NOTES = (
    "The judge counts hallucinated objects only, so saying less is a shortcut that text DPO can take; coverage "
    "and words show whether it did.",
    "Controls decide what a gain is due to. What the anchor, the coin or the lower rate give as well is "
    "regularisation, not attention to the picture.",
    "One seed; the intervals are over test pictures and leave out the chance of training. "
    "`omnipref reproduce re-align` repeats the comparison over seeds.",
)


def demo_report(
    arms: Sequence[DemoArm],
    measured: Mapping[str, Measured],
    logs: Mapping[str, list[dict[str, float]]],
    pictures: Sequence[Picture],
    command: str,
    seed: int,
) -> Report:
    """All that the page shows.

    Args:
        arms: the rows, the base model first.
        measured: by arm key.
        logs: the trainer's log, by arm key.
        pictures: the test pictures.
        command: what the user typed.
        seed: its seed.
    """
    shown = {arm.key for arm in arms}
    contrasts = tuple(
        Contrast(cause, arm.name, control.name, differences=measured[arm.key].minus(measured[control.key]))
        for cause, arm, control in CONTRASTS
        if {arm.key, control.key} <= shown
    )
    return Report(
        title="A vision-language model, aligned from preferences",
        summary=_summary(arms, measured),
        metrics=METRICS,
        rows=tuple(Arm(arm.name, measured[arm.key].estimates(), arm.group, arm.note) for arm in arms),
        curves=tuple(curve for panel in CURVES for arm in arms for curve in _curve(panel, arm, logs.get(arm.key, []))),
        gallery=tuple(_exhibit(number, arms, measured, pictures) for number in _telling(measured)),
        findings=contrasts,
        notes=NOTES,
        footer=run_facts(command, seed),
    )


def _summary(arms: Sequence[DemoArm], measured: Mapping[str, Measured]) -> str:
    """What happened to hallucination and coverage, and to what the visual term's gains are due, from the numbers."""
    before = measured[rows.BASE.key].estimates()
    parts = []
    for arm in arms:
        if arm.group == rows.TEXT.group:
            after = measured[arm.key].estimates()
            parts.append(
                f"{arm.name} takes hallucinated objects from {before['chair_i'].value:.0%} to "
                f"{after['chair_i'].value:.1%} and coverage from {before['coverage'].value:.0%} to "
                f"{after['coverage'].value:.0%}"
            )
    said = "; ".join(parts) + "." if parts else "The base model, before any training."
    needed = {rows.TEXT.key, rows.VISUAL.key, rows.ANCHOR.key, rows.FLIPPED.key}
    return f"{said} {_attribution(measured)}" if needed <= set(measured) else said


def _attribution(measured: Mapping[str, Measured]) -> str:
    """The visual term's gains over text DPO: due to the pictures where it also beats both controls."""
    gained, due = (
        [metric.label for metric in METRICS if all(_beats(metric, measured, control) for control in controls)]
        for controls in ((rows.TEXT,), (rows.TEXT, rows.ANCHOR, rows.FLIPPED))
    )
    if not gained:
        return "The visual term adds nothing to text DPO that these pictures can show."
    shared = [label for label in gained if label not in due]
    said = f"Of what the visual term adds to text DPO, {_list(due, 'is', 'are')} due to the pictures" if due else ""
    if shared:
        said += f"{', while ' if said else ''}{_list(shared, 'comes', 'come')} with a control as well"
    return said[0].upper() + said[1:] + "."


def _list(labels: Sequence[str], one: str, several: str) -> str:
    """Labels in quotes, for some hold commas, and the verb in their number."""
    return f"{' and '.join(f'`{label}`' for label in labels)} {one if len(labels) == 1 else several}"


def _beats(metric: Metric, measured: Mapping[str, Measured], control: DemoArm) -> bool:
    own, other = measured[rows.VISUAL.key], measured[control.key]
    return bool(metric.better) and (
        verdict(metric, own.estimates()[metric.key], other.estimates()[metric.key], own.minus(other)[metric.key]).better
        > 0
    )


def _curve(panel: str, arm: DemoArm, log: Sequence[Mapping[str, float]]) -> list[Curve]:
    points = [(line["step"], line[panel]) for line in log if panel in line]
    return [Curve(panel, arm.name, *map(tuple, zip(*points, strict=True)))] if len(points) > 1 else []


def _telling(measured: Mapping[str, Measured]) -> list[int]:
    """Test pictures on which the base model hallucinates: the first few, whatever the others say of them."""
    wrong = measured[rows.BASE.key].columns["hallucinated"]
    return [number for number, count in enumerate(wrong) if count][:EXHIBITS]


def _exhibit(
    number: int, arms: Sequence[DemoArm], measured: Mapping[str, Measured], pictures: Sequence[Picture]
) -> Exhibit:
    picture = pictures[number]
    answers = []
    for arm in arms:
        text = measured[arm.key].captions[number]
        wrong = hallucinated(picture.scene, text)
        right = [kind for kind in dict.fromkeys(mentioned(text)) if kind not in wrong]
        answers.append(Answer(arm.name, text, tuple(wrong), tuple(right)))
    return Exhibit(png_base64(picture.image), tuple(picture.scene.kinds), tuple(answers), "describe the picture")
