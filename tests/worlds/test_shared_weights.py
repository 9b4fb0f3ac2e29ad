"""The world of shared weights: its model, its measures, and what the card 3d-properties saw in it."""

from __future__ import annotations

import pytest
import torch

from omnipref.registry import load_claim
from omnipref.worlds.shared_weights import bags
from omnipref.worlds.shared_weights.dispersion import LIKELY, LIKELY_MASS, Course, draw_model, run

ARMS = {
    "dpo": {"objective": "dpo(beta=0.1)"},
    "flexible": {"objective": "flex_dpo(beta_chosen=0.1, beta_rejected=0.02)"},
    "tabular": {"objective": "dpo(beta=0.1)", "shared": False, "rate": 0.02},
}


def test_the_model_is_trained_to_like_four_responses_of_each_prompt():
    network, order_XA = draw_model(seed=1)
    likely_X = network.reference_XA.exp().gather(1, order_XA[:, :LIKELY])
    assert likely_X.sum(1).tolist() == pytest.approx([LIKELY_MASS] * 4, abs=0.01)
    assert likely_X.min() > 0.2
    torch.testing.assert_close(network().detach(), network.reference_XA)
    assert len({tuple(row) for row in order_XA[:, :LIKELY].sort(1).values.tolist()}) > 1


def test_models_depend_on_their_seed_alone():
    torch.manual_seed(3)
    first = draw_model(seed=1)[0].reference_XA
    torch.manual_seed(4)
    torch.testing.assert_close(draw_model(seed=1)[0].reference_XA, first, atol=0, rtol=0)
    assert not torch.allclose(draw_model(seed=2)[0].reference_XA, first)


def test_a_course_is_measured_by_hand():
    chosen = torch.tensor([[0.2, 0.4], [0.8, 0.6], [0.5, 0.3]]).log()
    rejected = torch.tensor([[0.2, 0.2], [0.1, 0.1], [0.25, 0.0625]]).log()
    found = Course(chosen, rejected).measure()
    expected = {"peak": 0.7, "chosen": 0.4, "fall": 0.3, "unseen": 1 - 0.4 - 0.15625}
    expected["log_rejected"] = (torch.tensor(0.25).log() + torch.tensor(0.0625).log()).item() / 2
    assert found == pytest.approx(expected)


def test_dpo_disperses_and_less_push_or_unshared_weights_do_not():
    numbers = {arm: run(arm, 0, arms=ARMS, steps=300) for arm in ARMS}
    assert numbers["dpo"]["unseen"] > 0.1
    assert numbers["dpo"]["fall"] > 0.05
    assert numbers["flexible"]["unseen"] < 0.05
    assert numbers["flexible"]["log_rejected"] < -8
    assert numbers["tabular"]["fall"] < 0.01
    assert numbers["tabular"]["chosen"] > numbers["dpo"]["chosen"]


def test_bags_hold_words_of_both_kinds_and_the_better_is_first():
    draw = torch.Generator().manual_seed(0)
    value_V = torch.randn(bags.WORDS, generator=draw)
    pairs = bags.draw_pairs(500, value_V, 0.0, draw)
    assert pairs.chosen_PW.shape == pairs.rejected_PW.shape == (500, bags.LENGTH)
    assert (value_V[pairs.chosen_PW].sum(1) > value_V[pairs.rejected_PW].sum(1)).all()
    for text_PW in (pairs.chosen_PW, pairs.rejected_PW):
        for low in (0, bags.KEYS):
            assert ((text_PW >= low) & (text_PW < low + bags.KEYS)).sum(1).min() == 2
    noisy = bags.draw_pairs(500, value_V, 5.0, draw)
    assert 0.55 < (value_V[noisy.chosen_PW].sum(1) > value_V[noisy.rejected_PW].sum(1)).float().mean() < 0.95


@pytest.mark.parametrize("low", [0, bags.KEYS])
def test_levels_remove_shares_of_the_words_that_may_go(low: int):
    draw = torch.Generator().manual_seed(1)
    text_PW = bags.draw_pairs(300, torch.randn(bags.WORDS, generator=draw), 0.0, draw).chosen_PW
    key_PW = (text_PW >= low) & (text_PW < low + bags.KEYS)
    for level, share in enumerate((0.0, 0.4, 0.8)):
        left_PW = bags.degraded(text_PW, low, torch.full((300,), level), draw)
        assert left_PW[~key_PW].all()
        expected = (share * key_PW.sum(1) + 0.5).floor().long()
        assert torch.equal((~left_PW).sum(1), expected)


def test_a_new_policy_is_even_and_its_head_knows_nothing():
    model = bags.Embedded(torch.randn(bags.WORDS, bags.WIDTH, generator=torch.Generator().manual_seed(0)))
    text_PW = torch.arange(20).reshape(2, 10)
    left_PW = torch.arange(10).expand(2, -1) < 4
    assert model().exp().tolist() == pytest.approx([1 / bags.WORDS] * bags.WORDS)
    assert model.levels(text_PW, left_PW).abs().max() == 0
    torch.nn.init.ones_(model.head.weight)
    expected = model.embedding_VD[text_PW[:, :4]].mean(1).sum(1, keepdim=True).expand(-1, bags.LEVELS)
    torch.testing.assert_close(model.levels(text_PW, left_PW), expected)
    scores = bags._scored(model, bags.Bags(text_PW, text_PW), torch.tensor([0, 2]), left_PW)
    model.head.bias.data = torch.tensor([0.0, 1.0, 2.0])
    again = bags._scored(model, bags.Bags(text_PW, text_PW), torch.tensor([0, 2]), left_PW)
    gain = (again.logp - scores.logp)[:, 0]
    torch.testing.assert_close(again.at("degree", gain), torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(again.at("wrong_degree_1", gain), torch.tensor([1.0, 0.0]))
    assert scores.at("chosen", scores.logp[:, 0]).abs().max() < 1e-5


def test_levels_can_be_told():
    arms = load_claim("spo-self-supervised").options["arms"]
    found = {arm: bags.run(arm, 0, arms=arms) for arm in ("degrees_2", "dpo")}
    assert found["degrees_2"]["told"] > 0.45 > found["dpo"]["told"]
    assert found["dpo"]["accuracy"] > 0.52 and found["dpo"]["kl"] > 0
    assert found["dpo"] == bags.run("dpo", 0, arms=arms)
