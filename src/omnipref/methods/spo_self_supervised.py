"""Self-supervised Preference Optimization: Enhance Your Language Model with Preference Degree Awareness

arXiv: 2409.17791
Modality: text
In short: DPO, plus telling from a response how much of its key content was removed.

With y_c the chosen response without a share q_c of its key phrases, c drawn from 0 to C - 1:

    L = -log sigma(beta [rho(y_w) - rho(y_l)]) + gamma (-log p(c | x, y_c))

Paper: key phrases are found by RAKE and removed to several degrees; a classification head on the policy's last hidden
    state tells the degree, and is dropped after training. The degraded text is read, never learned.
Released code: a licence and no code.
Here: the degree is asked in words and answered by the policy itself. p is the softmax over the likelihoods of the C
    answers, so no head is needed, and the answers of a question share its tokens. In the world of the claim a linear
    head's logits stand in their place, as in the paper. C = 3, gamma = 0.1 and 80 % removed at most.
Why: an objective is a function of scores and owns no weights. The loss starts near log C, not at it, since a language
    model does not find all answers equally likely; and it reaches the output embedding too. The paper's numbers are not
    known; one epoch is ours.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import choice, dpo


def spo_self_supervised(*, beta: float = 0.1, gamma: float = 0.1, levels: int = 3, most: float = 0.8) -> Method:
    """DPO and the degree of what is missing.

    Args:
        beta: strength of DPO, per nat.
        gamma: weight of the degree; 0 leaves plain DPO.
        levels: C, degrees that are told apart.
        most: share of the key phrases that the last degree removes.

    Identities: `dpo(beta)` at gamma = 0; log 2 + gamma log C where policy = reference and answers are
        equally likely.

    Source: arXiv 2409.17791.
    """
    degree = choice(right="degree", wrong=tuple(f"wrong_degree_{k}" for k in range(1, levels)))
    return Method(
        objective=dpo(beta=beta) + gamma * degree if gamma else dpo(beta=beta),
        builders=(f"remove_key_content(levels={levels}, most={most})",) if gamma else (),
        defaults={"num_train_epochs": 1},
    )


DPO = "dpo(beta=0.1)"
DEGREE = "choice(right='degree', wrong=('wrong_degree_1', 'wrong_degree_2'))"

claim = Claim(
    statement="Telling how much key content is missing helps to order texts, where more is better and pairs are few.",
    world="texts of ten words, a third of which are key, and embeddings that the policy and a head share",
    run="omnipref.worlds.shared_weights.bags:run",
    metric="accuracy",
    direction="up",
    method="degrees",
    baseline="dpo",
    controls=("other_words",),
    also=(
        "degrees_0.1",
        "degrees_2",
        "dpo_100",
        "degrees_100",
        "other_words_100",
        "signed_dpo",
        "signed_degrees",
        "signed_other_words",
    ),
    show=("kl", "told"),
    options={
        "arms": {
            "degrees": {"objective": f"{DPO} + 0.5*{DEGREE}"},
            "dpo": {"objective": DPO},
            "other_words": {"objective": f"{DPO} + 0.5*{DEGREE}", "other_words": True},
            "degrees_0.1": {"objective": f"{DPO} + 0.1*{DEGREE}"},
            "degrees_2": {"objective": f"{DPO} + 2.0*{DEGREE}"},
            "dpo_100": {"objective": DPO, "pairs": 100},
            "degrees_100": {"objective": f"{DPO} + 0.5*{DEGREE}", "pairs": 100},
            "other_words_100": {"objective": f"{DPO} + 0.5*{DEGREE}", "pairs": 100, "other_words": True},
            "signed_dpo": {"objective": DPO, "signed": True},
            "signed_degrees": {"objective": f"{DPO} + 0.5*{DEGREE}", "signed": True},
            "signed_other_words": {"objective": f"{DPO} + 0.5*{DEGREE}", "signed": True, "other_words": True},
        },
        "steps": 200,
        "rate": 0.02,
    },
    seeds=8,
    expected=0.1,
    note=(
        "With 30 pairs DPO orders 59.5 % of new texts right, with degrees 62.4 %, and with words removed that have no "
        "value 59.8 %; 0.63, 0.73 and 0.64 were expected. The direction is the expected one and the gain a third of "
        "it; the simulation's rates, steps and embeddings are not stated. The gain stays with 100 pairs (0.685 and "
        "0.711; 0.697 for other words). Where values have both signs, so that more key content is not better, degrees "
        "of key words and of other words do the same (0.631 and 0.629; DPO 0.613), as expected. Divergence from the "
        "reference is not lowered (31 to 33 nats). It helps where what is removed is what is valued."
    ),
)
