"""Provably Robust DPO: Aligning Language Models with Noisy Feedback

arXiv: 2403.00409
Modality: text
In short: DPO on labels flipped at a known rate, with a loss whose mean over flips is the loss on clean labels.

With Delta the difference of log-ratios and e the rate of flips:

    L = [-(1 - e) log sigma(beta Delta) + e log sigma(-beta Delta)] / (1 - 2e)

Paper: e = 0.1, beta = 0.1, rate 1e-3 on small models; flips are independent of what is compared. IMDb and HH-RLHF.
Released code: none by the authors; TRL's `robust` is the same loss.
Here: `robust_dpo`, the general wrapper `objectives.debias` on the logistic link. The rate must be below one half. The
    builder `flip_labels(share=...)` makes noise of a known rate.
Why: conservative DPO (`dpo(label_smoothing=e)`) has the same two terms with the other sign and stops early; this one
    pushes every pair harder, and falls without bound where the rate is overestimated.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import robust_dpo as unbiased


def robust_dpo(*, beta: float = 0.1, flip_rate: float = 0.1, learning_rate: float = 1e-6) -> Method:
    """DPO for labels that are flipped at a known rate.

    Args:
        beta: per nat.
        flip_rate: share of flipped labels, in [0, 0.5); rather too low than too high.
        learning_rate: low, because the loss has no least value on a single pair; the paper's 1e-3 is for adapters of
            small models.

    Identities: DPO at `flip_rate` 0; (1 - e) L(w, l) + e L(l, w) is DPO's loss.

    Source: arXiv 2403.00409, equation (12).
    """
    return Method(
        objective=unbiased(beta=beta, flip_rate=flip_rate),
        defaults={"learning_rate": learning_rate, "per_device_train_batch_size": 16, "max_length": 512},
    )


claim = Claim(
    statement="With a fifth of the labels flipped, robust DPO comes closer to the best policy than DPO does.",
    world="20 prompts with 10 actions, a log-linear policy and 2,000 pairs, some of them flipped",
    run="omnipref.worlds.bandits.noisy_labels:run",
    metric="value",
    direction="up",
    method="robust",
    baseline="dpo",
    controls=("conservative", "wrong_rate"),
    also=("clean_dpo", "robust_few", "dpo_few", "robust_many", "dpo_many", "overestimated"),
    show=("regret", "error"),
    options={
        "arms": {
            "robust": {"objective": "robust_dpo(beta=0.2, flip_rate=0.2)", "flipped": 0.2},
            "dpo": {"objective": "dpo(beta=0.2)", "flipped": 0.2},
            "conservative": {"objective": "dpo(beta=0.2, label_smoothing=0.2)", "flipped": 0.2},
            "wrong_rate": {"objective": "robust_dpo(beta=0.2, flip_rate=0.05)", "flipped": 0.2},
            "clean_dpo": {"objective": "dpo(beta=0.2)", "flipped": 0.0},
            "robust_few": {"objective": "robust_dpo(beta=0.2, flip_rate=0.1)", "flipped": 0.1},
            "dpo_few": {"objective": "dpo(beta=0.2)", "flipped": 0.1},
            "robust_many": {"objective": "robust_dpo(beta=0.2, flip_rate=0.3)", "flipped": 0.3},
            "dpo_many": {"objective": "dpo(beta=0.2)", "flipped": 0.3},
            "overestimated": {"objective": "robust_dpo(beta=0.2, flip_rate=0.3)", "flipped": 0.1},
        }
    },
    expected=0.06,
    note=(
        "Value is the expected reward less beta times the divergence from the reference. The gain grows with the rate "
        "of flips. Conservative DPO is worse than DPO here, because it smooths what noise has smoothed already. A rate "
        "that is overestimated (0.3 for 0.1) lets the parameters run away: the loss has no least value then."
    ),
)
