"""Accelerated Preference Optimization for Large Language Model Alignment

arXiv: 2410.06293
Modality: text
In short: rounds of DPO against the last policy, each followed by a step further along the change of the weights.

A round samples pairs from pi_t, judges them, and minimises DPO's loss against pi_t; then

    theta_{t+1} = theta^_{t+1} + alpha (theta^_{t+1} - theta^_t)

with theta^ the weights at the end of a fit, the first one against the reference's.

Paper: T = 3 rounds over thirds of UltraFeedback's prompts, from Mistral-7B-Instruct-v0.2, 5 samples of each prompt
    ranked by PairRM; alpha = 0.3, beta = 0.1 and the rate of 5e-7 are from memory.
Released code: none.
Here: `omnipref rounds prompts.jsonl --builders "best_vs_worst(reward=..., n=5)" --prompts share --momentum 0.3 --train
    method=apo-accelerated`; this file is the objective of a round. The step is `training.extrapolation.extrapolated`,
    in float32 and on whole weights (`merged_weights`): extrapolated LoRA factors are no extrapolated product.
Why: the step is exact in policy space only where log-probabilities are linear in the weights. Anchored preference
    optimisation, also APO, is two losses: `apo_zero` and `apo_down`.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import dpo


def apo_accelerated(*, beta: float = 0.1, learning_rate: float = 5e-7) -> Method:
    """The objective of each round; what joins the rounds is `omnipref.training.extrapolation.extrapolated`.

    Args:
        beta: per nat.
        learning_rate: from memory of the paper.

    Identities: iterative DPO at a momentum of 0.

    Source: arXiv 2410.06293, algorithm 1.
    """
    return Method(
        objective=dpo(beta=beta),
        defaults={"learning_rate": learning_rate, "per_device_train_batch_size": 64, "num_train_epochs": 1},
    )


claim = Claim(
    statement="With momentum between rounds, iterative DPO has gained more after two rounds.",
    world="20 prompts with 10 actions, a log-linear policy, rounds of 400 pairs of its own samples",
    run="omnipref.worlds.bandits.rounds:run",
    metric="reward_2",
    direction="up",
    method="momentum",
    baseline="plain",
    controls=("longer_step", "backwards"),
    also=("strong", "few_pairs", "few_pairs_momentum", "few_pairs_strong"),
    show=("reward_1", "reward_3", "most"),
    options={
        "arms": {
            "momentum": {"objective": "dpo(beta=1.0)", "momentum": 0.3},
            "plain": {"objective": "dpo(beta=1.0)"},
            "longer_step": {"objective": "dpo(beta=0.7692307692307692)"},
            "backwards": {"objective": "dpo(beta=1.0)", "momentum": -0.3},
            "strong": {"objective": "dpo(beta=1.0)", "momentum": 0.6},
            "few_pairs": {"objective": "dpo(beta=1.0)", "pairs": 50},
            "few_pairs_momentum": {"objective": "dpo(beta=1.0)", "momentum": 0.3, "pairs": 50},
            "few_pairs_strong": {"objective": "dpo(beta=1.0)", "momentum": 0.9, "pairs": 50},
        }
    },
    seeds=16,
    expected=0.12,
    note=(
        "`longer_step` has no momentum and beta / 1.3, so that each round goes as far as the first round with "
        "momentum. Over three rounds that explains nearly all of the gain; momentum proper shows over many rounds, "
        "where it adds up to 1 / (1 - alpha). With few pairs the lead of momentum is gone after the second round, and "
        "after the third it is behind (1.25 at 0.3 and 1.23 at 0.9 against 1.36 without, intervals that hold zero): it "
        "amplifies what the pairs got wrong."
    ),
)
