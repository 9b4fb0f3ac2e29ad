"""TPO: Aligning Large Language Models with Multi-branch & Multi-step Preference Trees

arXiv: 2410.12854
Modality: text
In short: LambdaLoss over the implicit rewards of a tree's paths, each step weighed by its likeness to the best path's.

With rho_i^k the log-ratio of step k of path i, values v_i and ranks tau by the rewards as they are now:

    L = -sum_{v_i > v_j} |2^v_i - 2^v_j| |1/log(1 + tau_i) - 1/log(1 + tau_j)| log sigma(S_i - S_j)
    S_i = beta sum_k w_i^k rho_i^k,  w_i^k = 1 + cos(e_i^k, e_1^k)

Paper: paths branch off a correct solution at random steps; a judge grades each from -100 to 100; the weight of a step
    (adaptive step reward) is between the two paths of each pair.
Released code: github.com/MrBlankness/TPO: weights against the correct path alone; each token is scored by the first
    position's distribution, the list loss has no lambda, counts the diagonal and ties, and enters with the wrong sign.
Here: the formulas, with weights against the best path, which is a weight of a case: `lipo` whose units have weights.
    They are on, as in the paper, and made of the policy's last hidden states at the steps' own tokens as they are now,
    without gradient; `centred=True` takes each tree's mean step from its steps first, `step_weights=False` leaves
    weights away. Records bring paths whose response has its steps as parts, and scores in [0, 1], (grade + 100) / 200:
    2^v of a raw grade overflows. Paths are not expanded nor graded here.
Why: the released loss cannot be followed literally. Last hidden states are alike everywhere, so that weights hardly
    vary unless embeddings are centred; the paper does not say whether its are, so by default they are not. A judge's
    grades can be close to 100 for a path that is wrong somewhere, so leave out paths that are less than 5 points apart.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import lipo


def tree_tpo(
    *, beta: float = 0.5, step_weights: bool = True, centred: bool = False, learning_rate: float = 5e-7
) -> Method:
    """LambdaLoss over the paths of a tree.

    Args:
        beta: strength, per nat of a step's summed log-ratio.
        step_weights: whether each step counts by how much it is like the same step of the best path.
        centred: whether this is told from the mean step of the tree; not without `step_weights`.
        learning_rate: for one tree of five paths at a time.

    Identities: `dpo(beta)` times 1/log 2 - 1/log 3 on two paths of values 1 and 0; log 2 times the sum of lambda where
        policy = reference; weights of 1 change nothing.

    Source: arXiv 2410.12854; released code for beta, rate and LoRA.
    """
    return Method(
        objective=lipo(beta=beta, embedding="hidden" if step_weights else "", centred=centred),
        not_symmetric_because="the path that is best has the largest weights" if step_weights else "",
        defaults={
            "learning_rate": learning_rate,
            "weight_decay": 0.01,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1,
            "max_length": 1024,
            "lora_r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.1,
        },
    )


WEIGHTED = "lipo(beta=0.5, weights='step_weight')"
ARMS = {
    "tree": {"objective": WEIGHTED},
    "pair": {"objective": "dpo(beta=0.5)", "view": "first_and_worst"},
    "every_two": {"objective": "dpo(beta=0.5)", "view": "every_two"},
    "plain_list": {"objective": "lipo(beta=0.5)"},
    "random_weights": {"objective": WEIGHTED, "weights": "random"},
    "constant_weights": {"objective": WEIGHTED, "weights": "twice"},
    "shuffled_values": {"objective": WEIGHTED, "shuffled": True},
}

claim = Claim(
    statement="LambdaLoss on graded paths, with steps weighed by likeness, makes right steps likelier than DPO on the "
    "correct and the worst path at the same divergence.",
    world="solutions of five steps from tables, whose options come in near synonyms; compared at 0.4 nats per step",
    run="omnipref.worlds.sentences.trees:run",
    metric="kl_0.4",
    direction="up",
    method="tree",
    baseline="pair",
    controls=("every_two", "random_weights", "constant_weights", "shuffled_values"),
    also=("plain_list",),
    show=("kl_0.1", "kl_0.2", "final", "kl"),
    options={"arms": ARMS},
    seeds=10,
    expected=0.035,
    note=(
        "Seen with ten seeds, at 0.4 nats: 0.472, against 0.434 for DPO, 0.426 for DPO on all pairs, 0.461 without "
        "step weights, 0.454 with weights of 2 throughout, 0.368 with random weights and 0.148 with values shuffled "
        "among paths (reference 0.12). So the list is most of the gain, and likeness adds 0.01. It is a statement at "
        "equal divergence: after all 400 updates the list without weights is further away (1.1 nats against 0.5) and "
        "more often right (0.71 against 0.54). The embeddings are the world's own, in which near synonyms are alike "
        "and other options are not; whether hidden states of a language model tell steps apart is not shown."
    ),
)
