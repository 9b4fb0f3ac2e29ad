"""Gradients: finite differences in float64, their sign, and where they must stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from objectives.examples import complete, likes, lists, pairs, scored, with_mismatched, with_negative_image
from torch import Tensor

from omnipref.objectives import (
    Objective,
    alphapo,
    anchor,
    bco,
    chi_po,
    constructors,
    cpo,
    dpo,
    f_dpo,
    gpo,
    ipo,
    kto,
    log_ratio,
    modpo,
    plackett_luce,
    reward_distillation,
    sft,
    simpo,
)
from omnipref.preferences import Preference
from omnipref.scores import Scores

ALL = [make() for make in constructors().values()]
VARIANTS = [
    dpo(label_smoothing=0.2),
    dpo(reduce="mean", beta=5.0),
    ipo(reduce="total"),
    anchor("rejected", shift=0.3),
    sft("rejected"),
    gpo(link="square"),
    *[make(label_smoothing=0.2) for make in (alphapo, cpo, simpo)],
    ipo(reference=False),
    gpo(link="exponential"),
    gpo(link="truncated_square"),
    gpo(link="savage"),
    f_dpo(divergence="forward_kl"),
    f_dpo(divergence="js"),
    f_dpo(divergence="alpha", alpha=2.0),
    chi_po(clip=50.0),
    modpo(link="exponential"),
    reward_distillation(columns=("score", "probability")),
    dpo() + dpo(rejected="mismatched"),
]


def loss_of(objective: Objective, scores: Scores) -> Callable[[Tensor], Tensor]:
    return lambda logp: objective(replace(scores, logp=logp)).loss_P


def gradient(objective: Objective, scores: Scores) -> Tensor:
    logp = scores.logp.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(objective, scores)(logp).sum(), logp)
    return slope


STOPPED = {
    "kto": "the baseline",
    "kto_pair": "the baselines",
    "bco": "the shift",
    "beta_dpo": "β and which pairs are kept",
    "alpha_dpo": "the margin",
    "dr_dpo": "weights, whose gradient is spread over the batch",
    "aot_unpaired": "the other list, whose gradient is in other preferences",
    "wpo": "the weight",
    "dft": "the weights",
    "grpo": "the policy that drew the samples",
    "nash_md": "the log-ratios",
    "sampled_kl": "the log-ratios",
}
"""Objectives that hold something constant that depends on the policy, and what; each has a test of its own."""


def stops(objective: Objective) -> bool:
    return any(term.name in STOPPED for term in objective.terms)


@pytest.mark.parametrize("objective", [o for o in [*ALL, *VARIANTS] if not stops(o)], ids=str)
def test_finite_differences_on_pairs(objective: Objective):
    scores = scored(complete(pairs(3)))
    assert torch.autograd.gradcheck(loss_of(objective, scores), scores.logp.clone().requires_grad_())


def test_finite_differences_on_lists():
    scores = scored(lists(4, 2, 3))
    assert torch.autograd.gradcheck(loss_of(plackett_luce(), scores), scores.logp.clone().requires_grad_())


def test_kto_differentiates_all_but_the_baseline():
    scores = scored(with_mismatched(pairs(3)), seed=1)
    scores.logp[scores.cases.rows["mismatched"]] += 1.0 * scores.mask[scores.cases.rows["mismatched"]]
    assert kto()(scores).metrics["kto/kl"] > 0.5  # not at the kink of max(0, .), where the test would see nothing
    rest = torch.cat([scores.cases.rows["chosen"], scores.cases.rows["rejected"]])

    def loss(logp: Tensor) -> Tensor:
        return kto()(replace(scores, logp=scores.logp.index_copy(0, rest, logp))).loss_P

    assert torch.autograd.gradcheck(loss, scores.logp[rest].clone().requires_grad_())
    slope = gradient(kto(), scores)
    assert (slope[scores.cases.rows["mismatched"]] == 0).all()
    assert (slope[rest][scores.mask[rest]] != 0).all()


def test_kto_over_the_batch_has_the_gradient_of_a_constant_baseline():
    scores = scored(pairs(3), seed=2)
    rho_N, label_N = log_ratio(scores), scores.cases.label_N
    scores.logp[label_N > 0] += 2.0 * scores.mask[label_N > 0]
    rho_N = log_ratio(scores)
    z = rho_N.mean()
    assert z > 0
    inside = torch.sigmoid(label_N * 0.1 * (rho_N - z))
    expected = -label_N * 0.1 * inside * (1 - inside) / 2  # half: two cases per preference
    torch.testing.assert_close(gradient(kto(baseline="batch"), scores), expected[:, None] * scores.mask)


def test_bco_has_the_gradient_of_a_constant_shift():
    scores = scored(pairs(3), seed=3)
    delta = float(0.1 * log_ratio(scores).mean())
    assert abs(delta) > 1e-3
    reward_N, label_N = 0.1 * log_ratio(scores), scores.cases.label_N
    expected = -0.1 * label_N * torch.sigmoid(-label_N * (reward_N - delta))
    torch.testing.assert_close(gradient(bco(), scores), expected[:, None] * scores.mask)
    assert not bco()(scores).state["bco/shift"].requires_grad


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_gradients_of_cases_are_independent(name: str):
    """A case's gradient depends on the others through the shift alone, so equal shifts give equal gradients."""
    objective = {"kto": kto(), "bco": bco(shift=False)}[name]
    scores = scored(with_mismatched(pairs(2)), seed=4)
    moved = replace(scores, logp=scores.logp.clone())
    moved.logp[scores.cases.rows["rejected"]] -= 1.0
    chosen = scores.cases.rows["chosen"]
    torch.testing.assert_close(gradient(objective, scores)[chosen], gradient(objective, moved)[chosen])


