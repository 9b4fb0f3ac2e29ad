"""The four losses of the study: worked numbers, what each is blind to, nested sets (card insights-alignment)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from objectives.examples import card_scores, pairs, scored, with_mismatched

from omnipref.objectives import ipo, parse_objective
from omnipref.registry import load_claim, load_method
from omnipref.scores import Scores
from omnipref.worlds.bandits import answers


def loss_P(name: str, scores: Scores) -> torch.Tensor:
    return load_method("insights-alignment", {"loss": name}).objective(scores).loss_P


def with_a_baseline(rho: float) -> Scores:
    """The card's pair, beside a response to another prompt with this log-ratio."""
    card = card_scores()
    assert card.ref_logp is not None
    case = torch.full((1, 8), rho / 8, dtype=torch.float64)
    cases = replace(
        card.cases,
        rows={**card.cases.rows, "mismatched": torch.tensor([2])},
        preference_N=torch.zeros(3).long(),
        rank_N=torch.tensor([0, 1, -1]),
        label_N=torch.tensor([1, -1, 0]),
    )
    mask = torch.cat([card.mask, torch.ones(1, 8, dtype=torch.bool)])
    return Scores(torch.cat([card.logp, case]), mask, cases, torch.cat([card.ref_logp, 0 * case]))


@pytest.mark.parametrize(("name", "expected"), [("dpo", 0.598139), ("ipo", 22.168403), ("cpo", 2.554355)])
def test_worked_numbers(name: str, expected: float):
    assert loss_P(name, card_scores()).item() == pytest.approx(expected, rel=0, abs=5.1e-7)


def test_worked_numbers_of_sums_and_of_single_cases():
    assert ipo(beta=0.1, reduce="total")(card_scores()).loss_P.item() == pytest.approx(9.0)
    # Both cases of the pair have .475021 at z = 0, which a negative baseline is held to, and .487503 and .462570 at .5.
    for rho, expected in ((0.0, 0.475021), (-7.0, 0.475021), (0.5, (0.487503 + 0.462570) / 2)):
        assert loss_P("kto", with_a_baseline(rho)).item() == pytest.approx(expected, rel=0, abs=5.1e-7)


PAIRS = scored(with_mismatched(pairs(6)), seed=11)


@pytest.mark.parametrize(("name", "reference", "both"), [("dpo", 1, 0), ("ipo", 1, 0), ("kto", 1, 0), ("cpo", 0, 1)])
def test_what_a_loss_is_blind_to(name: str, reference: bool, both: bool):
    """Three see how far the policy is from the reference, and CPO where the policy is."""
    shift = torch.linspace(-1, 2, len(PAIRS.logp), dtype=torch.float64)[:, None] * PAIRS.mask
    assert PAIRS.ref_logp is not None
    before = loss_P(name, PAIRS)
    other_reference = PAIRS.with_reference(PAIRS.ref_logp + shift)
    together = replace(other_reference, logp=PAIRS.logp + shift)
    assert torch.allclose(before, loss_P(name, other_reference)) != bool(reference)
    assert torch.allclose(before, loss_P(name, together)) != bool(both)


def test_the_baseline_does_not_depend_on_the_order_of_the_other_responses():
    rows = {**PAIRS.cases.rows, "mismatched": PAIRS.cases.rows["mismatched"].roll(2)}
    turned = replace(PAIRS, cases=replace(PAIRS.cases, rows=rows))
    torch.testing.assert_close(loss_P("kto", PAIRS), loss_P("kto", turned))


def test_smaller_sets_are_parts_of_larger_ones():
    made = []
    for count in (40, 400, 2000):
        draw = torch.Generator().manual_seed(3)
        made.append(answers.pairs(answers.draw_world(draw, 0.88), count, draw))
    for small, large in pairwise(made):
        count = len(small.prompt_P)
        assert torch.equal(small.prompt_P, large.prompt_P[:count])
        for role in ("chosen", "rejected"):
            assert torch.equal(small.actions[role], large.actions[role][:count])


def test_the_claim_trains_with_these_losses():
    arms = load_claim("insights-alignment").options["arms"]
    for name in ("dpo", "ipo", "kto", "cpo"):
        own = str(load_method("insights-alignment", {"loss": name}).objective)
        for arm in (name, f"{name}_sft", f"{name}_instruct"):
            assert str(parse_objective(arms[arm]["objective"])) == own
