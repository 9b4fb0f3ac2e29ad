"""HyPO: the exact gradient of its penalty, its estimators, and what a forgotten detach would do (card hypo)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from objectives.examples import card_scores, complete, pairs, scored
from torch import Tensor

from omnipref.objectives import dpo, sampled_kl
from omnipref.registry import load_method
from omnipref.scores import Cases, Scores
from omnipref.worlds.bandits.policies import divergence

LOGITS = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
REFERENCE = torch.zeros(3, dtype=torch.float64).log_softmax(0)
EXACT = torch.tensor([0.282587, -0.140770, -0.141817], dtype=torch.float64)


def sampled(logp_PKU: Tensor, ref_PKU: Tensor) -> Scores:
    """P prompts with K samples of U units each."""
    p, k, u = logp_PKU.shape
    number = torch.arange(p * k).reshape(p, k)
    rows = {f"sample_{i}": number[:, i] for i in range(k)}
    nothing = torch.zeros(p * k, dtype=torch.long)
    cases = Cases(torch.arange(p), rows, torch.arange(p).repeat_interleave(k), nothing - 1, nothing)
    logp_NU = logp_PKU.reshape(-1, u)
    return Scores(logp_NU, torch.ones_like(logp_NU, dtype=torch.bool), cases, ref_PKU.reshape(-1, u))


def gradients_of_all_sets(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The penalty's gradient for every set of two samples, `[A², A]`, and their probabilities; a uniform reference."""
    logits = logits.clone().requires_grad_()
    logp = logits.log_softmax(0)
    sets = all_sets(logits)
    reference = torch.full_like(logp, -math.log(len(logits)))
    loss_P = sampled_kl()(sampled(logp[sets][..., None], reference[sets][..., None])).loss_P
    slopes = torch.stack([torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in loss_P])
    return slopes, logp.detach()[sets].sum(1).exp()


def all_sets(logits: Tensor) -> Tensor:
    return torch.tensor(list(itertools.product(range(len(logits)), repeat=2)))


def test_the_mean_gradient_is_that_of_the_divergence():
    slopes, chance = gradients_of_all_sets(LOGITS)
    torch.testing.assert_close((chance[:, None] * slopes).sum(0), EXACT, rtol=0, atol=5.1e-7)
    policy = LOGITS.log_softmax(0)
    assert divergence(policy[None], REFERENCE[None]) == pytest.approx(0.266217, abs=5.1e-7)
    logits = LOGITS.clone().requires_grad_()
    exact = (logits.softmax(0) * (logits.log_softmax(0) - REFERENCE)).sum()
    torch.testing.assert_close(torch.autograd.grad(exact, logits)[0], EXACT, rtol=0, atol=5.1e-7)


def spreads(logits: Tensor) -> tuple[float, float]:
    """Variances of the gradient, leaving one out and as the plain score function, both of two samples."""
    slopes, chance = gradients_of_all_sets(logits)
    logp = logits.log_softmax(0)
    plain = (logp + math.log(len(logp)))[:, None] * (torch.eye(len(logp), dtype=torch.float64) - logp.exp())
    of_two = plain[all_sets(logits)].mean(1)
    mean = (chance[:, None] * slopes).sum(0)
    torch.testing.assert_close((chance[:, None] * of_two).sum(0), mean)
    left_out, score = ((chance[:, None] * (part - mean) ** 2).sum().item() for part in (slopes, of_two))
    return left_out, score


def test_leaving_one_out_varies_less_where_the_policy_has_moved_far():
    """Where log-ratios are large and alike, as those of long responses; near the reference it varies more."""
    far = torch.tensor([9.0, 8.8, 9.1, 0.0, 0.0, 0.0], dtype=torch.float64)
    left_out, score = spreads(far)
    assert left_out < score / 4
    left_out, score = spreads(LOGITS)
    assert left_out > score


def test_a_forgotten_detach_would_give_other_gradients():
    """Of a set's samples, though the same in the mean: `E ∇ρ = 0` only adds noise."""
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(0)
    rho = logp - REFERENCE

    def of_actions(value_A: Tensor) -> Tensor:
        return torch.stack([torch.autograd.grad(value, logits, retain_graph=True)[0] for value in value_A])

    extra = of_actions(rho)
    chance = logp.detach().exp()[:, None]
    torch.testing.assert_close((chance * extra).sum(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert extra.abs().max() > 0.5
    slopes, _ = gradients_of_all_sets(LOGITS)
    sets = all_sets(LOGITS)
    same = sets[:, 0] == sets[:, 1]
    assert (slopes[same] == 0).all() and (extra[sets[same]].mean(1).abs().max(1).values > 0.2).all()


def test_where_policy_is_reference_no_sample_pulls():
    draw = torch.Generator().manual_seed(0)
    logp = torch.randn(5, 2, 4, generator=draw, dtype=torch.float64)
    scores = sampled(logp, logp).with_gradient()
    (slope,) = torch.autograd.grad(sampled_kl()(scores).loss_P.sum(), scores.logp)
    assert (slope == 0).all()


def test_a_sample_has_one_log_ratio_for_all_of_its_tokens():
    """Tokens of one sample are pulled alike, by the whole response's log-ratio less the other's."""
    logp = torch.tensor([[[-1.0, -2.0], [-3.0, -1.0]]], dtype=torch.float64)
    scores = sampled(logp, torch.tensor([[[-2.0, -2.5], [-1.0, -1.5]]], dtype=torch.float64)).with_gradient()
    (slope,) = torch.autograd.grad(sampled_kl()(scores).loss_P.sum(), scores.logp)
    gap = (1.5 - -1.5) / 2  # log-ratios of 1.5 and -1.5; half, as one of two samples
    torch.testing.assert_close(slope, torch.tensor([[gap, gap], [-gap, -gap]], dtype=torch.float64))


def test_the_method_is_dpo_and_the_penalty():
    scores = scored(complete(pairs(6)), seed=5)
    plain = load_method("hypo", {"beta": 0.1, "kl_weight": 0.0}).objective
    torch.testing.assert_close(plain(scores).loss_P, dpo(beta=0.1)(scores).loss_P)
    assert dpo(beta=0.1)(card_scores()).loss_P.item() == pytest.approx(0.598139, rel=0, abs=5.1e-7)
    three = load_method("hypo", {"samples": 3, "kl_weight": 0.2})
    assert str(three.objective) == "dpo(beta=0.05) + 0.2*sampled_kl(samples=3)"
    assert three.builders == ("own_samples(n=3)",)