NOT_MONOTONE = {
    "apo_down": "the chosen case falls too",
    "discopop": "dips and rises again near a margin of 0",
    "npo": "one case, to forget",
    "simnpo": "one case, to forget",
    "sampo": "units that were not drawn take no part",
    "slic": "silent on pairs that are far enough apart",
    "rrhf": "silent on pairs in the right order",
    "beta_dpo": "silent on pairs that are left out",
    "grpo": "samples, whose order is their scores",
    "nash_md": "one case, whichever way it was judged",
    "optimism": "one case, to forget",
    "sampled_kl": "samples, whose order is their log-ratios",
    "sparse_po": "units of mask 0 take no part",
    "rwr": "one case, whichever it is",
    "reinforce": "one case, up or down as its score says",
    "rationale": "one case, a reason",
    "wider_margin": "asks for more under another context than here",
}


@pytest.mark.parametrize(
    "objective",
    [o for o in [*ALL, *VARIANTS[:3], *VARIANTS[5:]] if o.terms[0].name not in NOT_MONOTONE],
    ids=str,
)
def test_likelier_chosen_and_unlikelier_rejected_lower_the_loss(objective: Objective):
    scores = scored(complete(pairs(6)), seed=5)
    slope = gradient(objective, scores)
    chosen, rejected = (scores.cases.rows[role] for role in ("chosen", "rejected"))
    assert (slope[chosen][scores.mask[chosen]] < 0).all()
    one_sided = {term.name for term in objective.terms} <= {"sft", "dft", "f_sft", "anchor"}
    if not one_sided:
        assert (slope[rejected][scores.mask[rejected]] > 0).all()


@pytest.mark.parametrize("objective", [kto(baseline="batch"), bco()], ids=str)
def test_likes_and_dislikes_pull_in_their_directions(objective: Objective):
    scores = scored(likes(True, False, True), seed=6)
    slope = gradient(objective, scores).sum(1)
    assert (torch.sign(slope) == -scores.cases.label_N).all()


def with_reference_of(preferences: list[Preference]) -> Scores:
    scores = scored(preferences)
    return scores.with_reference(scores.logp)


def test_conditional_preference_pulls_the_two_pictures_apart():
    scores = with_reference_of(with_negative_image(pairs(2)))
    objective = dpo(rejected="chosen@negative_image")
    slope = gradient(objective, scores)
    assert (slope[scores.cases.rows["rejected"]] == 0).all()
    torch.testing.assert_close(slope[scores.cases.rows["chosen"]].sum(1), -0.05 * scores.mask[0::3].sum(1).double())
    negative = scores.cases.rows["chosen@negative_image"]
    torch.testing.assert_close(slope[negative].sum(1), 0.05 * scores.mask[negative].sum(1).double())


@pytest.mark.parametrize("objective", [o for o in ALL if o.needs.reference], ids=str)
def test_the_reference_gets_no_gradient(objective: Objective):
    scores = scored(complete(pairs(2)))
    assert scores.ref_logp is not None
    ref = scores.ref_logp.clone().requires_grad_()
    logp = scores.logp.clone().requires_grad_()
    outcome = objective(replace(scores, logp=logp, ref_logp=ref))
    outcome.loss_P.sum().backward()
    assert ref.grad is None
    assert outcome.reward_N is None or not outcome.reward_N.requires_grad
    assert not any(value.requires_grad for value in outcome.metrics.values())
