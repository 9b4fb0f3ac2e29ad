"""A Survey of Direct Preference Optimization

arXiv: 2503.11701
Modality: text
In short: every objective the survey names, as a sum of the library's; which of them a partly covered world forgives.

Paper: a taxonomy along data, framework, constraints and model; no training. Its comparisons are of other papers.
Released code: a reading list.
Here: the objectives are in `omnipref.objectives`, one constructor each; `objective` is any of them as text. The claim
    compares a few from one start; `omnipref compare` does so for any set of them, at equal steps and at equal KL.
Why: names that mean several losses (RPO, APO, SPO, GDPO ...) are resolved in the constructors' docstrings.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import parse_objective


def survey_dpo(*, objective: str = "dpo(beta=0.1)", learning_rate: float = 5e-7) -> Method:
    """Any objective, with the settings that the survey's methods share.

    Args:
        objective: as text; a sum of multiples of constructors.
        learning_rate: usual for whole models of 7 to 8 billion weights.

    Identities: the constructors'.

    Source: arXiv 2503.11701.
    """
    return Method(
        objective=parse_objective(objective),
        defaults={
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.1,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 64,
        },
    )


claim = Claim(
    statement="Where pairs cover few actions, losses with a finite target or an anchor keep what unbounded ones lose.",
    world="10 prompts with 30 actions, of which pairs compare 8, and a log-linear policy",
    run="omnipref.worlds.bandits.coverage:run",
    metric="reward",
    direction="up",
    method="sppo",
    baseline="dpo",
    controls=("far_target", "hinge"),
    also=("anchored", "weak_anchor", "ipo", "apo_zero", "bco", "nca", "cal", "dpop", "chi_po", "simpo", "start"),
    show=("uncovered", "kl", "chosen"),
    options={
        "steps": 1500,
        "rate": 0.03,
        "optimizer": "adam",
        "arms": {
            "sppo": {"objective": "sppo(beta=0.1)"},
            "dpo": {"objective": "dpo(beta=0.1)"},
            "far_target": {"objective": "sppo(beta=0.01)"},
            "hinge": {"objective": "hinge(beta=0.1)"},
            "anchored": {"objective": "dpo(beta=0.1) + 0.1 * sft()"},
            "weak_anchor": {"objective": "dpo(beta=0.1) + 0.001 * sft()"},
            "ipo": {"objective": "ipo(beta=0.1)"},
            "apo_zero": {"objective": "apo_zero(beta=0.1)"},
            "bco": {"objective": "bco(beta=0.1, shift=False)"},
            "nca": {"objective": "nca_pair(beta=0.1)"},
            "cal": {"objective": "cal_dpo(beta=0.5)"},
            "dpop": {"objective": "dpop(beta=0.1, penalty=5.0)"},
            "chi_po": {"objective": "chi_po(beta=0.1)"},
            "simpo": {"objective": "simpo(beta=2.0, gamma=1.0)"},
            "start": {"objective": "0.0 * dpo(beta=0.1)"},
        },
    },
    seeds=8,
    expected=0.75,
    note=(
        "With an anchor that hardly weighs (`weak_anchor`: -0.37) DPO's failure (-0.39) is back, and with a target ten "
        "times as far away more than half of it (`far_target`: -0.06 against 0.40). APO-zero, which is bounded but has "
        "no finite target, ends where it began (-0.15); chi_po without a clip does what DPO does. IPO, NCA, SimPO and "
        "DPO with an anchor all reach 0.34 or more. This is one world, made so that what was not compared is bad; "
        "where pairs cover everything the order turns around (see `rpo-overoptimization`)."
    ),
)
