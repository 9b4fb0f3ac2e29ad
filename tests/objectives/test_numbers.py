"""Worked numbers of the cards, to six digits; each comment says which card and line they come from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives.examples import (
    at_reference,
    card_scores,
    complete,
    likes,
    pairs,
    ratio_scores,
    scored,
    with_mismatched,
    with_negative_image,
)

from omnipref.objectives import (
    Objective,
    alphapo,
    anchor,
    apo_down,
    apo_zero,
    bco,
    cal_dpo,
    chi_po,
    constructors,
    cpo,
    debias,
    decayed_dpo,
    dft,
    difference,
    discopop,
    dpo,
    dpop,
    exo_pair,
    f_dpo,
    f_sft,
    gdpo_geometric,
    gpo,
    hinge,
    ipo,
    kto,
    ld_dpo,
    length_dpo,
    log_ratio,
    logistic,
    modpo,
    nca_pair,
    npo,
    ns_dpo,
    odpo,
    orpo,
    plackett_luce,
    reward_distillation,
    robust_dpo,
    rwr,
    sampo,
    sft,
    simnpo,
    simper,
    simpo,
    slic,
    soft_spo,
    sppo,
)
from omnipref.scores import Scores, pair_scores

DIGITS = {"rel": 0, "abs": 5.1e-7}

# Card survey-dpo, property 5 (rho_w = 1, rho_l = -1, lengths 6 and 8); where the card has no number, by hand.
SURVEY = [
    (dpo(beta=0.1), 0.598139),
    (dpo(beta=0.1, label_smoothing=0.1), 0.618139),
    (dpo(beta=0.1, reduce="mean"), 0.678670),
    (hinge(beta=0.1), 0.8),
    (ipo(beta=0.1, reduce="total"), 9.0),
    (ipo(beta=0.1, reference=False), 5.125**2),
    (dft(), 2 * math.exp(-2)),  # every unit has log-likelihood -2
    (cpo(beta=0.1, alpha=0.0, label_smoothing=0.1), 0.584355),  # 0.9 of 0.554355 and 0.1 of 0.854355
    (simpo(beta=2.0, gamma=1.0, label_smoothing=0.1), 1.376929),  # 0.9 of 1.501929 and 0.1 of 0.251929
    (alphapo(beta=2.0, gamma=1.0, alpha=0.0, label_smoothing=0.1), 1.376929),  # SimPO
    (ipo(beta=0.1), 22.168403),
    (bco(beta=0.1, shift=False), 1.288793),
    (orpo(beta=0.1), 2.076884),
    (simpo(beta=2.0, gamma=1.0), 1.501929),
    (plackett_luce(beta=0.1), 0.598139),
    (anchor("chosen", beta=0.1), 0.644397),  # log(1 + e^-0.1)
    (anchor("chosen", beta=0.1, shift=0.05), 0.668460),  # log(1 + e^-0.05)
    (anchor("rejected", beta=0.1), 0.744397),  # log(1 + e^0.1)
    (sft(), 2.0),
    (sft("rejected"), 1.875),
    (sft(reduce="total"), 12.0),
    (f_sft(divergence="total_variation", beta=0.5, reduce="total"), -1.0),  # -phi(1/2) / 0.5
    (f_sft(beta=0.5, reduce="total"), -0.875),
    (f_sft(divergence="squared_hellinger", beta=0.5, reduce="total"), -0.666667),
    (f_sft(divergence="reverse_kl", beta=0.5, reduce="total"), 1.213061),  # the card's 0.223130 e / 0.5
    (f_sft(divergence="jensen_shannon", beta=0.5, reduce="total"), -0.663593),
    (rwr("rejected", temperature=10.0), 16.577564),  # 15 e^0.1
    (rwr("chosen", temperature=0.1), 120.0),  # 12 times the largest weight
    (gpo(link="logistic", beta=0.1), 0.598139),
    (gpo(link="hinge", beta=0.1), 0.8),
    (gpo(link="square", beta=0.1), 0.64),
    (gpo(link="exponential", beta=0.1), 0.818731),
    (gpo(link="truncated_square", beta=0.1), 0.64),
    (gpo(link="savage", beta=0.1), 0.202649),  # 1 / (1 + e^0.2)^2
    (robust_dpo(beta=0.1, flip_rate=0.1), 0.573139),
    (robust_dpo(beta=0.1, flip_rate=0.3), 0.448139),  # card robust-dpo, property 6
    (exo_pair(beta=0.1, label_smoothing=1e-3), 2.422015),
    (discopop(beta=0.1, temperature=0.05), 0.814763),
    (f_dpo(beta=0.1), 0.598139),
    (f_dpo(divergence="forward_kl", beta=0.1), 0.582517),
    (f_dpo(divergence="js", beta=0.1), 0.644397),
    (f_dpo(divergence="alpha", alpha=0.5, beta=0.1), 0.594349),
    (chi_po(beta=0.1), 0.499100),
    (chi_po(beta=0.1, clip=0.2), 0.598139),  # held at 0.2, DPO's margin
    (length_dpo(beta=0.1, alpha=0.05), 0.644397),
    (ld_dpo(beta=0.1, alpha=0.5), 0.603785),  # log(1 + e^-0.1875): rho_l = -(6 + 2/2)/8
    (sampo(beta=0.1), 0.609470),  # log(1 + e^-0.175): any 6 of the 8 equal units, rho_l = -6/8
    (decayed_dpo(beta=0.1, gamma=0.5), 0.664706),  # rho = (1 - 2^-6)/3 and -(1 - 2^-8)/4, log(1 + e^-0.05771)
    (nca_pair(beta=0.1), 1.338793),
    (apo_zero(beta=0.1), 0.950042),
    (apo_down(beta=0.1), 0.975145),
    (dpop(beta=0.1), 0.598139),
    (cal_dpo(beta=0.5, calibration=0.5), 0.126928),
    (cal_dpo(beta=0.5, calibration=1.0), 0.126928),
    (sppo(beta=0.1), 32.0),
    (cpo(beta=0.1, alpha=0.0), 0.554355),
    (cpo(beta=0.1, alpha=1.0), 2.554355),  # card insights-alignment, property 5
    (slic(delta=4.0, regularization=0.1), 2.2),  # 4 - 3 + 12/10
    (slic(delta=1.0, regularization=0.1, target="rejected"), 1.5),  # 0 + 15/10
    (alphapo(beta=2.0, gamma=1.0, alpha=0.25), 1.625078),  # t = 4(1 - e^0.5) and 4(1 - e^0.46875)
    (simper(), 0.01801968),  # e^-1.875 - e^-2
    (soft_spo(alpha=0.1), 5.543552),  # 10 log(1 + e^-0.3)
    (npo(beta=0.1), 12.887933),  # 20 log(1 + e^-0.1)
    (npo("chosen", beta=0.1), 14.887933),  # 20 log(1 + e^0.1)
    (simnpo(beta=2.5, gamma=0.5), 0.01205606),  # 0.8 log(1 + e^-4.1875)
    (odpo(beta=0.1), 1.114101),  # log(1 + 2.5 e^-0.2)
    (gdpo_geometric(beta=0.1), 0.644397),  # log(1 + e^(-0.2 * 0.5))
    (ns_dpo(beta=0.1), 0.539820),  # 0.95^2 * 0.598139
    (modpo(beta=0.1), 2.215520),  # log(1 + e^2.1): (0.2 - 0.5 * 2.5) / 0.5
    (modpo(beta=0.1, link="hinge"), 3.1),
    (reward_distillation(beta=0.1), 5.29),  # (0.2 - 2.5)^2
    (reward_distillation(beta=0.1, columns=("score", "probability")), 0.3025),  # (0.2 - 0.75)^2
]


@pytest.mark.parametrize(("objective", "expected"), SURVEY, ids=lambda value: str(value))
def test_survey_fixture(objective: Objective, expected: float):
    assert objective(card_scores()).loss_P.item() == pytest.approx(expected, **DIGITS)
    assert objective(card_scores(torch.float32)).loss_P.item() == pytest.approx(expected, rel=4e-6)


def test_debiased_dpo_of_the_survey_fixture():
    scores = card_scores()
    margin = 0.1 * difference(scores, log_ratio(scores), "chosen", "rejected")
    assert debias(logistic, margin, 0.1).item() == pytest.approx(0.573139, **DIGITS)


@pytest.mark.parametrize(("label", "rho", "expected"), [(True, 1.0, 0.487503), (False, -1.0, 0.462570)])
def test_kto_of_the_survey_fixture(label: bool, rho: float, expected: float):
    scores = scored(with_mismatched(likes(label)), units=1)
    logp = torch.tensor([[-10 + rho], [-9.5]], dtype=torch.float64)  # z = 0.5
    made = Scores(logp, torch.ones(2, 1, dtype=torch.bool), scores.cases, torch.full_like(logp, -10))
    outcome = kto(beta=0.1)(made)
    assert outcome.loss_P.item() == pytest.approx(expected, **DIGITS)
    assert outcome.metrics["kto/kl"].item() == pytest.approx(0.5)


def test_kto_weighs_each_class():
    loss_P = kto(desirable_weight=2.0, undesirable_weight=0.5, baseline="batch")(ratio_scores([1.0], [-0.5])).loss_P
    z = 0.25
    gain, loss = (1 / (1 + math.exp(0.1 * value)) for value in (1 - z, z + 0.5))
    assert loss_P.item() == pytest.approx((2 * gain + 0.5 * loss) / 2)
    swapped = kto(desirable_weight=0.5, undesirable_weight=2.0, baseline="batch")(ratio_scores([1.0], [-0.6])).loss_P
    gain, loss = (1 / (1 + math.exp(0.1 * value)) for value in (1 - 0.2, 0.2 + 0.6))
    assert swapped.item() == pytest.approx((0.5 * gain + 2 * loss) / 2)


def test_kto_baseline_is_never_negative():
    outcome = kto(desirable_weight=2.0, baseline="batch")(ratio_scores([-1.0], [-3.0]))
    assert outcome.metrics["kto/kl"].item() == 0.0
    gain, loss = (1 / (1 + math.exp(0.1 * value)) for value in (-1.0, 3.0))
    assert outcome.loss_P.item() == pytest.approx((2 * gain + loss) / 2)


def test_diffusion_kto_example():
    # Card diffusion-dpo, properties: g = (6e-4, 2e-4, 1e-4, -5e-4), y = (+, -, +, -), beta 1000.
    outcome = kto(beta=1000.0, baseline="batch")(ratio_scores([6e-4, 1e-4], [2e-4, -5e-4]))
    assert outcome.metrics["kto/kl"].item() == pytest.approx(1e-4)
    assert outcome.loss_P.mean().item() == pytest.approx(0.439216, **DIGITS)


def test_diffusion_dpo_example_and_its_derivative():
    # Card diffusion-dpo, example 1; its factor 1/2 goes into the log-likelihood, minus half the error.
    errors = [torch.tensor([value], dtype=torch.float64) for value in (0.1000, 0.1200, 0.1004, 0.1197)]
    errors[0].requires_grad_()
    loss = dpo(beta=2000.0)(pair_scores(*[-error / 2 for error in errors])).loss_P
    loss.backward()
    assert loss.item() == pytest.approx(0.403186, **DIGITS)
    assert errors[0].grad is not None
    assert errors[0].grad.item() == pytest.approx(331.812228, abs=5e-7)


@pytest.mark.parametrize(("shift", "quality", "expected"), [(False, 1.242536, 1.491991), (True, 1.241914, 1.491867)])
def test_mixed_preference_optimisation(shift: bool, quality: float, expected: float):
    # Card internvl3-mpo, worked example: rho = 2 and -1, generation loss 0.8; the first batch's shift is 0.05.
    logp, ref = [torch.tensor(v, dtype=torch.float64) for v in ([[-0.8], [-5.0]], [[-2.8], [-4.0]])]
    scores = pair_scores(logp[0], logp[1], ref[0], ref[1])
    mpo = 0.8 * dpo(beta=0.1) + 0.2 * bco(beta=0.1, shift=shift) + sft()
    outcome = mpo(scores)
    assert outcome.metrics["dpo/loss"].item() == pytest.approx(0.554355, **DIGITS)
    assert outcome.metrics["bco/loss"].item() == pytest.approx(quality, **DIGITS)
    assert outcome.metrics["sft/loss"].item() == pytest.approx(0.8)
    assert outcome.loss_P.item() == pytest.approx(expected, **DIGITS)
    assert outcome.reward_N is not None  # weights 0.8 and 0.2 on the same reward
    assert outcome.reward_N.tolist() == pytest.approx([0.2, -0.1])


def test_mixed_preference_optimisation_at_the_start():
    # Card internvl3-mpo: 0.8 log 2 + 0.2 * 2 log 2, beside the generation loss.
    mpo = 0.8 * dpo() + 0.2 * bco()
    assert mpo(ratio_scores([0.0], [0.0])).loss_P.item() == pytest.approx(0.831777, **DIGITS)


def test_running_shift_is_the_mean_of_all_batch_means():
    # Card internvl3-mpo: batches (0.2, -0.1) then (0.3, -0.3) give 0.05 then 0.025.
    objective = bco(beta=0.1)
    first = objective(ratio_scores([2.0], [-1.0]))
    second = objective(ratio_scores([3.0], [-3.0]), first.state)
    assert first.state["bco/shift"].item() == pytest.approx(0.05)
    assert second.state["bco/shift"].item() == pytest.approx(0.025)
    shifted = math.log1p(math.exp(-(0.3 - 0.025))) + math.log1p(math.exp(-0.3 - 0.025))
    assert second.loss_P.item() == pytest.approx(shifted)


def test_exponential_shift():
    objective = bco(beta=0.1, momentum=0.9)
    first = objective(ratio_scores([2.0], [-1.0]))
    second = objective(ratio_scores([3.0], [-3.0]), first.state)
    assert first.state["bco/shift"].item() == pytest.approx(0.05)
    assert second.state["bco/shift"].item() == pytest.approx(0.045)


@pytest.mark.parametrize(("negative", "expected"), [(0.4, 1.217952), (1.0, 1.247502)])
def test_text_and_visual_preference(negative: float, expected: float):
    # Card re-align, example: rho = 1 with the picture, -2 for the rejected answer, 0.4 with the retrieved picture.
    scores = scored(with_negative_image(pairs(1)), units=1)
    ref = torch.full((3, 1), -5.0, dtype=torch.float64)
    logp = ref + torch.tensor([[1.0], [-2.0], [negative]], dtype=torch.float64)
    made = Scores(logp, torch.ones(3, 1, dtype=torch.bool), scores.cases, ref)
    objective = dpo(beta=0.1) + dpo(beta=0.1, rejected="chosen@negative_image")
    assert objective(made).loss_P.item() == pytest.approx(expected, **DIGITS)
    assert objective(made.with_reference(logp)).loss_P.item() == pytest.approx(1.386294, **DIGITS)


LOG2 = math.log(2)
START = {
    "dpo": LOG2,
    "plackett_luce": LOG2,
    "anchor": LOG2,
    "gpo": LOG2,
    "hinge": 1.0,
    "ipo": 25.0,
    "kto": 0.5,
    "bco": 2 * LOG2,
    "robust_dpo": LOG2,
    "exo_pair": -LOG2 - math.log(1e-3 * (1 - 1e-3)) / 2,
    "discopop": (LOG2 + 1) / 2,
    "f_dpo": LOG2,
    "chi_po": LOG2,
    "ld_dpo": LOG2,
    "sampo": LOG2,
    "decayed_dpo": LOG2,
    "nca_pair": 2 * LOG2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "dpop": LOG2,
    "cal_dpo": LOG2 + 0.5 * 500_000,
    "sppo": 500_000.0,
    "npo": 20 * LOG2,
    "gdpo_geometric": LOG2,
    "odpo": [math.log(3.5), math.log(4.5), math.log(5.5), math.log(3.5)],  # records' scores differ by 2.5, 3.5, 4.5
    "ns_dpo": [LOG2, 0.95 * LOG2, 0.95**2 * LOG2, LOG2],
    "modpo": [math.log1p(math.exp(gap)) for gap in (2.5, 3.5, 4.5, 2.5)],
    "reward_distillation": [2.5**2, 3.5**2, 4.5**2, 2.5**2],
    "kto_pair": 0.5,
    "aot": LOG2,
    "aot_unpaired": LOG2,
    "dr_dpo": LOG2,
    "rao_kupper_dpo": math.log(4),
    "davidson_dpo": math.log(4),
    "info_nca": LOG2,
    "nca": 2 * LOG2,
    "lipo": [(2**s - 2**0.5) * (1 / LOG2 - 1 / math.log(3)) * LOG2 for s in (3.0, 4.0, 5.0, 3.0)],  # records' scores
    "tdpo1": LOG2,
    "sparse_po": LOG2,
    "tdpo2": LOG2,
    "mallows_dpo": LOG2,
    "mallows_ipo": 25.0,
    "epsilon_dpo": LOG2,
    "sampled_kl": 0.0,
    "f_sft": 0.0,
    "flex_dpo": LOG2,
    "wider_margin": LOG2,
}
NO_ONE_START = {
    "length_dpo": "depends on the lengths",
    "alpha_dpo": "is SimPO's",
    "beta_dpo": "is log 2 in the mean",
    "wpo": "is log 2 times a weight",
    "nash_md": "is a multiple of the log-likelihood",
    "grpo": "is the mean advantage, 0 up to rounding",
    "xpo": "adds a log-likelihood",
}


@pytest.mark.parametrize("name", sorted(START))
def test_value_where_policy_is_reference(name: str):
    loss_P = constructors()[name]()(at_reference(scored(complete(pairs(4))))).loss_P
    start = START[name]
    assert loss_P.tolist() == pytest.approx(start if isinstance(start, list) else [start] * 4)


def test_every_constructor_with_a_reference_has_a_start_value():
    with_reference = {name for name, make in constructors().items() if make().needs.reference}
    assert set(START) == with_reference - set(NO_ONE_START)


# Survey fixture again: rho = 1 and -1, mean log-ratio 1/6 and -1/8, mean log-likelihood -2 and -1.875.
REWARDS = {
    "dpo": (0.1, -0.1),
    "gpo": (0.1, -0.1),
    "plackett_luce": (0.1, -0.1),
    "kto": (0.1, -0.1),
    "bco": (0.1, -0.1),
    "hinge": (0.05, -0.05),
    "ipo": (0.1 / 6, -0.1 / 8),
    "simpo": (-4.0, -3.75),
    "orpo": (-0.2, -0.1875),
    "sft": None,
    "dft": None,
    "anchor": None,
    "robust_dpo": (0.1, -0.1),
    "exo_pair": (0.1, -0.1),
    "discopop": (0.05, -0.05),
    "f_dpo": (0.1, -0.1),
    "chi_po": (0.1 * math.e, 0.1 * (math.exp(-1) - 2)),
    "length_dpo": (0.1 + 0.3, -0.1 + 0.4),
    "ld_dpo": (0.1, -0.0875),
    "sampo": (0.1, -0.075),
    "decayed_dpo": (0.1 / 6 * (1 - 0.98**6) / 0.02, -0.1 / 8 * (1 - 0.98**8) / 0.02),
    "nca_pair": (0.01, -0.01),
    "apo_zero": (0.1, -0.1),
    "apo_down": (0.1, -0.1),
    "dpop": (0.3, -0.3),
    "cal_dpo": (0.001, -0.001),
    "sppo": (0.001, -0.001),
    "cpo": (-1.2, -1.5),
    "slic": (-12.0, -15.0),
    "alphapo": (8 * (1 - math.exp(0.5)), 8 * (1 - math.exp(0.46875))),
    "simper": (math.exp(-2), math.exp(-1.875)),
    "soft_spo": (-1.2, -1.5),
    "npo": None,
    "simnpo": None,
    "odpo": (0.1, -0.1),
    "gdpo_geometric": (0.1, -0.1),
    "ns_dpo": (0.1, -0.1),
    "modpo": (0.1, -0.1),
    "reward_distillation": (0.1, -0.1),
    "kto_pair": (0.1, -0.1),
    "aot": (0.01, -0.01),
    "aot_unpaired": (0.01, -0.01),
    "beta_dpo": (0.1, -0.1),
    "alpha_dpo": (-5.0, -4.6875),
    "dr_dpo": (0.1, -0.1),
    "rao_kupper_dpo": (0.1, -0.1),
    "davidson_dpo": (0.1, -0.1),
    "rrhf": (-2.0, -1.875),
    "lipo": (0.1, -0.1),
    "info_nca": (0.01, -0.01),
    "nca": (0.01, -0.01),
    "tdpo1": (0.1 * (1 + 0.4), 0.1 * (-1 + 0.9)),
    "sparse_po": (0.1 * (1 + 0.4), 0.1 * (-1 + 0.9)),  # an even mask
    "pro": (-2.0, -1.875),
    "tdpo2": (0.1 * (1 + 0.2), 0.1 * (-1 + 0.45)),
    "wpo": (0.01, -0.01),
    "mallows_dpo": (0.1, -0.1),
    "mallows_ipo": (0.1, -0.1),
    "epsilon_dpo": (0.01, -0.01),
    "xpo": (0.1, -0.1),
    "nash_md": None,
    "optimism": None,
    "sampled_kl": None,
    "f_sft": (1 / 6, -1 / 8),
    "rwr": None,
    "reinforce": None,
    "grpo": None,
    "flex_dpo": (0.1, -0.1),
    "ranklist": (-12.0, -15.0),
    "rationale": None,
    "choice": None,
    "wider_margin": None,
}


@pytest.mark.parametrize("name", sorted(constructors()))
def test_rewards_of_the_survey_fixture(name: str):
    settings = {"baseline": "batch"} if name == "kto" else {}
    cases = card_scores().cases
    others = {"completion": 0, "reference_sample": 1, "sample_0": 0, "sample_1": 1}
    others |= {"rationale": 0, "chosen@instructed": 1, "rejected@instructed": 0}
    rows = {**cases.rows, **{role: torch.tensor([row]) for role, row in others.items()}}
    columns = {**cases.columns, "score": torch.tensor([0.75, 0.25])}
    made = replace(card_scores(), cases=replace(cases, rows=rows, columns=columns))
    reward_N = constructors()[name](**settings)(made).reward_N
    assert (None if reward_N is None else tuple(reward_N.tolist())) == pytest.approx(REWARDS[name])
