"""The study's losses: worked numbers, and how a push downwards moves a softmax (card suboptimal-on-policy)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from objectives.examples import card_scores, ratio_scores
from torch import Tensor

from omnipref.objectives import Objective, dpo, ipo, optimism, parse_objective, rwr, sampled_kl, sft
from omnipref.registry import load_claim, load_method
from omnipref.scores import Cases, Scores
from omnipref.worlds.bandits.choices import Choices, score
from omnipref.worlds.bandits.policies import Tabular

ONE = torch.zeros(1, dtype=torch.long)


def test_worked_numbers():
    pair = ratio_scores([1.0], [-1.0])
    assert ipo(beta=0.05)(pair).loss_P.item() == pytest.approx(64.0)  # a target margin of 10
    made = load_method("suboptimal-on-policy", {"beta": 0.05}).objective
    assert made(pair).loss_P.item() == pytest.approx(0.644397, rel=0, abs=5.1e-7)
    card = card_scores()
    card = replace(card, cases=replace(card.cases, columns={"score": torch.tensor([1.0, 0.0], dtype=torch.float64)}))
    assert rwr("chosen", temperature=10.0)(card).loss_P.item() == pytest.approx(13.262051, rel=0, abs=5.1e-7)


def slope(objective: Objective, chosen: int, rejected: int) -> Tensor:
    """The gradient on a softmax's logits, one pair of actions compared."""
    policy = Tabular(torch.tensor([[0.4, -0.3, 1.1, 0.0]], dtype=torch.float64))
    choices = Choices(ONE, {"chosen": ONE + chosen, "rejected": ONE + rejected})
    loss = objective(score(policy(), policy.reference_XA, choices)).loss_P.sum()
    return torch.autograd.grad(loss, policy.logits_XA)[0][0]


BOTH = sft() + optimism("rejected")
"""The best of the samples up, the worst down."""


def test_up_and_down_together_leave_other_logits_alone():
    torch.testing.assert_close(slope(BOTH, 2, 1), torch.tensor([0, 1.0, -1.0, 0], dtype=torch.float64))
    pair = slope(dpo(beta=0.1), 2, 1)
    assert pair[[0, 3]].abs().max() < 1e-12 and pair[1] == pytest.approx(-pair[2].item()) and pair[1] > 0
    assert (slope(sft(), 2, 1)[[0, 1, 3]] > 0.05).all()


def test_a_best_that_is_also_the_worst_teaches_nothing():
    assert slope(BOTH, 2, 2).abs().max() < 1e-12
    assert slope(dpo(beta=0.1), 2, 2).abs().max() < 1e-12


TARGET = torch.tensor([0.90, 0.05, 0.05], dtype=torch.float64)
POLICY = torch.tensor([0.02, 0.90, 0.08], dtype=torch.float64)


def in_expectation(objective: Objective, chance: Tensor, count: int) -> Tensor:
    """The gradient on the policy's logits, over all sets of samples with these chances."""
    logits = POLICY.log().requires_grad_()
    sets = torch.tensor(list(itertools.product(range(3), repeat=count)))
    number = torch.arange(sets.numel()).reshape(sets.shape)
    rows = {"completion": number[:, 0], **{f"sample_{k}": number[:, k] for k in range(count)}}
    none = torch.zeros(sets.numel(), dtype=torch.long)
    owner = torch.arange(len(sets)).repeat_interleave(count)
    column = logits.log_softmax(0)[sets].reshape(-1, 1)
    cases = Cases(torch.arange(len(sets)), rows, owner, none - 1, none)
    scores = Scores(column, torch.ones_like(column, dtype=torch.bool), cases, TARGET.log()[sets].reshape(-1, 1))
    loss = (chance[sets].prod(1) * objective(scores).loss_P).sum()
    return torch.autograd.grad(loss, logits)[0]


def test_likelihood_covers_modes_and_samples_of_the_policy_seek_them():
    """Both leave the second bin for the first; the third, likelier than it should be, loses by one, gains by the other.

    Forward divergence: the target's samples fitted. Reverse: the policy's own samples against the target.
    """
    forward = in_expectation(sft("completion"), TARGET, 1)
    reverse = in_expectation(sampled_kl(), POLICY, 2)
    torch.testing.assert_close(forward, POLICY - TARGET)
    ratio = (POLICY / TARGET).log()
    torch.testing.assert_close(reverse, POLICY * (ratio - (POLICY * ratio).sum()))
    assert (forward > 0).tolist() == [False, True, True]
    assert (reverse > 0).tolist() == [False, True, False]


def test_the_claim_trains_with_this_method():
    arms = load_claim("suboptimal-on-policy").options["arms"]
    own = str(load_method("suboptimal-on-policy").objective)
    assert all(str(parse_objective(arms[arm]["objective"])) == own for arm in ("on_policy", "off_policy", "stale"))
    assert "refresh" not in arms["off_policy"] and arms["stale"]["refresh"] > arms["on_policy"]["refresh"]
