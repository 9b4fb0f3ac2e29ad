"""What is minimised: pure functions of scores, composed from small stages, that add and scale like numbers."""

from omnipref.objectives.adaptive import alpha_dpo, beta_dpo, dr_dpo, drawn
from omnipref.objectives.anchors import anchor, dft, sft
from omnipref.objectives.auxiliary import choice, rationale
from omnipref.objectives.batch import batch_mean, everyone, running_mean, spread, standardised
from omnipref.objectives.calibrated import apo_down, apo_zero, cal_dpo, dpop, nca_pair, sppo
from omnipref.objectives.conditional import wider_margin
from omnipref.objectives.decoupled import flex_dpo
from omnipref.objectives.dispersion import mallows_dpo, mallows_ipo
from omnipref.objectives.divergences import DIVERGENCES, box_cox, chi_po, f_dpo, jensen_shannon
from omnipref.objectives.graded import gdpo_geometric, modpo, ns_dpo, odpo, reward_distillation
from omnipref.objectives.group_relative import (
    ADVANTAGES,
    NORMALISERS,
    ORIGINS,
    PENALTIES,
    RATIOS,
    SURROGATES,
    group_sum,
    grpo,
)
from omnipref.objectives.imitation import IMITATION, f_sft, reinforce, rwr
from omnipref.objectives.lengths import decayed_dpo, ld_dpo, length_dpo, sampo
from omnipref.objectives.links import (
    LINKS,
    Link,
    discovered,
    exponential,
    hinge_link,
    kl_target,
    logistic,
    savage,
    square,
    truncated_square,
)
from omnipref.objectives.listwise import lipo, plackett_luce, plackett_luce_loss, preferred, ranked_cases, rrhf
from omnipref.objectives.loss import reduce_loss
from omnipref.objectives.masked import sparse_po
from omnipref.objectives.metrics import preference_metrics
from omnipref.objectives.noise import debias, smooth
from omnipref.objectives.noise_contrastive import info_nca, nca
from omnipref.objectives.noisy import discopop, exo_pair, robust_dpo
from omnipref.objectives.objective import Needs, Objective, Outcome, State, Term, single
from omnipref.objectives.paired import paired
from omnipref.objectives.pairwise import dpo, gpo, hinge, ipo, log_odds, orpo, simpo
from omnipref.objectives.parse import constructors, parse_objective
from omnipref.objectives.perturbation import epsilon_dpo
from omnipref.objectives.ranking import pro
from omnipref.objectives.ratio import difference, log_likelihood, log_ratio, stated_margin
from omnipref.objectives.reduce import REDUCTIONS, Reduction, decayed, mean, tail_weighted, token_weighted, total
from omnipref.objectives.reference_free import alphapo, cpo, simper, slic, soft_spo
from omnipref.objectives.sampled import nash_md, optimism, sampled_kl, unit_log_ratio, xpo
from omnipref.objectives.skipwise import progressive_skips, ranklist
from omnipref.objectives.sorting import aot, aot_unpaired, at_same_rank
from omnipref.objectives.steps import step_weights
from omnipref.objectives.ties import davidson_dpo, rao_kupper_dpo, tied
from omnipref.objectives.units import drawn_units, head_units, place, shared_length
from omnipref.objectives.unlearning import npo, simnpo
from omnipref.objectives.unpaired import bco, kto, kto_pair, labelled_sum
from omnipref.objectives.vocabulary import tdpo1, tdpo2, wpo
from omnipref.scores import stretched

__all__ = [
    "ADVANTAGES",
    "DIVERGENCES",
    "IMITATION",
    "LINKS",
    "NORMALISERS",
    "ORIGINS",
    "PENALTIES",
    "RATIOS",
    "REDUCTIONS",
    "SURROGATES",
    "Link",
    "Needs",
    "Objective",
    "Outcome",
    "Reduction",
    "State",
    "Term",
    "alpha_dpo",
    "alphapo",
    "anchor",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "at_same_rank",
    "batch_mean",
    "bco",
    "beta_dpo",
    "box_cox",
    "cal_dpo",
    "chi_po",
    "choice",
    "constructors",
    "cpo",
    "davidson_dpo",
    "debias",
    "decayed",
    "decayed_dpo",
    "dft",
    "difference",
    "discopop",
    "discovered",
    "dpo",
    "dpop",
    "dr_dpo",
    "drawn",
    "drawn_units",
    "epsilon_dpo",
    "everyone",
    "exo_pair",
    "exponential",
    "f_dpo",
    "f_sft",
    "flex_dpo",
    "gdpo_geometric",
    "gpo",
    "group_sum",
    "grpo",
    "head_units",
    "hinge",
    "hinge_link",
    "info_nca",
    "ipo",
    "jensen_shannon",
    "kl_target",
    "kto",
    "kto_pair",
    "labelled_sum",
    "ld_dpo",
    "length_dpo",
    "lipo",
    "log_likelihood",
    "log_odds",
    "log_ratio",
    "logistic",
    "mallows_dpo",
    "mallows_ipo",
    "mean",
    "modpo",
    "nash_md",
    "nca",
    "nca_pair",
    "npo",
    "ns_dpo",
    "odpo",
    "optimism",
    "orpo",
    "paired",
    "parse_objective",
    "place",
    "plackett_luce",
    "plackett_luce_loss",
    "preference_metrics",
    "preferred",
    "pro",
    "progressive_skips",
    "ranked_cases",
    "ranklist",
    "rao_kupper_dpo",
    "rationale",
    "reduce_loss",
    "reinforce",
    "reward_distillation",
    "robust_dpo",
    "rrhf",
    "running_mean",
    "rwr",
    "sampled_kl",
    "sampo",
    "savage",
    "sft",
    "shared_length",
    "simnpo",
    "simper",
    "simpo",
    "single",
    "slic",
    "smooth",
    "soft_spo",
    "sparse_po",
    "sppo",
    "spread",
    "square",
    "standardised",
    "stated_margin",
    "step_weights",
    "stretched",
    "tail_weighted",
    "tdpo1",
    "tdpo2",
    "tied",
    "token_weighted",
    "total",
    "truncated_square",
    "unit_log_ratio",
    "wider_margin",
    "wpo",
    "xpo",
]
