"""3D-Properties: Identifying Challenges in DPO and Charting a Path Forward

arXiv: 2406.07327
Modality: text
In short: DPO with a weaker push on the rejected response, so that what it loses does not go to responses never seen.

With rho = log pi_theta(y) - log pi_ref(y), beta+ of the chosen and beta- of the rejected response, beta- below beta+:

    L = -log sigma(beta+ rho_w - beta- rho_l) + lambda (-log pi_theta(y_w) / |y_w|)

Paper: DPO makes the rejected likelihood drop, then the chosen likelihood fall, and the freed mass go to unseen
    responses; off-policy pairs make it worse. Its remedies are two betas, constants in the experiments (0.08 for the
    rejected response did best, far lower ones worse), and a term of fine-tuning. They are not ablated apart.
Here: beta+ = 0.1 and beta- = 0.08. The term of fine-tuning is off by default; 0.05 is the weight that the worked
    numbers use. Pairs should be the model's own samples, judged. The paper's
    learning rate and batch are not known; one epoch is ours.
Why: the paper gives no weight for the fine-tuning term, and the first remedy is the one that changes DPO itself.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import flex_dpo, sft


def method_3d_properties(*, beta_chosen: float = 0.1, beta_rejected: float = 0.08, sft_weight: float = 0.0) -> Method:
    """Flex-DPO, with fine-tuning on the chosen response beside it if asked for.

    Args:
        beta_chosen: beta+, per nat.
        beta_rejected: beta-, per nat; equal to beta+ it is DPO.
        sft_weight: lambda, of the negative log-likelihood per token; 0 leaves it out.

    Identities: `dpo(beta)` where both betas are `beta` and lambda is 0; log 2 where policy = reference and lambda is 0.

    Source: arXiv 2406.07327; two betas and their sweep as its published reviews report them.
    """
    flexible = flex_dpo(beta_chosen=beta_chosen, beta_rejected=beta_rejected)
    return Method(
        objective=flexible + sft_weight * sft() if sft_weight else flexible,
        defaults={"num_train_epochs": 1},
    )


FLEX = {"objective": "flex_dpo(beta_chosen=0.1, beta_rejected=0.08)"}
DPO = {"objective": "dpo(beta=0.1)"}
OFF = {"chosen_likely": False, "rejected_likely": False}

claim = Claim(
    statement="A weaker push on the rejected response keeps probability from going to responses that no pair holds.",
    world="four prompts and ten responses of a network that is first trained to like four of them",
    run="omnipref.worlds.shared_weights.dispersion:run",
    metric="unseen",
    direction="down",
    method="flex_dpo",
    baseline="dpo",
    controls=("both_betas_lower", "betas_exchanged"),
    also=(
        "flex_dpo_0.02",
        "dpo+sft",
        "dpo_off_policy_rejected",
        "dpo_off_policy_chosen",
        "dpo_off_policy",
        "dpo_tabular",
    ),
    show=("peak", "chosen", "fall", "log_rejected"),
    options={
        "arms": {
            "flex_dpo": FLEX,
            "dpo": DPO,
            "both_betas_lower": {"objective": "dpo(beta=0.09)"},
            "betas_exchanged": {"objective": "flex_dpo(beta_chosen=0.08, beta_rejected=0.1)"},
            "flex_dpo_0.02": {"objective": "flex_dpo(beta_chosen=0.1, beta_rejected=0.02)"},
            "dpo+sft": {"objective": "dpo(beta=0.1) + 0.05*sft()"},
            "dpo_off_policy_rejected": DPO | {"rejected_likely": False},
            "dpo_off_policy_chosen": DPO | {"chosen_likely": False},
            "dpo_off_policy": DPO | OFF,
            "dpo_tabular": DPO | {"shared": False, "rate": 0.02},
        },
        "steps": 500,
    },
    expected=-0.35,
    note=(
        "All three faults show under DPO: the rejected response falls to e^-80, the chosen one rises to 0.76 and then "
        "falls to 0.54, and responses that no pair holds end with 0.46. Flex-DPO takes 0.13 of that away with the "
        "paper's 0.08 (0.35 was expected, from a simulation whose likely responses may have been the same for all "
        "prompts; here they are drawn for each), and nearly all at 0.02; so does fine-tuning on the chosen response. "
        "The rejected response falls as far as before. With a logit of its own for every response the chosen one never "
        "falls and nothing disperses, so it is the shared weights that do it. An unlikely chosen response is the worst "
        "case (0.75); two likely ones (0.46) are not better here than an unlikely rejected one (0.42)."
    ),
)
