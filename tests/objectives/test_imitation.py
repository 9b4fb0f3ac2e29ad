"""Fine-tuning that weighs or stops by itself: the identities of two cards, `implicit-reward-sft` among them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objectives.examples import pairs, scored
from objectives.test_gradients import gradient

from omnipref.objectives import IMITATION, dft, f_sft, reinforce, rwr, sft
from omnipref.scores import Scores, pair_scores


def shifted(scores: Scores, by: float) -> Scores:
    return replace(scores, ref_logp=scores.logp - by * scores.mask)


def with_scores(*scores: float) -> Scores:
    made = pair_scores(torch.linspace(-9.0, -5.0, len(scores)), torch.zeros(len(scores)))
    columns = {"score": torch.tensor([*scores, *[0.0] * len(scores)])}
    return replace(made, cases=replace(made.cases, columns=columns))


@pytest.mark.parametrize("divergence", IMITATION)
def test_every_divergence_begins_as_fine_tuning(divergence: str):
    scores = shifted(scored(pairs(3)), 0.0)
    torch.testing.assert_close(gradient(f_sft(divergence=divergence), scores), gradient(sft(), scores))


def test_total_variation_is_fine_tuning_wherever_the_policy_is():
    scores = shifted(scored(pairs(3)), 0.7)
    torch.testing.assert_close(gradient(f_sft(divergence="total_variation"), scores), gradient(sft(), scores))


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [("chi_square", 0.75), ("squared_hellinger", 1 / 2.25), ("reverse_kl", 0.606531), ("jensen_shannon", 0.435267)],
)
def test_likely_demonstrations_are_pushed_less(divergence: str, expected: float):
    scores = shifted(scored(pairs(3)), 0.5)
    ratio = gradient(f_sft(divergence=divergence), scores) / gradient(sft(), scores)
    chosen = scores.cases.rows["chosen"]
    torch.testing.assert_close(
        ratio[chosen][scores.mask[chosen]],
        torch.full_like(ratio[chosen][scores.mask[chosen]], expected),
        rtol=1e-5,
        atol=0,
    )


def test_chi_square_stops_at_two():
    assert (gradient(f_sft(), shifted(scored(pairs(3)), 2.5)) == 0).all()


@pytest.mark.parametrize("divergence", ["squared_hellinger", "reverse_kl", "jensen_shannon"])
def test_demonstrations_that_became_unlikely_weigh_no_more_than_they_may(divergence: str):
    slope = gradient(f_sft(divergence=divergence), shifted(scored(pairs(3)), -30.0))
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("reduce", ["mean", "total"])
def test_dynamic_fine_tuning_raises_probabilities_not_their_logarithms(reduce: str):
    scores = scored(pairs(3))
    rows, logp = scores.cases.rows["chosen"], scores.logp.clone().requires_grad_()
    value_N = (logp.exp() * scores.mask)[rows].sum(1)
    value_N = value_N / scores.mask[rows].sum(1) if reduce == "mean" else value_N
    torch.testing.assert_close(gradient(dft(reduce=reduce), scores), torch.autograd.grad(-value_N.sum(), logp)[0])
    certain = replace(scores, logp=scores.logp * 1e-9)
    torch.testing.assert_close(gradient(dft(), certain), gradient(sft(), certain))


def test_equal_scores_teach_nothing_but_without_negatives_equal_ones_do_neither():
    equal = with_scores(2.0, 2.0, 2.0)
    for objective in (reinforce("chosen"), reinforce("chosen", positive_only=True)):
        assert (gradient(objective, equal) == 0).all()


def test_reinforce_pushes_down_what_is_below_the_mean_unless_told_not_to():
    scores = with_scores(1.0, 3.0, 5.0)
    chosen = scores.cases.rows["chosen"]
    assert gradient(reinforce("chosen"), scores)[chosen].flatten().tolist() == pytest.approx([1.0, 0.0, -1.0])
    positive = gradient(reinforce("chosen", positive_only=True), scores)[chosen].flatten()
    assert positive.tolist() == pytest.approx([0.0, -1.0, -2.0])


def test_rewards_weigh_up_to_the_clip():
    weights = -gradient(rwr("chosen", temperature=1.0, clip=5.0), with_scores(0.0, 1.0, 9.0))[:3].flatten()
    assert weights.tolist() == pytest.approx([1.0, 2.718282, 5.0])
