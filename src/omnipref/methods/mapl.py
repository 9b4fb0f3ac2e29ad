"""MAPL: Multi-Level Aware Preference Learning for Complex Multi-Instruction Tasks

arXiv: 2505.12845
Modality: text
In short: DPO, plus one response under a prompt it obeys and one it does not, and a wider margin where prompts tell.

With rho(x, y) = log pi_theta(y|x) - log pi_ref(y|x), Delta(x) = rho(x, y_w) - rho(x, y_l), x+ and x- with instructions
that y obeys better and worse, and x' with instructions that y_w obeys and y_l does not:

    L = -log sigma(beta Delta(x)) - lambda_a mean_y log sigma(beta [rho(x+, y) - rho(x-, y)])
        - lambda_e log sigma(beta [Delta(x') - Delta(x)])

Paper: instructions are made by rules from the responses, which are never changed; one response under two prompts
    (intra), one pair under two prompts (inter), for reward models and for DPO.
Released code: none.
Here: DPO's form, weights of 1, six kinds of instruction that can be checked by a rule. With beta = 1 on a scorer's
    scores it is the reward model's form. A pair that no instruction tells apart is dropped by name. The rate of 5e-7
    for one epoch is ours.
Why: the paper's abstract gives the comparisons and not their formulas; the inter term is read as margin over margin.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import dpo, wider_margin


def mapl(
    *, beta: float = 0.1, intra_weight: float = 1.0, inter_weight: float = 1.0, detach_base: bool = False
) -> Method:
    """Preferences between responses, between prompts, and between margins.

    Args:
        beta: strength of all terms, per nat.
        intra_weight: lambda_a, of one response under two prompts, the mean over both responses.
        inter_weight: lambda_e, of one pair under two prompts.
        detach_base: hold the margin under the record's own prompt constant in the inter term.

    Identities: 3 log 2 where policy = reference; `dpo(beta)` where both weights are 0.

    Source: arXiv 2505.12845, abstract; the intra term as in 2502.00814.
    """
    intra = [dpo(beta=beta, chosen=f"{role}@obeyed", rejected=f"{role}@disobeyed") for role in ("chosen", "rejected")]
    objective = dpo(beta=beta)
    if intra_weight:
        objective = objective + intra_weight / 2 * (intra[0] + intra[1])
    if inter_weight:
        objective = objective + inter_weight * wider_margin(beta=beta, detach_base=detach_base)
    pulls_less = "the inter term asks for a smaller margin here, to have a larger one under instructions"
    return Method(
        objective=objective,
        builders=("intra_instructions", "inter_instructions"),
        defaults={"learning_rate": 5e-7, "num_train_epochs": 1},
        not_pulling_because=pulls_less if inter_weight and not detach_base else "",
    )


BASE = "dpo(beta=1.0)"
INTRA = (
    "0.5*dpo(beta=1.0, chosen='chosen@obeyed', rejected='chosen@disobeyed')"
    " + 0.5*dpo(beta=1.0, chosen='rejected@obeyed', rejected='rejected@disobeyed')"
)
INTER = "wider_margin(beta=1.0)"

claim = Claim(
    statement="Prompts composed by rules teach a scorer to follow instructions that its pairs say nothing of.",
    world="responses of four numbers and six attributes, with prompts that require some of them",
    run="omnipref.worlds.scorers.instructions:run",
    metric="following",
    direction="up",
    method="both",
    baseline="plain_pairs",
    controls=("mixed_up",),
    also=("intra", "inter", "inter_detached"),
    show=("plain",),
    options={
        "arms": {
            "both": {"objective": f"{BASE} + {INTRA} + {INTER}"},
            "plain_pairs": {"objective": BASE},
            "mixed_up": {"objective": f"{BASE} + {INTRA} + {INTER}", "mixed": True},
            "intra": {"objective": f"{BASE} + {INTRA}"},
            "inter": {"objective": f"{BASE} + {INTER}"},
            "inter_detached": {"objective": f"{BASE} + wider_margin(beta=1.0, detach_base=True)"},
        },
        "steps": 300,
        "rate": 0.05,
    },
    expected=0.25,
    note=(
        "The response that obeys more of four instructions wins in 76 % of new pairs, with ordinary pairs alone in "
        "50 %, and in 50 % with prompts exchanged and instructions of other pairs; 0.76, 0.51 and 0.49 were "
        "expected. Each term is enough here: 75 % with one response under two prompts, 76 % with one pair under two "
        "prompts, so that both together show no more than either. Plain preferences stay at 97 %. The scorer has a "
        "cell for every requirement, which a model of language has to find first."
    ),
)
