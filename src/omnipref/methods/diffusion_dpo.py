"""Diffusion Model Alignment Using Direct Preference Optimization

arXiv: 2311.12908
Modality: text-to-image
In short: DPO with the log-likelihoods replaced by minus the denoising errors at one timestep, under one shared noise.

With e = mean over elements of (eps_theta(x_t, t, c) - eps)^2, t and eps the same for both images and both models:

    L = -log sigma(-(beta/2) [(e_theta(x_w) - e_ref(x_w)) - (e_theta(x_l) - e_ref(x_l))])

Paper: the loss has beta T omega(lambda_t) and sums of squares, with omega constant; SD 1.5 and SDXL, all weights of the
    UNet, 2048 pairs of Pick-a-Pic v2 per step, a rate that falls with beta as (2000 / beta) 2.048e-8.
Released code: github.com/SalesforceAIResearch/DiffusionDPO has means of squares and beta / 2, with beta = 5000 in both
    launch scripts; a rate of 1e-8 times the 2048 pairs, 500 steps of warm-up of 2000 (SDXL: 200, Adafactor); captions
    dropped with probability 0.2 and pictures flipped at random, each on its own.
Here: the code's form, which is `dpo(beta=beta/2)` on a diffusion policy's scores and nothing else. 16 devices make the
    code's batch of 2048. Captions are dropped as in the code, the same for both pictures; pictures are never flipped.
Why: a mean does not depend on the size of the latents (beta/2 = 2500 equals beta T omega = 0.153 at 512 pixels). A
    flip that differs between winner and loser is a difference nobody preferred, and without it latents can be kept.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import dpo


def diffusion_dpo(*, beta: float = 5000.0, learning_rate: float = 2.048e-5) -> Method:
    """DPO on denoising errors.

    Args:
        beta: strength per unit of mean squared error; the paper searches 2000 to 5000. Its product with the learning
            rate is what sets the size of a step.
        learning_rate: for the paper's batch of 2048 pairs.

    Identities: log 2 where policy = reference; no gradient where both images of a pair are the same.

    Source: arXiv 2311.12908, equation (14), and the released `train.py`.
    """
    return Method(
        objective=dpo(beta=beta / 2),
        defaults={
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_ratio": 0.25,
            "max_steps": 2000,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 128,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "policy_args": {"caption_dropout": 0.2},
        },
    )


claim = Claim(
    statement="Diffusion-DPO on pairs of the model's own samples raises the true reward of what it generates.",
    world="vectors of a colour and a size that follow a prompt, made by a UNet of 180 thousand weights",
    run="omnipref.worlds.denoising_arms:run",
    metric="reward",
    direction="up",
    method="method",
    baseline="base",
    controls=("coin_flip_labels", "independent_noise"),
    also=("reversed_labels", "sft_chosen", "sft_then_method"),
    show=("accuracy",),
    options={"objective": "dpo(beta=250.0)", "learning_rate": 1e-4, "steps": 300},
    expected=0.85,
    note=(
        "Seen with three seeds: base -4.15, method -3.30, coin-flip labels -4.20, reversed labels -5.07. Noise drawn "
        "apart for winner and loser (-3.62) falls short of the method but keeps over half of its gain: what sharing "
        "takes away is variance. Fine-tuning on the chosen samples, at the same rate and number of updates, does "
        "better than the method (-2.92), and the method from there does best (-2.35): with pairs of the model's own "
        "samples, that DPO beats fine-tuning is not claimed. beta is 500, not 5000, because there are 8 numbers and "
        "not 16384 pixels of latents to a sample; the share of samples that follow their prompt moves with the reward."
    ),
)
