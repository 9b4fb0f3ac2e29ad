"""Re-Align's formula: the card's worked numbers and identities (card re-align, arXiv 2502.13146)."""

from __future__ import annotations

import math

import pytest
import torch

from omnipref.method import Method
from omnipref.objectives import dpo
from omnipref.registry import load_method
from omnipref.scores import Cases, Scores

ROLES = ("chosen", "rejected", "chosen@negative_image")


def scores(*rho: float) -> Scores:
    """One preference with these log-ratios for (y_w, v), (y_l, v), (y_w, v_r)."""
    logp = torch.tensor([[value - 5.0] for value in rho], requires_grad=True)
    rows = {role: torch.tensor([i]) for i, role in enumerate(ROLES)}
    cases = Cases(torch.tensor([0]), rows, torch.zeros(3).long(), torch.tensor([0, 1, -1]), torch.tensor([1, -1, 0]))
    return Scores(logp, torch.ones(3, 1, dtype=torch.bool), cases, torch.full((3, 1), -5.0))


def re_align(**arguments: object) -> Method:
    return load_method("re-align", arguments)


@pytest.mark.parametrize(
    ("rho", "loss"),
    [
        ((0.0, 0.0, 0.0), 2 * math.log(2)),
        ((1.0, -2.0, 0.4), 0.554355 + 0.663597),
        ((1.0, -2.0, 1.0), 0.554355 + math.log(2)),
    ],
)
def test_worked_numbers(rho: tuple[float, ...], loss: float):
    assert re_align().objective(scores(*rho)).loss_P.item() == pytest.approx(loss, abs=2e-6)


def test_without_the_visual_term_it_is_dpo_and_asks_for_no_picture():
    method = re_align(visual_weight=0.0, beta=0.2)
    assert str(method.objective) == str(dpo(beta=0.2))
    assert method.needs.roles == {"chosen", "rejected"}
    assert method.builders == ()


def test_the_same_picture_leaves_the_gradient_of_dpo():
    """v_r = v: the third case is the first one."""
    shared = scores(1.0, -2.0, 1.0)
    logp = torch.stack([shared.logp[0], shared.logp[1], shared.logp[0]])
    same = Scores(logp, shared.mask, shared.cases, shared.ref_logp)
    (found,) = torch.autograd.grad(re_align().objective(same).loss_P.sum(), shared.logp, retain_graph=True)
    (plain,) = torch.autograd.grad(dpo(beta=0.1)(same).loss_P.sum(), shared.logp)
    torch.testing.assert_close(found, plain)


def test_a_shift_of_both_answers_moves_the_visual_term_only():
    near, far = (re_align().objective(scores(*rho)) for rho in ((1.0, -2.0, 0.4), (3.0, 0.0, 0.4)))
    assert near.metrics["dpo/loss"].item() == pytest.approx(far.metrics["dpo/loss"].item(), abs=1e-6)
    assert near.metrics["dpo_2/loss"] > far.metrics["dpo_2/loss"] + 0.05


def test_the_chosen_answer_is_pulled_by_both_terms():
    some = scores(1.0, -2.0, 0.4)
    (grad,) = torch.autograd.grad(re_align().objective(some).loss_P.sum(), some.logp)
    assert grad[0].item() == pytest.approx(-(grad[1] + grad[2]).item())
    assert grad[0] < 0 < min(grad[1], grad[2])
