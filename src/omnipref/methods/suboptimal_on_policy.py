"""Preference Fine-Tuning of LLMs Should Leverage Suboptimal, On-Policy Data

arXiv: 2404.14367
Modality: text
In short: the same losses on samples of the policy or of the reference, with and without pushing responses down.

Paper: a study, not a loss: PPO, REINFORCE, reward-weighted regression, best of N, DPO and IPO, on and off policy,
    with samples used once or often; bandits and length rewards, then AlpacaFarm and UltraFeedback.
Released code: github.com/Asap7772/understanding-rlhf. Its bandit IPO takes the target margin itself (10); its
    language trainer compares log-ratios position by position and averages over tokens, which the paper's DPO does
    not.
Here: `dpo`, `ipo(beta=1/(2 tau))`, `sft` on the best of N, `rwr` and `reinforce`, with `positive_only` for the
    switch. The method is online DPO: pairs of two samples of the current policy whose rewards differ.
Why: sequence-level log-ratios, as in the paper.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import dpo


def suboptimal_on_policy(*, beta: float = 0.1, learning_rate: float = 1e-5) -> Method:
    """DPO, meant for pairs that the current policy has sampled.

    Args:
        beta: per nat; the paper's online runs take 0.01 to 0.5.
        learning_rate: of the paper's online runs.

    Identities: DPO.

    Source: arXiv 2404.14367, section 5.
    """
    return Method(
        objective=dpo(beta=beta),
        defaults={"learning_rate": learning_rate, "per_device_train_batch_size": 64, "max_length": 512},
    )


claim = Claim(
    statement="Where the best responses are far from the reference's, pairs of the policy's own samples do more.",
    world="100 bins with a peak of reward, a policy of one logit for each",
    run="omnipref.worlds.bandits.bins:run",
    metric="reward",
    direction="up",
    method="on_policy",
    baseline="off_policy",
    controls=("stale",),
    also=(
        *("on_policy_near", "off_policy_near", "ipo", "ipo_off", "best_of_n", "best_of_n_off", "regression"),
        *("regression_off", "reinforce", "reinforce_off", "no_negatives"),
    ),
    show=("reward_60", "kl"),
    options={
        "arms": {
            "on_policy": {"objective": "dpo(beta=0.1)", "refresh": 15},
            "off_policy": {"objective": "dpo(beta=0.1)"},
            "stale": {"objective": "dpo(beta=0.1)", "refresh": 100},
            "on_policy_near": {"objective": "dpo(beta=0.1)", "refresh": 15, "peak": 20},
            "off_policy_near": {"objective": "dpo(beta=0.1)", "peak": 20},
            "ipo": {"objective": "ipo(beta=0.05)", "refresh": 15},
            "ipo_off": {"objective": "ipo(beta=0.05)"},
            "best_of_n": {"objective": "sft()", "refresh": 15},
            "best_of_n_off": {"objective": "sft()"},
            "regression": {"objective": "rwr(temperature=0.1, clip=100000.0)", "refresh": 15},
            "regression_off": {"objective": "rwr(temperature=0.1, clip=100000.0)"},
            "reinforce": {"objective": "reinforce()", "refresh": 15},
            "reinforce_off": {"objective": "reinforce()"},
            "no_negatives": {"objective": "reinforce(positive_only=True)", "refresh": 15},
        }
    },
    expected=0.85,
    note=(
        "With the peak where the reference already is (`*_near`) the gap nearly vanishes. Reusing samples for 100 "
        "updates loses most of the gain. REINFORCE that pushes nothing down (`no_negatives`) is slower than REINFORCE, "
        "as `reward_60` shows, and reaches nearly as far in the end."
    ),
)
