"""Preference Ranking Optimization for Human Alignment

arXiv: 2306.17492
Modality: text
In short: A chain of "best of what is left" over mean log-likelihoods, each contrast as sharp as two rewards differ.

With s_k the mean log-likelihood per token of candidate k, rewards r_1 >= ... >= r_K and a_ki = r_k - r_i:

    L = sum_k [log(exp(a_kk s_k) + sum_{i>k} exp(a_ki s_i)) - a_kk s_k] + w (K - 1)^2 (-log p(y_1)),  a_kk = max_i a_ki

Paper: no reference model; rewards of a reward model, computed beforehand, rank two to five candidates; LLaMA-7B, two
    epochs, 112 lists to a batch.
Released code: github.com/AlibabaResearch/DAMO-ConvAI (PRO): the fine-tuning term is a sum over tokens while the chain
    has means; 2 lists per device on 7 devices; the mask counts one padding token in all but the longest row of a batch.
Here: the same loss, with every response's own tokens and nothing else. Responses that tie are not compared. Scores come
    with the records, or from `omnipref build --builders "judge(reward=...)"`; nothing rescales them. A list of one is
    refused, where the formula would be 0.
Why: a padding token makes a response's likelihood depend on its neighbours in the batch. The scale of the scores is the
    temperature, which is for whoever trains to set.
"""

from __future__ import annotations

from omnipref import objectives
from omnipref.method import Claim, Method


def pro(
    *,
    weight: float = 0.05,
    temperature: bool = True,
    first_only: bool = False,
    sft_reduction: str = "total",
    learning_rate: float = 5e-6,
) -> Method:
    """PRO's chain and fine-tuning on the best candidate.

    Args:
        weight: w, of fine-tuning; it counts (K - 1)^2 times on a list of K.
        temperature: whether gaps of rewards sharpen the contrasts; without, records need no scores.
        first_only: only the best candidate against all others.
        sft_reduction: `total`, as released, or `mean` per token.
        learning_rate: for a batch of 112 lists.

    Identities: simpo(beta=d, gamma=0) on a pair whose rewards differ by d, without fine-tuning; the reference is never
        asked.

    Source: arXiv 2306.17492 and the released code.
    """
    return Method(
        objective=objectives.pro(weight=weight, temperature=temperature, first_only=first_only, reduce=sft_reduction),
        defaults={
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant",
            "num_train_epochs": 2,
            "per_device_train_batch_size": 14,
            "gradient_accumulation_steps": 8,
            "max_length": 512,
        },
    )


ARMS = {
    "pro_5": {"objective": "pro()"},
    "pro_3": {"objective": "pro()", "answers": 3},
    "pro_2": {"objective": "pro()", "answers": 2},
    "dpo_pair": {"objective": "dpo(chosen='response_0', rejected='response_1')", "answers": 2},
    "dpo_best_worst": {"objective": "dpo(chosen='response_0', rejected='response_1')", "places": (0, 4)},
    "sft_best": {"objective": "sft('response_0')"},
    "shuffled_below_best": {"objective": "pro()", "shuffled_from": 1},
    "shuffled": {"objective": "pro()", "shuffled_from": 0},
    "first_only": {"objective": "pro(first_only=True)"},
    "no_temperature": {"objective": "pro(temperature=False)"},
}

claim = Claim(
    statement="PRO on ranked lists of five gives more true reward than DPO on one pair at the same divergence, and "
    "more than on shorter lists.",
    world="answers of eight words from tables, judged with noise, compared at 0.1 nats per word from the reference",
    run="omnipref.worlds.sentences.ranking:run",
    metric="reward",
    direction="up",
    method="pro_5",
    baseline="dpo_pair",
    controls=("shuffled_below_best", "shuffled", "pro_2"),
    also=("pro_3", "dpo_best_worst", "sft_best", "first_only", "no_temperature"),
    show=("final", "kl"),
    options={"arms": ARMS},
    seeds=10,
    expected=0.28,
    note=(
        "Seen with ten seeds: PRO on five answers 0.84, on three 0.71, on two 0.53; DPO on a random pair 0.52. With "
        "all answers below the best in random order 0.75, so part of the gain is the best against many and the rest "
        "the ranking; with all in random order 0.04. Not separable from the method: DPO on best and worst of five, "
        "0.79 (+0.04 [-0.02, +0.11]), and PRO without temperatures, 0.82 (+0.02 [-0.00, +0.03]). PRO stops early: "
        "after all updates it is 0.2 nats per word from the reference with a reward of 1.2, where DPO on best and "
        "worst is 0.9 away with 2.1."
    ),
)
