"""Diffusion-DPO's file: its objective, its defaults and what its claim runs."""

from __future__ import annotations

import importlib

import pytest
import torch

from omnipref.objectives import parse_objective
from omnipref.registry import load_claim, load_method
from omnipref.scores import pair_scores
from omnipref.worlds.denoising_arms import ARMS


def released(errors: list[torch.Tensor], beta: float) -> torch.Tensor:
    model_w, model_l, ref_w, ref_l = errors
    return -torch.nn.functional.logsigmoid(-0.5 * beta * ((model_w - model_l) - (ref_w - ref_l)))


@pytest.mark.parametrize("beta", [2000.0, 5000.0])
def test_is_the_released_loss(beta: float):
    draw = torch.Generator().manual_seed(0)
    errors = [0.1 + 0.001 * torch.randn(6, generator=draw) for _ in range(4)]
    loss = load_method("diffusion-dpo", {"beta": beta}).objective(pair_scores(*(-error for error in errors))).loss_P
    torch.testing.assert_close(loss, released(errors, beta), atol=1e-5, rtol=1e-5)


def test_the_cards_first_example():
    errors = [torch.tensor([value]) for value in (0.1000, 0.1200, 0.1004, 0.1197)]
    method = load_method("diffusion-dpo", {"beta": 2000.0})
    loss = method.objective(pair_scores(*(-error for error in errors))).loss_P
    torch.testing.assert_close(loss.item(), 0.403186, atol=1e-4, rtol=0)


def test_the_released_scale_of_the_learning_rate():
    defaults = load_method("diffusion-dpo").defaults
    pairs = 16 * defaults["per_device_train_batch_size"] * defaults["gradient_accumulation_steps"]
    assert defaults["learning_rate"] == pytest.approx(1e-8 * pairs)
    assert defaults["warmup_ratio"] * defaults["max_steps"] == 500


def test_the_claim_trains_with_this_method():
    claim = load_claim("diffusion-dpo")
    method = load_method("diffusion-dpo", {"beta": 500.0})
    assert parse_objective(claim.options["objective"]) is not None
    assert claim.options["objective"] == str(method.objective)
    module, _, function = claim.run.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert set(claim.arms) <= set(ARMS)
