"""What is minimised: pure functions of scores, composed from small stages, that add and scale like numbers."""

from omnipref.objectives.anchors import anchor, sft
from omnipref.objectives.batch import batch_mean, running_mean
from omnipref.objectives.links import LINKS, Link, exponential, hinge_link, logistic, savage, square, truncated_square
from omnipref.objectives.listwise import plackett_luce, plackett_luce_loss
from omnipref.objectives.loss import reduce_loss
from omnipref.objectives.metrics import preference_metrics
from omnipref.objectives.noise import debias, smooth
from omnipref.objectives.objective import Needs, Objective, Outcome, State, Term, single
from omnipref.objectives.pairwise import dpo, gpo, hinge, ipo, log_odds, orpo, simpo
from omnipref.objectives.parse import constructors, parse_objective
from omnipref.objectives.ratio import difference, log_likelihood, log_ratio
from omnipref.objectives.reduce import REDUCTIONS, Reduction, mean, token_weighted, total
from omnipref.objectives.unpaired import bco, kto, labelled_sum

__all__ = [
    "LINKS",
    "REDUCTIONS",
    "Link",
    "Needs",
    "Objective",
    "Outcome",
    "Reduction",
    "State",
    "Term",
    "anchor",
    "batch_mean",
    "bco",
    "constructors",
    "debias",
    "difference",
    "dpo",
    "exponential",
    "gpo",
    "hinge",
    "hinge_link",
    "ipo",
    "kto",
    "labelled_sum",
    "log_likelihood",
    "log_odds",
    "log_ratio",
    "logistic",
    "mean",
    "orpo",
    "parse_objective",
    "plackett_luce",
    "plackett_luce_loss",
    "preference_metrics",
    "reduce_loss",
    "running_mean",
    "savage",
    "sft",
    "simpo",
    "single",
    "smooth",
    "square",
    "token_weighted",
    "total",
    "truncated_square",
]
