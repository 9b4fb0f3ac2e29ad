"""Enhancing Alignment using Curriculum Learning & Ranked Preferences

arXiv: 2403.07230
Modality: text
In short: DPO on the best answer against each other one, easy pairs first; each stage's reference is its own start.

For stage i with pairs D_i and the model of the previous stage as pi_{i-1}, where the policy starts too:

    L_i = -log sigma(beta [log pi(y_w) / pi_{i-1}(y_w) - log pi(y_l) / pi_{i-1}(y_l)])

Paper: four rated answers to a prompt make three pairs, the best against each other; the pair of the largest gap is
    easy, that of the smallest is hard, prompt by prompt; three stages in that order. Zephyr-7B and Mistral-7B.
Released code: none; the pairs are released as ServiceNow-AI/Curriculum_DPO_preferences.
Here: `ranked_to_pairs` writes each pair with its `stage`, `schedule` says in which order and whether the reference
    follows, as data. `omnipref train` trains on all pairs at once; stages are run by `omnipref rounds easy.jsonl
    medium.jsonl hard.jsonl`, on the files of `ranked_to_pairs(only=0)`, `(only=1)` and `(only=2)`. beta, learning rate
    and batch are those of the usual recipe for Zephyr. Difficulty by log-likelihoods of a model is not there.
Why: the paper's own order works on ratings, and a stage is a run like any other.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import dpo
from omnipref.training.schedules import CurriculumStages


def curry_dpo(
    *,
    beta: float = 0.1,
    stages: int = 3,
    refresh_reference: bool = True,
    mode: str = "top_vs_rest",
    learning_rate: float = 5e-7,
) -> Method:
    """DPO in stages of falling gaps.

    Args:
        beta: strength, per nat.
        stages: levels of difficulty, and runs.
        refresh_reference: whether the reference of a stage is the model it starts from; otherwise the first one stays.
        mode: `top_vs_rest` pairs the best answer with each other one, `all` pairs every two.
        learning_rate: of every stage, which has a schedule of its own.

    Identities: log 2 at the first step of every stage; one stage on the easiest pairs is plain DPO.

    Source: arXiv 2403.07230.
    """
    return Method(
        objective=dpo(beta=beta),
        builders=(f"ranked_to_pairs(mode={mode!r}, stages={stages})",),
        schedule=(CurriculumStages(stages=tuple((i,) for i in range(stages)), refresh_reference=refresh_reference),),
        defaults={
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.1,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 4,
        },
    )


ARMS = {
    "easy_to_hard": {},
    "single_pair": {"stages": ((0,),), "refresh": False},
    "hard_to_easy": {"stages": ((2,), (1,), (0,))},
    "random_order": {"shuffled": True},
    "fixed_reference": {"refresh": False},
    "pooled": {"stages": ((0, 1, 2),), "refresh": False},
    "hard_pair": {"stages": ((2,),), "refresh": False},
}

claim = Claim(
    statement="Pairs from easy to hard, each stage with its start as reference, give more true reward than the easiest "
    "pairs alone at the same divergence; the order is what does it.",
    world="rated answers of eight words from tables, compared at 0.4 nats per word from the first reference",
    run="omnipref.worlds.sentences.curriculum:run",
    metric="reward",
    direction="up",
    method="easy_to_hard",
    baseline="single_pair",
    controls=("hard_to_easy", "random_order"),
    also=("fixed_reference", "pooled", "hard_pair"),
    show=("final", "kl"),
    options={"arms": ARMS},
    seeds=12,
    expected=0.11,
    note=(
        "Seen with twelve seeds: 1.53 against 1.44 for the easiest pairs alone, 1.33 for the same pairs in random "
        "order and 1.13 from hard to easy. What is shown is the path: all updates done, hard to easy ends at the very "
        "same reward (1.85) as easy to hard, because sentences of one length have margins whose gradient does not "
        "depend on the policy, and random order at 1.93. A reference that follows adds nothing here (1.53 against "
        "1.55 with a fixed one): steps of Adam on full batches do not shrink as margins grow. With noise of 1.5 "
        "instead of 0.5 in the ratings the claim does not hold: +0.07 [-0.02, +0.16] over the easiest pairs and +0.07 "
        "[-0.02, +0.16] over random order."
    ),
)
