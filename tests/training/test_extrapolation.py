"""Weights past the newest ones: the numbers of the card `apo-accelerated`."""

from __future__ import annotations

from itertools import pairwise

import factories
import pytest
import torch
from peft import LoraConfig, get_peft_model

from omnipref.errors import ConfigError
from omnipref.training.extrapolation import extrapolated, merged_weights
from omnipref.worlds.bandits.policies import LogLinear


def test_increments_add_up_to_the_inverse_of_what_momentum_leaves():
    at, fitted, total = torch.zeros(1), {"w": torch.zeros(1)}, []
    for _ in range(5):
        now = {"w": at + 1}  # a fit goes one unit from where it starts
        at = extrapolated(now, fitted, 0.3)["w"]
        total.append(at.item())
        fitted = now
    # The card counts the start of each fit: d = 1, 1.3, 1.39, 1.417, 1.4251.
    steps = [b - a for a, b in zip([0.0, *total], total, strict=False)]
    assert steps[0] == pytest.approx(1.3)
    assert all(a < b < 1 / 0.7 for a, b in pairwise(steps))


def test_policies_are_extrapolated_as_the_card_says():
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.6, 0.25, 0.15])
    found = extrapolated({"logits": new.log()}, {"logits": old.log()}, 0.3)["logits"].softmax(0)
    torch.testing.assert_close(found, torch.tensor([0.628688, 0.234809, 0.136502]), rtol=0, atol=1e-6)


def test_weights_of_a_log_linear_policy_extrapolate_its_policy():
    policy = LogLinear(torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64))
    old, new = torch.randn(2, 3, dtype=torch.float64)

    def logp(weight):
        policy.weight.data.copy_(weight)
        return policy().detach()

    at = logp(extrapolated({"w": new}, {"w": old}, 0.3)["w"])
    torch.testing.assert_close(at, (1.3 * logp(new) - 0.3 * logp(old)).log_softmax(1), rtol=0, atol=1e-12)


def test_no_momentum_returns_the_weights_and_their_types():
    weights = {"a": torch.randn(3).bfloat16(), "count": torch.tensor(7)}
    found = extrapolated(weights, {"a": torch.zeros(3).bfloat16(), "count": torch.tensor(2)}, 0.0)
    assert all(torch.equal(found[name], weights[name]) and found[name].dtype == weights[name].dtype for name in weights)


def test_extrapolated_factors_are_not_the_extrapolated_product():
    draw = torch.Generator().manual_seed(0)
    old, new = ({n: torch.randn(3, 3, generator=draw) for n in ("a", "b")} for _ in range(2))
    past = extrapolated(new, old, 0.5)
    whole = extrapolated({"ba": new["b"] @ new["a"]}, {"ba": old["b"] @ old["a"]}, 0.5)["ba"]
    assert (past["b"] @ past["a"] - whole).abs().max() > 0.1


def test_adapters_are_merged_and_the_model_stays():
    model, _ = factories.llama()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    merged = merged_weights(adapted)
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    ids = torch.arange(4)[None]
    plain, _ = factories.llama()
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain.eval()(ids).logits, adapted.eval()(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [1.0, -1.0, float("nan")])
def test_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ConfigError, match="momentum"):
        extrapolated({"w": torch.zeros(1)}, {"w": torch.zeros(1)}, momentum)


def test_weights_of_two_models_are_refused():
    with pytest.raises(ConfigError, match="two different models"):
        extrapolated({"w": torch.zeros(1)}, {"w": torch.zeros(2)}, 0.3)
