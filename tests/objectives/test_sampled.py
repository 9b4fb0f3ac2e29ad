"""Objectives on sampled responses: worked numbers, and gradients that must be those of expectations."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from objectives.examples import at_reference, card_scores, complete, pairs, scored
from torch import Tensor

from omnipref.errors import ConfigError, NeedsError
from omnipref.objectives import Objective, dpo, nash_md, optimism, sampled_kl, sft, soft_spo, xpo
from omnipref.scores import Cases, Scores

PAIRS = scored(complete(pairs(6)), seed=5)


def with_score(scores: Scores, *values: float) -> Scores:
    columns = {**scores.cases.columns, "score": torch.tensor(values, dtype=torch.float64)}
    return replace(scores, cases=replace(scores.cases, columns=columns))


def slope(objective: Objective, scores: Scores = PAIRS) -> Tensor:
    logp = scores.logp.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(replace(scores, logp=logp)).loss_P.sum(), logp)
    return found


def test_nash_md_of_the_survey_fixture():
    # 6 units of log-likelihood -2 and log-ratio 1/6: 0.1 (1/6) (-12) - (0.75 - 0.5) (-12).
    outcome = nash_md(role="chosen")(with_score(card_scores(), 0.75, 0.25))
    assert outcome.loss_P.item() == pytest.approx(-0.2 + 3.0)
    assert outcome.reward_N is None


def test_nash_md_has_the_gradient_of_its_formula_with_still_log_ratios():
    rows = PAIRS.cases.rows["completion"]
    assert PAIRS.ref_logp is not None
    expected = torch.zeros_like(PAIRS.logp)
    expected[rows] = (0.3 * (PAIRS.logp - PAIRS.ref_logp)[rows] - (0.75 - 0.5)) * PAIRS.mask[rows]
    torch.testing.assert_close(slope(nash_md(beta=0.3), with_score(PAIRS, *[0.75] * len(PAIRS.logp))), expected)


def test_nash_md_between_equals_only_holds_to_the_reference():
    even = with_score(PAIRS, *[0.5] * len(PAIRS.logp))
    assert (slope(nash_md(), at_reference(even)) == 0).all()
    n = PAIRS.mask.sum(1)[PAIRS.cases.rows["completion"]]
    liked = with_score(PAIRS, *[0.75] * len(PAIRS.logp))
    torch.testing.assert_close(nash_md(beta=1e-12)(liked).loss_P, 0.25 * n * sft("completion")(PAIRS).loss_P)


def test_nash_md_wants_probabilities():
    with pytest.raises(NeedsError, match=r"column score in records \[0\]; expected probabilities"):
        nash_md(role="chosen")(card_scores())


def test_xpo_of_the_survey_fixture():
    for sampled, log_likelihood in (("chosen", -12), ("rejected", -15)):
        outcome = xpo(beta=0.1, alpha=0.01, sampled=sampled)(card_scores())
        assert outcome.loss_P.item() == pytest.approx(0.598139 + 0.01 * log_likelihood, abs=5.1e-7)
        assert outcome.metrics["xpo/bonus"].item() == pytest.approx(0.01 * log_likelihood)


def test_xpo_is_dpo_and_optimism():
    together = dpo(beta=0.2) + 0.03 * optimism()
    torch.testing.assert_close(xpo(beta=0.2, alpha=0.03)(PAIRS).loss_P, together(PAIRS).loss_P)
    torch.testing.assert_close(slope(xpo(beta=0.2, alpha=0.03)), slope(together))
    torch.testing.assert_close(xpo(alpha=0.0)(PAIRS).loss_P, dpo()(PAIRS).loss_P)
    n = PAIRS.mask.sum(1)[PAIRS.cases.rows["reference_sample"]]
    torch.testing.assert_close(optimism()(PAIRS).loss_P, -n * sft("reference_sample")(PAIRS).loss_P)


def test_optimism_makes_its_case_unlikelier():
    rows = PAIRS.cases.rows["reference_sample"]
    assert (slope(optimism())[rows][PAIRS.mask[rows]] == 1).all()


def samples(logp_PK: Tensor, ref_PK: Tensor) -> Scores:
    """Sets of K samples of one unit."""
    p, k = logp_PK.shape
    number = torch.arange(p * k).reshape(p, k)
    rows = {f"sample_{i}": number[:, i] for i in range(k)}
    nothing = torch.zeros(p * k, dtype=torch.long)
    cases = Cases(torch.arange(p), rows, torch.arange(p).repeat_interleave(k), nothing - 1, nothing)
    column = logp_PK.reshape(-1, 1)
    return Scores(column, torch.ones_like(column, dtype=torch.bool), cases, ref_PK.reshape(-1, 1))


@pytest.mark.parametrize("count", [2, 3])
def test_sampled_kl_is_the_divergence_and_its_gradient_in_expectation(count: int):
    """Over all sets of samples, weighted by their probability under a policy of four responses: exact."""
    random = torch.Generator().manual_seed(0)
    logits, ref = (torch.randn(4, generator=random, dtype=torch.float64) for _ in range(2))
    ref = ref.log_softmax(0)
    sets = torch.tensor(list(itertools.product(range(4), repeat=count)))
    logits.requires_grad_()
    logp = logits.log_softmax(0)
    chance_P = logp[sets].sum(1).exp().detach()
    estimate = (chance_P * sampled_kl(samples=count)(samples(logp[sets], ref[sets])).loss_P).sum()
    divergence = (logp.exp() * (logp - ref)).sum()
    torch.testing.assert_close(estimate, divergence)
    found, expected = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (estimate, divergence))
    torch.testing.assert_close(found, expected)
    # The gradient of the value itself would be 0 in expectation, and push nothing.
    naive = (chance_P * (logp[sets] - ref[sets]).mean(1)).sum()
    assert not torch.allclose(torch.autograd.grad(naive, logits)[0], expected)


def test_sampled_kl_is_still_where_nothing_differs():
    same = samples(torch.tensor([[-3.0, -5.0]]), torch.tensor([[-3.0, -5.0]]))
    apart = samples(torch.tensor([[-3.0, -5.0]]), torch.tensor([[-4.0, -6.0]]))
    assert sampled_kl()(same).loss_P.item() == 0 and sampled_kl()(apart).loss_P.item() == 1
    for scores in (same, apart):
        assert (slope(sampled_kl(), scores) == 0).all()


@pytest.mark.parametrize("bad", [1, 0, 2.5, "2"])
def test_sampled_kl_wants_several_samples(bad: object):
    with pytest.raises(ConfigError, match="found samples="):
        sampled_kl(samples=bad)  # pyright: ignore[reportArgumentType]


def test_soft_preference_optimisation_is_a_sum():
    whole = soft_spo(alpha=0.1) + 0.2 * sampled_kl()
    assert whole.needs.roles == {"chosen", "rejected", "sample_0", "sample_1"} and whole.needs.reference
    torch.testing.assert_close(
        whole(PAIRS).loss_P, soft_spo(alpha=0.1)(PAIRS).loss_P + 0.2 * sampled_kl()(PAIRS).loss_P
    )
