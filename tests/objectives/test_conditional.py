"""Margin over margin: the card's worked numbers (card mapl), what it does not see, and what can be held constant."""

from __future__ import annotations

import math

import pytest
import torch
from objectives.examples import complete, pairs, scored

from omnipref.objectives import dpo, wider_margin
from omnipref.scores import Cases, Scores

ROLES = ("chosen", "rejected", "chosen@instructed", "rejected@instructed")
PAIRS = scored(complete(pairs(5)), seed=7)


def quadruple(*rho: float) -> Scores:
    """One pair under two prompts with these log-ratios, in the order of `ROLES`."""
    rows = {role: torch.tensor([k]) for k, role in enumerate(ROLES)}
    cases = Cases(torch.tensor([0]), rows, torch.zeros(4).long(), torch.tensor([0, 1, 0, 1]), torch.zeros(4).long())
    logp = torch.tensor(rho, dtype=torch.float64)[:, None]
    return Scores(logp, torch.ones(4, 1, dtype=torch.bool), cases, torch.zeros_like(logp))


def value(*rho: float, **arguments: float) -> float:
    return wider_margin(**arguments)(quadruple(*rho)).loss_P.item()  # type: ignore[arg-type]


def test_worked_numbers():
    scorer = value(1.3, 0.4, 2.1, 0.2, beta=1.0)  # margins .9 and 1.9
    assert scorer == pytest.approx(0.313262, abs=5.1e-7)
    assert dpo(beta=1.0)(quadruple(1.3, 0.4, 2.1, 0.2)).loss_P.item() == pytest.approx(0.341154, abs=5.1e-7)
    assert value(3.0, -1.0, 3.0, -5.0) == pytest.approx(0.513015, abs=5.1e-7)  # margins 4 and 8, beta .1


def test_it_sees_neither_the_response_nor_the_prompt_alone():
    for shift in ((5, -3, 5, -3), (2, 2, -7, -7)):  # f(y), and g(x)
        moved = [rho + more for rho, more in zip((1.3, 0.4, 2.1, 0.2), shift, strict=True)]
        assert value(*moved) == pytest.approx(value(1.3, 0.4, 2.1, 0.2))
    assert value(2.3, 0.4, 2.1, 0.2) > value(1.3, 0.4, 2.1, 0.2)


def test_equal_prompts_teach_nothing():
    logp = torch.tensor([[0.7], [-0.2]], dtype=torch.float64, requires_grad=True)
    shared = quadruple(0, 0, 0, 0)
    same = Scores(logp[[0, 1, 0, 1]], shared.mask, shared.cases, shared.ref_logp)
    loss = wider_margin()(same).loss_P.sum()
    (slope,) = torch.autograd.grad(loss, logp)
    assert loss.item() == pytest.approx(math.log(2))
    assert slope.abs().max() < 1e-12


def test_the_base_can_be_held():
    base = [PAIRS.cases.rows[role] for role in ROLES[:2]]
    slopes = []
    for detached in (False, True):
        scores = PAIRS.with_gradient()
        objective = wider_margin(detach_base=detached)
        slopes.append(torch.autograd.grad(objective(scores).loss_P.sum(), scores.logp)[0])
    assert (slopes[0][base[0]].sum(1) > 0).all() and (slopes[0][base[1]].sum(1) < 0).all()
    assert (slopes[1][torch.cat(base)] == 0).all()
    instructed = torch.cat([PAIRS.cases.rows[role] for role in ROLES[2:]])
    torch.testing.assert_close(slopes[0][instructed], slopes[1][instructed])
    torch.testing.assert_close(wider_margin(detach_base=True)(PAIRS).loss_P, wider_margin()(PAIRS).loss_P)
