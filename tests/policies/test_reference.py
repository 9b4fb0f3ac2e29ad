"""References: which weights act, and that the policy is left as it was."""

from __future__ import annotations

import factories
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from omnipref.errors import NeedsError
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.reference import AdapterOff, copy_adapter, frozen_copy
from omnipref.preferences import pair


@torch.no_grad()
def logps(policy, model):
    return policy.score(model, policy.collate([policy.encode(pair("What is one? ", "two", "three"))])).logp


def lora(model):
    made = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return made


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_frozen_copy_stays_when_the_policy_moves():
    model, owner = factories.llama()
    policy, before = build_policy(model, owner), None
    reference = frozen_copy(model)
    before = logps(policy, model)
    with torch.no_grad():
        model.lm_head.weight.add_(0.5 * torch.randn_like(model.lm_head.weight))
    with reference(model) as scored:
        assert torch.equal(logps(policy, scored), before)
    assert not torch.allclose(logps(policy, model), before)
    assert not trainable(reference.model)


def test_adapter_off_is_the_base_model_and_leaves_training_mode_and_gradients():
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    base = logps(policy, model)
    adapted = lora(model).train()
    wanted = trainable(adapted)
    modes = [module.training for module in adapted.modules()]
    with AdapterOff()(adapted) as scored:
        torch.testing.assert_close(logps(policy, scored), base, rtol=0, atol=1e-6)
    assert [module.training for module in adapted.modules()] == modes
    assert trainable(adapted) == wanted
    assert not torch.allclose(logps(policy, adapted.eval()), base)


def test_an_adapter_that_is_trained_on_is_its_own_reference_not_the_base(tmp_path):
    """LoRA-DPO on top of an SFT adapter: the reference is the SFT model, which peers take for the raw base."""
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    base = logps(policy, model)
    lora(model).save_pretrained(tmp_path)
    fresh, _ = factories.llama()
    continued = PeftModel.from_pretrained(fresh, tmp_path, is_trainable=True)
    start = logps(policy, continued.eval())
    assert not torch.allclose(start, base)
    wanted = trainable(continued)
    reference = copy_adapter(continued)
    assert trainable(continued) == wanted
    with torch.no_grad():
        for name, parameter in continued.named_parameters():
            if ".default." in name:
                parameter.add_(0.1)
    with reference(continued) as scored:
        torch.testing.assert_close(logps(policy, scored), start, rtol=0, atol=1e-6)
    assert trainable(continued) == wanted
    assert not torch.allclose(logps(policy, continued), start)


def test_a_model_without_adapter_says_what_to_use():
    model, _ = factories.llama()
    with pytest.raises(NeedsError, match="frozen_copy"), AdapterOff()(model):
        pass
