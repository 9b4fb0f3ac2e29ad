"""Insights into Alignment: Evaluating DPO and its Variants Across Multiple Tasks

arXiv: 2404.14723
Modality: text
In short: DPO, IPO, KTO and CPO from a base, a fine-tuned and an instruction-tuned model, with few and many pairs.

Paper: a study over 13 benchmarks with Mistral 7B, UltraChat and UltraFeedback; each loss's reference is the model
    that it starts from, and one rate, schedule and length serve all.
Released code: none of its own.
Here: the four losses by name, with the shared settings. IPO is per token, as the libraries had it then. KTO's
    baseline is over responses to other prompts, which the builder adds.
Why: which reduction IPO takes changes the study's conclusions, so it is stated.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import parse_objective

LOSSES = {
    "dpo": "dpo(beta=0.1)",
    "ipo": "ipo(beta=0.1)",
    "kto": "kto(beta=0.1)",
    "cpo": "cpo(beta=0.1, alpha=1.0)",
}
"""The four losses of the study."""


def insights_alignment(*, loss: str = "dpo", learning_rate: float = 5e-7) -> Method:
    """One of the study's losses, with its shared settings.

    Args:
        loss: a name of `LOSSES`, or any objective as text.
        learning_rate: of the study.

    Identities: the losses'.

    Source: arXiv 2404.14723, section 3.
    """
    return Method(
        objective=parse_objective(LOSSES.get(loss, loss)),
        builders=("mismatched",),
        defaults={
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.1,
            "num_train_epochs": 1,
            "max_length": 1024,
        },
    )


BASE = {
    **{loss: {"objective": objective} for loss, objective in LOSSES.items()},
    "cpo_without_nll": {"objective": "cpo(beta=0.1, alpha=0.0)"},
}
MORE = {
    **{
        f"{loss}_{start}": {"objective": objective, "demonstrations": count}
        for start, count in {"sft": 80, "instruct": 800}.items()
        for loss, objective in LOSSES.items()
    },
    "cpo_sft_without_nll": {"objective": "cpo(beta=0.1, alpha=0.0)", "demonstrations": 80},
    "dpo_sft_few": {"objective": LOSSES["dpo"], "demonstrations": 80, "pairs": 40},
    "dpo_sft_many": {"objective": LOSSES["dpo"], "demonstrations": 80, "pairs": 2000},
    "dpo_little_junk": {"objective": LOSSES["dpo"], "junk": 0.27},
    "cpo_little_junk": {"objective": LOSSES["cpo"], "junk": 0.27},
}

claim = Claim(
    statement="Without fine-tuning first, CPO still learns to answer, and DPO, IPO and KTO do not.",
    world="prompts with 12 answers and 12 pieces of junk, which the base model prefers, and a log-linear policy",
    run="omnipref.worlds.bandits.answers:run",
    metric="reward",
    direction="up",
    method="cpo",
    baseline="dpo",
    controls=("cpo_without_nll", "ipo", "kto"),
    also=tuple(MORE),
    show=("junk", "start", "kl"),
    options={"arms": {**BASE, **MORE}},
    seeds=6,
    expected=1.2,
    note=(
        "What rescues CPO is its likelihood term: without it it is DPO to the last digit, because the base model likes "
        "all answers alike. Where the base model rarely writes junk (`*_little_junk`) there is nothing to rescue. "
        "After fine-tuning, CPO is the worst of the four (-0.05), DPO and IPO reach 0.65 and KTO 0.49, which was "
        "expected level with them: at one rate for all losses it goes least far. 40 pairs (0.55) give most of what 400 "
        "(0.65) and 2,000 (0.67) give, though not all as in an earlier simulation. Without fine-tuning DPO ends at "
        "-1.52 and KTO at -1.71, where -1.11 and -1.42 were expected; the simulation's rate is not stated. That KTO "
        "can do without fine-tuning, as the study found, is not seen here."
    ),
)
