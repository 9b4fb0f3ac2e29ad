"""Re-Align: Aligning Vision Language Models via Retrieval-Augmented Direct Preference Optimization

arXiv: 2502.13146
Modality: image-text
In short: DPO on a hallucinated answer plus DPO on a similar picture: the same answer is preferred under its own.

With rho(y|v) = log pi_theta(y|x,v) - log pi_ref(y|x,v), the picture v, a similar picture v_r and one shared beta:

    L = -log sigma(beta [rho(y_w|v) - rho(y_l|v)]) - lambda_v log sigma(beta [rho(y_w|v) - rho(y_w|v_r)])

Paper: the rejected answer comes from blanking the grounded words of the model's own answer (with GPT-4o-mini) and
    letting the model fill them in while it looks at a retrieved picture; that picture is v_r of the second term.
    Equal weights, LoRA on the attention's projections, the projector at its own rate of 2e-5.
Released code: the log-likelihoods of (y_l, v) and (y_w, v_r) are not those of the answer's tokens but of the strongest
    competitor of each token, chosen under policy and reference apart.
Here: the paper's formula, on the answer's own tokens. One learning rate for all trained weights. Records bring their
    own rejected answers; the builder finds v_r for them. lambda_v is an argument, 1 by default.
Why: pushing down the strongest competitor of y_l can raise y_l itself, the opposite of what the formula says.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import dpo


def re_align(*, beta: float = 0.1, visual_weight: float = 1.0, negative: str = "similar_image") -> Method:
    """Text preference and visual preference, summed.

    Args:
        beta: strength of both terms, per nat.
        visual_weight: lambda_v; 0 leaves plain DPO.
        negative: builder of v_r, as `omnipref build` takes it: the nearest pictures, as in the paper, or
            `random_image`, `occlude(share=0.75)`, `crop`.

    Identities: 2 log 2 where policy = reference; `dpo(beta)` plus a constant where v_r = v.

    Source: arXiv 2502.13146, project page.
    """
    visual = visual_weight * dpo(beta=beta, rejected="chosen@negative_image")
    return Method(
        objective=dpo(beta=beta) + visual if visual_weight else dpo(beta=beta),
        builders=(negative,) if visual_weight else (),
        defaults={
            "learning_rate": 1e-6,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.03,
            "weight_decay": 0.0,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "max_length": 1048,
            "lora_r": 128,
            "lora_alpha": 256,
            "lora_dropout": 0.05,
            "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        },
    )


claim = Claim(
    statement="Adding the visual term to text DPO makes the model's answers depend more on the picture.",
    world="pictures of shapes whose captions name companions that are often absent",
    run="omnipref.demo:run_arm",
    metric="image_sensitivity",
    direction="up",
    method="text+visual",
    baseline="text",
    controls=("text+anchor", "text+flipped"),
    also=("text-lower-rate",),
    show=("chair_i", "chair_s", "coverage", "malformed", "sensitivity_occluded"),
    note=(
        "Image sensitivity is the mean over fresh pictures of log p(gold | picture) - log p(gold | another picture). "
        "The controls hold the chosen answer without a contrast of pictures, and flip a coin for which picture is "
        "right. Seen with five seeds: sensitivity is what the visual term adds (19.2 nats against 17.1, and 17.3 and "
        "16.1 for the controls). Hallucinated objects are as rare with text DPO alone (0.8 % against 1.0 %, from 27 % "
        "before), and the gain in coverage (88 % against 87 %) comes with either control too, so it is regularisation."
    ),
)
