"""Extras that compare the policy with its reference, against full logits of stock forward passes of both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import factories
import pytest
import torch
from architectures import ARCHITECTURES
from peft import LoraConfig, get_peft_model
from policies.test_head import ALL, plain
from torch import Tensor, nn

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.policy import Reference
from omnipref.policies.reference import AdapterOff, copy_adapter, frozen_copy
from omnipref.preferences import pair, ranked

RECORDS = [
    pair("What is one plus one? ", "two", "three cups and a spoon"),
    ranked("Describe the picture. ", ["a red cube", "a red ball", "a tree"]),
]
SMALL, WHOLE = 2 * 420 * 3, 2**26
"""Chunks of about three states, and one chunk for all."""


def scramble(model: nn.Module, marker: str = "") -> None:
    """Move weights away from where they are."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if marker in name:
                parameter.add_(0.05 * torch.randn_like(parameter))


def lora(model: nn.Module, **changes) -> nn.Module:
    settings = {"r": 4, "target_modules": ["q_proj", "up_proj", "lm_head"], **changes}
    made = get_peft_model(model, LoraConfig(**settings))
    scramble(made, "lora_")
    return made.eval()


def with_frozen_copy() -> tuple[nn.Module, Reference]:
    model = factories.llama()[0].double()
    reference = frozen_copy(model)
    scramble(model)
    return model, reference


def with_adapter_off() -> tuple[nn.Module, Reference]:
    return lora(factories.llama()[0].double()), AdapterOff()


def with_adapter_elsewhere() -> tuple[nn.Module, Reference]:
    return lora(factories.llama()[0].double(), target_modules=["q_proj"]), AdapterOff()


def with_adapter_continued() -> tuple[nn.Module, Reference]:
    model = lora(factories.llama()[0].double())
    reference = copy_adapter(model)
    scramble(model, ".default")
    return model, reference


def with_a_copied_head() -> tuple[nn.Module, Reference]:
    model = lora(factories.llama()[0].double(), target_modules=["q_proj"], modules_to_save=["lm_head"])
    scramble(model, "modules_to_save")
    return model, AdapterOff()


PAIRS = [with_frozen_copy, with_adapter_off, with_adapter_elsewhere, with_adapter_continued, with_a_copied_head]
EVERY_REFERENCE = pytest.mark.parametrize("make", PAIRS, ids=lambda make: make.__name__)


def stock(policy: AutoregressivePolicy, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits and tokens of all responses, case after case, from the model's own forward pass."""
    cases = [case for record in RECORDS for case in policy.encode(record).cases]
    logits, target = [], []
    for case in cases:
        ids, start = torch.from_numpy(case.ids), len(case.prompt.ids)
        logits.append(model(input_ids=ids[None]).logits[0, start - 1 : -1])
        target.append(ids[start:])
    return torch.cat(logits), torch.cat(target)


def expected_of(policy: AutoregressivePolicy, model: nn.Module, reference: Reference) -> dict[str, Tensor]:
    with torch.no_grad(), reference(model) as frozen:
        z_ref, _ = stock(policy, frozen)
    z, target = stock(policy, model)
    return plain(z, z_ref, target)


def gradients(found: dict[str, Tensor], model: nn.Module) -> list[Tensor]:
    torch.manual_seed(3)
    total = sum((found[k] * torch.randn_like(found[k])).sum() for k in sorted(found) if found[k].requires_grad)
    return list(torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad]))


def scored(policy, model, reference, chunk_elements: int, extras=ALL) -> dict[str, Tensor]:
    """What the policy finds, at the units that count."""
    policy = replace(policy, chunk_elements=chunk_elements)
    batch = policy.collate([policy.encode(record) for record in RECORDS])
    scores = policy.score(model, batch, extras=extras, reference=reference)
    values = {"logp": scores.logp, "ref_logp": scores.ref_logp, **scores.extras}
    assert all((value[~scores.mask] == 0).all() for value in values.values())
    assert not scores.ref_logp.requires_grad
    return {name: value[scores.mask] for name, value in values.items()}


@EVERY_REFERENCE
@pytest.mark.parametrize("layout", ["forest", "rows"])
@pytest.mark.parametrize("chunk_elements", [SMALL, WHOLE])
def test_values_and_gradients_equal_those_of_full_logits(make: Callable, layout: str, chunk_elements: int):
    model, reference = make()
    policy = build_policy(model, factories.tokenizer(), layout)
    expected = expected_of(policy, model, reference)
    found = scored(policy, model, reference, chunk_elements)
    assert (expected["kl_policy_ref"] > 1e-6).all()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")
    for ours, theirs in zip(gradients(found, model), gradients(expected, model), strict=True):
        # The models' norms run in float32 inside, so sums in another order agree to that.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@EVERY_REFERENCE
