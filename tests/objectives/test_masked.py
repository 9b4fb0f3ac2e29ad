"""SparsePO: the numbers of card `sparsepo`, its limits, and where masks and their gradients end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import at_reference, pairs, scored
from torch import Tensor

from omnipref.objectives import dpo, sparse_po, stretched, tdpo1
from omnipref.scores import Scores, pair_scores

DIGITS = {"rel": 0, "abs": 6e-7}
RHO_W, RHO_L = [0.5, -0.2, 1.0], [0.3, 0.4, -0.6]
DRIFT = torch.tensor([[0.05, 0.1, 0.2], [0.02, 0.3, 0.1]], dtype=torch.float64)
MASK = torch.tensor([[0.0, 1.2, 0.5], [0.8, 0.0, 1.0]], dtype=torch.float64)
ONE, NONE = torch.ones_like(MASK), torch.zeros_like(MASK)


def example(mask: Tensor = MASK, divergence_mask: Tensor = MASK) -> Scores:
    """The card's pair of three tokens each."""
    rows = [torch.tensor([values], dtype=torch.float64) for values in (RHO_W, RHO_L)]
    zeros = torch.zeros(1, 3, dtype=torch.float64)
    scores = pair_scores(*rows, zeros, zeros)
    return replace(scores, extras={"kl_ref_policy": DRIFT, "mask": mask, "other": divergence_mask})


def learned(**settings: object):
    return sparse_po(**{"beta": 0.8, "mask": "mask", **settings})  # type: ignore[arg-type]


def test_worked_example():
    outcome = learned()(example())
    assert outcome.loss_P.item() == pytest.approx(0.444908, **DIGITS)
    assert outcome.reward_N is not None
    assert (outcome.reward_N[0] - outcome.reward_N[1]).item() == pytest.approx(0.5792)
    told = {name.removeprefix("sparse_po/"): value.item() for name, value in outcome.metrics.items()}
    assert told["mask"] == pytest.approx(3.5 / 6) and told["masked"] == pytest.approx(1 / 3)
    with_norm = learned(sparsity=0.001, divergence_sparsity=0.001)(example()).loss_P
    assert with_norm.item() == pytest.approx(0.451908, **DIGITS)
    torch.testing.assert_close(learned(sparsity=0.002)(example()).loss_P, with_norm)
    assert learned()(example(ONE)).loss_P.item() == pytest.approx(0.339999, **DIGITS)


def test_limits():
    card = example(ONE, NONE)
    assert learned(divergence_mask="other")(card).loss_P.item() == pytest.approx(0.324178, **DIGITS)
    torch.testing.assert_close(learned(divergence_mask="other")(card).loss_P, dpo(beta=0.8)(card).loss_P)
    torch.testing.assert_close(learned()(card).loss_P, tdpo1(beta=0.8)(card).loss_P)
    assert learned()(example(NONE)).loss_P.item() == pytest.approx(math.log(2))


def test_independent_masks_are_told_apart():
    some = example(MASK, MASK.flip(0))
    found = learned(divergence_mask="other", sparsity=0.1, divergence_sparsity=0.3)(some).loss_P.item()
    own = sum(m * r for m, r in zip([0, 1.2, 0.5], RHO_W, strict=True)) - 0.8 * 0.3 + 0.6
    drift = (0.8 * 0.05 + 0.2) - (1.2 * 0.3 + 0.5 * 0.1)
    expected = math.log1p(math.exp(-0.8 * (own + drift))) + (0.1 + 0.3) * 3.5
    assert found == pytest.approx(expected)


def test_gradients_reach_policy_drift_and_masks_and_stop_at_masks_of_zero():
    mask, drift = MASK.clone().requires_grad_(), DRIFT.clone().requires_grad_()
    scores = example(mask, mask).with_gradient()
    scores = replace(scores, extras={**scores.extras, "kl_ref_policy": drift})
    learned()(scores).loss_P.sum().backward()
    slope = 0.8 / (1 + math.exp(0.5792))
    sign = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    for grad in (scores.logp.grad, drift.grad):
        torch.testing.assert_close(grad, sign * slope * MASK)
    rho = torch.tensor([RHO_W, RHO_L], dtype=torch.float64)
    torch.testing.assert_close(mask.grad, sign * slope * (rho + DRIFT))


def test_at_the_reference_only_the_norm_moves_a_mask():
    scores = at_reference(scored(pairs(3), seed=1))
    mask = torch.rand(scores.mask.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask.requires_grad_()
    held = replace(scores, extras={**scores.extras, "mask": mask})
    loss_P = learned(sparsity=0.01)(held).loss_P
    total_P = (mask * scores.mask).sum(1)[scores.cases.rows["chosen"]] + (mask * scores.mask).sum(1)[
        scores.cases.rows["rejected"]
    ]
    torch.testing.assert_close(loss_P, math.log(2) + 0.01 * total_P)
    loss_P.sum().backward()
    torch.testing.assert_close(mask.grad, 0.01 * scores.mask.double())


def test_stretched_masks_lie_between_0_and_1_and_carry_no_gradient():
    four = torch.tensor([[0.1, 0.4, 0.2, 0.9]])
    full = torch.ones(1, 4, dtype=torch.bool)
    assert stretched(four, full)[0].tolist() == pytest.approx([0, 0.375, 0.125, 1])
    standard = (four - four.mean()) / four.std()
    torch.testing.assert_close(stretched(standard, full), stretched(four, full))
    padded = torch.tensor([[math.nan, 3.0, 5.0, math.nan], [7.0, math.nan, math.nan, math.nan]], requires_grad=True)
    found = stretched(padded, ~padded.isnan())
    assert found.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]] and not found.requires_grad
    flat = torch.full((1, 4), 2.0)
    assert stretched(flat, full).tolist() == [[1, 1, 1, 1]]
    assert stretched(flat, ~full).tolist() == [[0, 0, 0, 0]]


def test_the_default_reads_what_language_models_give():
    objective = sparse_po()
    assert objective.needs.extras == {"kl_ref_policy", "ref_activation"}
    scores = scored(pairs(4), seed=4)
    given = replace(scores, extras={**scores.extras, "mask": scores.extras["ref_activation"]})
    torch.testing.assert_close(objective(scores).loss_P, sparse_po(mask="mask")(given).loss_P)
    assert not torch.allclose(objective(scores).loss_P, tdpo1()(scores).loss_P)


def test_an_extra_can_be_stretched_to_be_the_mask():
    scores = scored(pairs(4), seed=4)
    objective = sparse_po(mask="ref_entropy", rescale=True)
    given = replace(scores, extras={**scores.extras, "mask": stretched(scores.extras["ref_entropy"], scores.mask)})
    torch.testing.assert_close(objective(scores).loss_P, sparse_po(mask="mask")(given).loss_P)
    assert not torch.allclose(objective(scores).loss_P, sparse_po(mask="ref_entropy")(scores).loss_P)
