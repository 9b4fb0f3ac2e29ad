"""The load-balancing loss of mixture-of-experts models: the models' own, and the same for every layout."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from pathlib import Path

import factories
import pytest
import torch
import transformers as hf
from architectures import ARCHITECTURES, EXPERTS, text
from policies.test_reference_distributions import RECORDS
from torch import Tensor, nn
from transformers import TrainingArguments

from omnipref.errors import CapabilityError
from omnipref.objectives import dpo
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.autoregressive.routers import load_balance
from omnipref.policies.reference import frozen_copy
from omnipref.training import PreferenceTrainer, prepare

COEFFICIENT = 0.3
SWITCH = {"output_router_logits": True, "router_aux_loss_coef": COEFFICIENT}
MODELS = {
    "mixtral": text(hf.MixtralConfig, num_local_experts=4, **EXPERTS, **SWITCH),
    "qwen3_moe": text(hf.Qwen3MoeConfig, head_dim=8, num_experts=4, moe_intermediate_size=32, **EXPERTS, **SWITCH),
    "jetmoe": text(
        hf.JetMoeConfig, kv_channels=8, num_local_experts=4, output_router_logits=True, aux_loss_coef=COEFFICIENT
    ),
}


def model_of(name: str) -> nn.Module:
    return MODELS[name]()[0].double().eval()


def auxiliary(model: nn.Module, layout: str, records=RECORDS) -> Tensor:
    policy = build_policy(model, factories.tokenizer(), layout)
    found = policy.score(model, policy.collate([policy.encode(record) for record in records])).auxiliary
    assert found is not None and found.dim() == 0 and found.requires_grad
    return found


def padded(model: nn.Module) -> dict[str, Tensor]:
    """All cases as padded rows, as a stock trainer feeds them."""
    policy = build_policy(model, factories.tokenizer(), "rows")
    lines = [torch.from_numpy(case.ids) for record in RECORDS for case in policy.encode(record).cases]
    ids = nn.utils.rnn.pad_sequence(lines, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(line) for line in lines], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask}


def in_double(model: nn.Module):
    """The model's own loss function, its sums in float64 where it asks for float32."""
    module = sys.modules[type(model).__module__]
    source = inspect.getsource(module.load_balancing_loss_func)
    assert ".float()" in source and "torch.float32" in source
    names = dict(vars(module))
    exec(source.replace(".float()", ".double()").replace("torch.float32", "torch.float64"), names)
    return names["load_balancing_loss_func"]


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("layout", ["forest", "rows"])
def test_it_is_the_stock_loss_of_padded_rows(name: str, layout: str):
    model = model_of(name)
    inputs = padded(model)
    output = model(**inputs)
    found = auxiliary(model, layout)
    # The stock sums are in float32.
    torch.testing.assert_close(found.float(), COEFFICIENT * output.aux_loss.float(), rtol=2e-6, atol=0)
    exact = in_double(model)(
        output.router_logits, model.num_experts, model.num_experts_per_tok, inputs["attention_mask"]
    )
    torch.testing.assert_close(found, COEFFICIENT * exact, rtol=0, atol=1e-10)
    gates = [p for n, p in model.named_parameters() if n.endswith("gate.weight")]
    ours, theirs = (torch.autograd.grad(each, gates) for each in (found, COEFFICIENT * exact))
    assert max(g.abs().max() for g in ours) > 1e-4
    for one, other in zip(ours, theirs, strict=True):
        # The models' norms run in float32 inside.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_forest_and_rows_have_the_same_loss(name: str):
    model = model_of(name)
    torch.testing.assert_close(auxiliary(model, "forest"), auxiliary(model, "rows"), rtol=0, atol=1e-10)


def test_a_shared_token_counts_for_each_case():
    policy = build_policy(model_of("mixtral"), factories.tokenizer())
    inputs = policy.collate([policy.encode(record) for record in RECORDS]).inputs
    lengths = [len(case.ids) for record in RECORDS for case in policy.encode(record).cases]
    assert int(inputs["count_BT"].sum()) == sum(lengths)
    assert int(inputs["count_BT"].max()) == 3 > int((inputs["count_BT"] > 0).sum()) / sum(lengths)
    assert torch.equal(inputs["count_BT"] > 0, inputs["valid_BT"])


def test_known_values():
    """E experts that share all evenly give k; one that gets everything gives E k' of its own: E * 1 * 1 for k = 1."""
    even = torch.eye(4, dtype=torch.float64) * 1e-3
    assert load_balance([even], 1, torch.ones(4)).item() == pytest.approx(1.0, abs=1e-6)
    all_on_one = torch.tensor([[50.0, 0, 0, 0]], dtype=torch.float64).expand(4, 4)
    assert load_balance([all_on_one], 1, torch.ones(4)).item() == pytest.approx(4.0)
    # Tokens that do not count change nothing; a token that counts twice is a token that stands there twice.
    mixed = torch.cat([even, all_on_one])
    assert load_balance([mixed], 1, torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])).item() == pytest.approx(1.0, abs=1e-6)
    twice = load_balance([mixed[:5]], 1, torch.tensor([1, 1, 1, 1, 2]))
    assert twice.item() == pytest.approx(load_balance([mixed[:6]], 1, torch.ones(6)).item())


def test_models_without_this_loss_have_none():
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    assert policy.score(model, policy.collate([policy.encode(RECORDS[0])])).auxiliary is None
    quiet = ARCHITECTURES["MixtralForCausalLM"].make()[0]
    assert policy.score(quiet, policy.collate([policy.encode(RECORDS[0])])).auxiliary is None


def test_a_loss_of_another_kind_is_refused():
    model = text(hf.DogeConfig, is_moe=True, num_experts=16, output_router_logits=True)()[0]
    policy = build_policy(factories.llama()[0], factories.tokenizer(), "rows")
    with pytest.raises(CapabilityError, match="To mend: set output_router_logits to false"):
        policy.score(model, policy.collate([policy.encode(RECORDS[0])]))


def test_hooks_are_gone_after_scoring():
    model = model_of("mixtral")
    auxiliary(model, "forest")
    before = sum(len(part._forward_hooks) for part in model.modules())
    auxiliary(model, "forest")
    assert sum(len(part._forward_hooks) for part in model.modules()) == before


@pytest.mark.parametrize("layout", ["forest", "rows"])
def test_the_trainer_adds_and_logs_it(tmp_path: Path, layout: str):
    model = model_of("mixtral").float()
    policy = build_policy(model, factories.tokenizer(), layout)
    records = [replace(RECORDS[0], record=i) for i in range(2)]
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        max_steps=1,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = PreferenceTrainer(
        model=model,
        args=arguments,
        policy=policy,
        objective=dpo(),
        reference=frozen_copy(model),
        train_dataset=prepare(policy, records, dpo().needs, tmp_path / "aside.jsonl", progress=False),
        processing_class=factories.tokenizer(),
    )
    expected = float(auxiliary(model, "rows", records[:1]).detach())
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["aux_loss"] == pytest.approx(expected, rel=1e-5)
    assert first["loss"] == pytest.approx(first["dpo/loss"] + expected, rel=1e-5)
