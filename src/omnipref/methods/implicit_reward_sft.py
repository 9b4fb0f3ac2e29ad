"""Implicit Reward as the Bridge: A Unified View of SFT and DPO Connections

arXiv: 2507.00018
Modality: text
In short: fine-tuning that learns less before DPO, by a small rate or by a divergence that stops likely demonstrations.

With rho the log-ratio of a demonstration to the model before fine-tuning, per token:

    L = -phi(beta rho) / beta,  phi(x) = x for plain fine-tuning, x - x^2/4 for Pearson's chi square

Paper: fine-tuning minimises the total variation, in which the divergence from the initial model cancels; a rate some
    four times smaller than usual, or another divergence, gives better models after DPO.
Released code: none.
Here: `f_sft`; the value term V(x) of the derivation is held at 0, which is our reading. The second stage is plain DPO
    with the fine-tuned model as its reference, a run of its own.
Why: V(x) is an expectation over all responses.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import f_sft


def implicit_reward_sft(*, divergence: str = "chi_square", beta: float = 1.0, learning_rate: float = 5e-6) -> Method:
    """The first of two stages: fine-tuning on demonstrations, held by a divergence.

    Args:
        divergence: a name of `omnipref.objectives.IMITATION`.
        beta: per nat.
        learning_rate: a quarter of the usual 2e-5.

    Identities: the gradient of `sft` where policy = reference, and everywhere for `total_variation`.

    Source: arXiv 2507.00018, section 4.
    """
    return Method(
        objective=f_sft(divergence=divergence, beta=beta),
        defaults={"learning_rate": learning_rate, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1},
    )


claim = Claim(
    statement="After few, biased demonstrations under the chi square, DPO ends higher than after plain fine-tuning.",
    world="60 prompts with 20 actions, 40 demonstrations of an expert with a style, then 300 clean pairs",
    run="omnipref.worlds.bandits.demonstrations:run",
    metric="reward",
    direction="up",
    method="chi_square",
    baseline="plain",
    controls=("small_rate",),
    also=("large_rate", "hellinger", "reverse_kl", "none", "fair_plain", "fair_small_rate", "fair_chi_square"),
    show=("reward_sft", "kl_sft"),
    options={
        "arms": {
            "chi_square": {"objective": "f_sft()", "rate": 0.05},
            "plain": {"objective": "sft()", "rate": 0.05},
            "small_rate": {"objective": "sft()", "rate": 0.005},
            "large_rate": {"objective": "sft()", "rate": 0.25},
            "hellinger": {"objective": "f_sft(divergence='squared_hellinger')", "rate": 0.05},
            "reverse_kl": {"objective": "f_sft(divergence='reverse_kl')", "rate": 0.05},
            "none": {},
            "fair_plain": {"objective": "sft()", "rate": 0.05, "count": 200, "style": 0.0},
            "fair_small_rate": {"objective": "sft()", "rate": 0.005, "count": 200, "style": 0.0},
            "fair_chi_square": {"objective": "f_sft()", "rate": 0.05, "count": 200, "style": 0.0},
        }
    },
    seeds=20,
    expected=0.03,
    note=(
        "The effect is small, and is seen because seeds are paired: somewhat over half of the 0.03 of an earlier "
        "simulation, and 0.015 over plain fine-tuning at a tenth of the rate, where 0.013 was expected. The paper's "
        "first remedy, the small rate itself, shows only against far larger ones (`large_rate` loses 0.04 to `plain`): "
        "`small_rate` and `plain` are level (+0.003 [-0.011, +0.017]). The squared Hellinger distance is better than "
        "`small_rate` within noise only, and it and the reverse KL are level with the chi square or just below. Plain "
        "fine-tuning that is stopped at the same divergence is not among the arms. With 200 demonstrations of an "
        "expert without a style (`fair_*`) learning more from them pays."
    ),
)
