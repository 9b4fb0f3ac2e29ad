"""Metrics with intervals, benchmark readers, and reports."""

from omnipref.evaluation.amber import (
    Amber,
    amber_discriminative,
    amber_generative,
    amber_score,
    read_amber,
)
from omnipref.evaluation.document import (
    Answer,
    Arm,
    Contrast,
    Curve,
    Exhibit,
    Metric,
    Report,
    png_base64,
    read_report,
)
from omnipref.evaluation.estimates import (
    Estimate,
    bootstrap,
    difference,
    mean_interval,
    ratio,
    ratio_interval,
    share_interval,
)
from omnipref.evaluation.facts import run_facts
from omnipref.evaluation.figure import summary_figure
from omnipref.evaluation.held_out import HELD_OUT_METRICS, held_out
from omnipref.evaluation.margins import image_sensitivity, pair_accuracy, reward_accuracy
from omnipref.evaluation.objects import ObjectCounts, chair
from omnipref.evaluation.page import render_page, render_report, write_page, write_report
from omnipref.evaluation.refusals import attack_success, refuses
from omnipref.evaluation.run import CHAIR_METRICS, POPE_METRICS, evaluate, evaluate_generations
from omnipref.evaluation.separability import linear_separability
from omnipref.evaluation.tables import print_table, results_table
from omnipref.evaluation.yes_no import (
    Confusion,
    confusion,
    parse_yes_no,
    pope,
    pope_file,
    pope_files,
    read_answers,
    read_pope,
)

__all__ = [
    "CHAIR_METRICS",
    "HELD_OUT_METRICS",
    "POPE_METRICS",
    "Amber",
    "Answer",
    "Arm",
    "Confusion",
    "Contrast",
    "Curve",
    "Estimate",
    "Exhibit",
    "Metric",
    "ObjectCounts",
    "Report",
    "amber_discriminative",
    "amber_generative",
    "amber_score",
    "attack_success",
    "bootstrap",
    "chair",
    "confusion",
    "difference",
    "evaluate",
    "evaluate_generations",
    "held_out",
    "image_sensitivity",
    "linear_separability",
    "mean_interval",
    "pair_accuracy",
    "parse_yes_no",
    "png_base64",
    "pope",
    "pope_file",
    "pope_files",
    "print_table",
    "ratio",
    "ratio_interval",
    "read_amber",
    "read_answers",
    "read_pope",
    "read_report",
    "refuses",
    "render_page",
    "render_report",
    "results_table",
    "reward_accuracy",
    "run_facts",
    "share_interval",
    "summary_figure",
    "write_page",
    "write_report",
]