def test_reference_log_probabilities_are_those_of_two_passes(make: Callable):
    """With no extra that reads the reference, its states are not kept, and the numbers are the same."""
    model, reference = make()
    policy = build_policy(model, factories.tokenizer())
    alone = scored(policy, model, reference, WHOLE, frozenset())
    beside = scored(policy, model, reference, WHOLE, frozenset({"kl_policy_ref"}))
    batch = policy.collate([policy.encode(record) for record in RECORDS])
    with torch.no_grad(), reference(model) as frozen:
        two = policy.score(frozen, batch)
    for found in (alone["ref_logp"], beside["ref_logp"]):
        torch.testing.assert_close(found, two.logp[two.mask], rtol=0, atol=1e-12)


def test_an_untrained_adapter_has_no_divergence_and_no_gradient():
    model = get_peft_model(factories.llama()[0].double(), LoraConfig(r=4, target_modules=["q_proj", "lm_head"]))
    policy = build_policy(model, factories.tokenizer())
    for name in ("kl_ref_policy", "kl_policy_ref"):
        found = scored(policy, model, AdapterOff(), SMALL, frozenset({name}))
        assert found[name].abs().max() < 1e-14
        grads = torch.autograd.grad(found[name].sum(), [p for p in model.parameters() if p.requires_grad])
        assert max(g.abs().max() for g in grads) < 1e-14


def test_the_adapters_dropout_leaves_the_reference_alone():
    """The reference's head runs while the policy trains, in the backward pass too, and must know no dropout."""
    model = lora(factories.llama()[0].double(), lora_dropout=0.5)
    reference = copy_adapter(model)
    policy = build_policy(model, factories.tokenizer())
    calm = scored(policy, model, reference, SMALL)
    noisy = scored(policy, model.train(), reference, SMALL)
    for name in ("ref_logp", "ref_entropy", "ref_square_sum"):
        assert torch.equal(noisy[name], calm[name])
    assert not torch.allclose(noisy["logp"], calm["logp"])
    before = [p.requires_grad for p in model.parameters()]
    assert all(torch.isfinite(g).all() for g in gradients(noisy, model))
    assert [p.requires_grad for p in model.parameters()] == before


def test_recomputed_chunks_draw_the_dropout_of_the_forward_pass():
    """Finite differences see one draw; a second draw in the backward pass would not fit them."""
    model = lora(factories.llama()[0].double(), lora_dropout=0.5, target_modules=["lm_head"])
    policy = build_policy(model, factories.tokenizer())
    model.train()
    weight = model.base_model.model.lm_head.lora_B["default"].weight

    def total() -> Tensor:
        torch.manual_seed(5)
        return scored(policy, model, AdapterOff(), SMALL, frozenset({"entropy"}))["logp"].sum()

    (slope,) = torch.autograd.grad(total(), weight)
    direction = torch.randn_like(weight)
    ends = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight.add_(step * direction)
            ends.append(total())
            weight.sub_(step * direction)
    assert float((ends[0] - ends[1]) / 2e-6) == pytest.approx(float((slope * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("chunk_elements", [SMALL, WHOLE])
def test_tied_weights_get_the_gradient_of_both_uses(chunk_elements: int):
    model, owner = factories.llama(tie_word_embeddings=True)
    model = model.double()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    policy = build_policy(model, owner)
    reference = frozen_copy(model)
    found = scored(policy, model, reference, chunk_elements, frozenset())
    z, target = stock(policy, model)
    ours = torch.autograd.grad(found["logp"].sum(), model.lm_head.weight)[0]
    theirs = torch.autograd.grad(z.log_softmax(-1).gather(1, target[:, None]).sum(), model.lm_head.weight)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["Gemma2ForCausalLM", "CohereForCausalLM", "GraniteForCausalLM"])
def test_caps_and_scales_reach_the_extras(name: str):
    model, owner = ARCHITECTURES[name].make()
    model, tolerance = model.double().eval(), ARCHITECTURES[name].tolerance
    policy, reference = build_policy(model, owner), frozen_copy(model)
    scramble(model)
    expected = expected_of(policy, model, reference)
    for key, value in scored(policy, model, reference, SMALL).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=max(tolerance, 1e-10))


def test_a_bfloat16_model_is_scored_in_float32_to_its_own_precision():
    model, reference = with_frozen_copy()
    policy = build_policy(model, factories.tokenizer())
    exact = scored(policy, model, reference, WHOLE)
    rough = scored(policy, model.bfloat16(), replace(reference, model=reference.model.bfloat16()), SMALL)
    for name, value in rough.items():
        assert value.dtype == torch.float32
        error = (value.double() - exact[name]).abs().max()
        assert 1e-6 < error < 0.25, (name, error)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_weights_that_the_reference_shares(autocast: bool):
    """The reference's pass without gradient goes first, on the same weights and under the same autocast."""
    model, owner = factories.llama()
    policy = build_policy(model, owner)

    class Itself:
        def __call__(self, model):
            return nullcontext(model)

        def place(self, prepare):
            raise AssertionError("nothing to place")

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = scored(policy, model, Itself(), SMALL, frozenset({"kl_policy_ref"}))
    found["logp"].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_extras_of_the_reference_need_one():
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    with pytest.raises(CapabilityError, match="found the extras ref_entropy without a reference"):
        scored(policy, model, None, WHOLE, frozenset({"ref_entropy"}))
