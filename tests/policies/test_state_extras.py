"""Extras of inner states: where they are read, the same in every layout, and against stock forward passes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import factories
import pytest
import torch
from architectures import ARCHITECTURES, WINS, records_of
from diffusion_factories import picture_pairs, save_pipeline
from policies.test_architectures import FORESTS, made
from policies.test_reference_distributions import RECORDS, lora, scramble
from torch import Tensor, nn

from omnipref.errors import CapabilityError
from omnipref.policies.autoregressive.attention import attention_of
from omnipref.policies.autoregressive.backbone import blocks_of
from omnipref.policies.autoregressive.layouts import Rows
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.diffusion import load_diffusion_policy
from omnipref.policies.policy import Reference
from omnipref.policies.reference import AdapterOff, FrozenCopy, copy_adapter, frozen_copy
from omnipref.preferences import Preference, pair
from omnipref.scores import Scores, stretched
from omnipref.training.parts import join

ROUNDED = {name for name, each in ARCHITECTURES.items() if each.float32_inside} | {"Llama4ForCausalLM"}
"""Models that round to float32 inside; Llama 4 the weights of experts."""
STATES = frozenset({"hidden", "ref_hidden", "ref_activation"})
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Itself:
    """The policy as its own reference."""

    def __call__(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        return nullcontext(model)

    def place(self, prepare: Any) -> None:
        del prepare


def scored(policy: Any, model: nn.Module, reference: Reference | None, records=RECORDS, extras=STATES) -> Scores:
    batch = policy.collate([policy.encode(record) for record in records])
    return policy.score(model, batch, extras=extras, reference=reference)


def llama() -> tuple[nn.Module, AutoregressivePolicy]:
    model, owner = factories.llama()
    return model.double(), build_policy(model, owner)


def whole_passes(policy: AutoregressivePolicy, model: nn.Module) -> list[tuple[int, dict[str, list[Tensor]], Any]]:
    """For each case: where its response starts, the outputs of every named module, and the model's own output."""
    found = []
    for record in RECORDS:
        for case in policy.encode(record).cases:
            seen: dict[str, list[Tensor]] = {}
            hooks = [
                part.register_forward_hook(
                    lambda _m, _i, out, name=name, seen=seen: seen.setdefault(name, []).append(out)
                )
                for name, part in model.named_modules()
            ]
            out = model(input_ids=torch.from_numpy(case.ids)[None], output_hidden_states=True)
            for hook in hooks:
                hook.remove()
            found.append((len(case.prompt.ids), seen, out))
    return found


@pytest.mark.parametrize("layout", ["forest", "rows"])
def test_hidden_is_the_last_state_of_the_unit_itself_and_of_blocks_that_of_the_unit_before(layout: str):
    model, owner = factories.llama()
    model = model.double()
    policy = build_policy(model, owner, layout)
    scores = scored(policy, model, Itself())
    for n, (start, _, out) in enumerate(whole_passes(policy, model)):
        mask, states = scores.mask[n], [line[0] for line in out.hidden_states]
        torch.testing.assert_close(scores.extras["hidden"][n][mask], states[-1][start:], rtol=0, atol=1e-10)
        before = scores.extras["ref_hidden"][n][mask]
        assert before.shape == (len(states[-1]) - start, 2, 32)
        torch.testing.assert_close(before[:, 0], states[1][start - 1 : -1], rtol=0, atol=1e-10)
        # What the library calls the last hidden state comes after the last block's norm.
        torch.testing.assert_close(model.model.norm(before[:, 1]), states[-1][start - 1 : -1], rtol=0, atol=1e-10)
    for name in STATES:
        value = scores.extras[name]
        assert not value.requires_grad and (value[~scores.mask] == 0).all()


KINDS = ["", *(f".self_attn.{name}_proj" for name in "qkvo"), ".mlp", ".mlp.act_fn"]


def test_activations_are_means_over_features_blocks_and_kinds():
    model, policy = llama()
    scores = scored(policy, model, Itself())
    found = scores.extras["ref_activation"]
    for n, (start, seen, _) in enumerate(whole_passes(policy, model)):
        kinds = []
        for kind in KINDS:
            lines = [seen[f"model.layers.{b}{kind}"][0][0, start - 1 : -1].mean(-1) for b in range(2)]
            rows = [
                (line - line.min()) / (line.max() - line.min()) if len(line) > 1 else line * 0 + 1 for line in lines
            ]
            assert all(row.min() == 0 and row.max() == 1 for row in rows if len(row) > 1)
            kinds.append((rows[0] + rows[1]) / 2)
        expected = torch.stack(kinds).mean(0)
        torch.testing.assert_close(found[n][scores.mask[n]], expected, rtol=0, atol=1e-10)
    assert found.min() >= 0 and found.max() <= 1 and found[scores.mask].std() > 0.05


def test_the_card_row_is_stretched_and_a_response_of_one_unit_counts_fully():
    row = torch.tensor([[0.1, 0.4, 0.2, 0.9]])
    full = torch.ones(1, 4, dtype=torch.bool)
    assert stretched(row, full)[0].tolist() == pytest.approx([0, 0.375, 0.125, 1])
    assert stretched(row[:, :1], full[:, :1]).tolist() == [[1]]


@pytest.mark.parametrize("name", FORESTS)
def test_a_forest_has_the_states_of_rows(name: str):
    each = ARCHITECTURES[name]
    model, owner = made(name)
    forest = build_policy(model, owner)
    rows = replace(forest, layout=Rows(attention=attention_of(model)))
    for record in records_of(each):
        one = scored(forest, model, Itself(), [record])
        for n, case in enumerate(record.cases.values()):
            alone = Preference({"chosen": case, "rejected": case}, (WINS,))  # some stand no padding beside a short case
            other = scored(rows, model, Itself(), [alone])
            for extra in STATES:
                torch.testing.assert_close(
                    one.extras[extra][n][one.mask[n]],
                    other.extras[extra][0],
                    rtol=0,
                    atol=1e-5 if name in ROUNDED else 1e-10,
                )
        assert one.extras["ref_hidden"].shape[2] == 2


@pytest.mark.parametrize("name", ["MambaForCausalLM", "Qwen3NextForCausalLM"])
def test_recurrent_models_have_states_too(name: str):
    model, owner = made(name)
    scores = scored(build_policy(model, owner), model, Itself())
    assert scores.extras["ref_hidden"].shape[2:] == (2, 32)
    assert scores.extras["ref_activation"][scores.mask].std() > 0


def test_a_state_before_a_unit_does_not_know_it():
    model, policy = llama()
    records = [pair("What is one plus one? ", "two cups", "two forks")]
    scores = scored(policy, model, Itself(), records)
    first = int((scores.extras["hidden"][0] != scores.extras["hidden"][1]).any(-1).nonzero()[0])
    assert first > 0  # where the responses part
    assert torch.equal(scores.extras["ref_hidden"][0, : first + 1], scores.extras["ref_hidden"][1, : first + 1])
    later = scores.extras["ref_hidden"][:, first + 1]
    assert not torch.allclose(later[0], later[1])


def test_an_adapter_that_is_off_or_another_is_read_as_the_weights_that_it_makes():
    whole = factories.llama()[0].double()
    model = lora(factories.llama()[0].double(), target_modules=["q_proj", "down_proj"])
    policy = build_policy(whole, factories.tokenizer())
    off = scored(policy, model, AdapterOff()).extras
    reference = copy_adapter(model)
    merged = lora(factories.llama()[0].double(), target_modules=["q_proj", "down_proj"]).merge_and_unload()  # type: ignore[operator]
    scramble(model, ".default.")
    beside = scored(policy, model, reference).extras
    for found, weights in ((off, whole), (beside, merged)):
        expected = scored(policy, model, FrozenCopy(weights)).extras
        for name in ("ref_hidden", "ref_activation"):
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)
    assert not torch.allclose(off["ref_activation"], beside["ref_activation"])


def test_states_come_beside_extras_of_distributions_and_alone_with_the_same_numbers():
    model, policy = llama()
    reference = frozen_copy(model)
    scramble(model)
    alone = scored(policy, model, reference)
    beside = scored(policy, model, reference, extras=STATES | {"kl_ref_policy", "entropy"})
    assert beside.extras.keys() == STATES | {"kl_ref_policy", "entropy"}
    assert alone.ref_logp is not None and beside.ref_logp is not None
    torch.testing.assert_close(beside.ref_logp, alone.ref_logp, rtol=0, atol=1e-12)
    assert all(torch.equal(beside.extras[name], alone.extras[name]) for name in STATES)
    assert not any(part._forward_hooks for part in [*model.modules(), *reference.model.modules()])


def test_parts_have_the_states_of_the_whole():
    model, policy = llama()
    whole = scored(policy, model, Itself())
    parts = join([scored(policy, model, Itself(), [record]) for record in RECORDS])
    for name in STATES:
        torch.testing.assert_close(parts.extras[name], whole.extras[name], rtol=0, atol=1e-12)


def test_states_of_blocks_keep_their_precision_and_the_rest_is_float32():
    model, owner = factories.llama()
    scores = scored(build_policy(model, owner), model.bfloat16(), Itself())
    assert {name: scores.extras[name].dtype for name in sorted(STATES)} == {
        "hidden": torch.float32,
        "ref_activation": torch.float32,
        "ref_hidden": torch.bfloat16,
    }


def test_compiled_layers_are_read_as_they_are():
    model, owner = factories.llama()
    policy, reference = build_policy(model, owner), frozen_copy(model)
    plain = scored(policy, model, reference)
    for layer in blocks_of(reference.model):
        layer.compile(backend="eager", dynamic=True)
    for _ in range(2):
        compiled = scored(policy, model, reference)
        torch.testing.assert_close(compiled.extras["ref_activation"], plain.extras["ref_activation"])
        torch.testing.assert_close(compiled.extras["ref_hidden"], plain.extras["ref_hidden"])


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    model, policy = llama()
    with pytest.raises(CapabilityError, match="found the extras ref_activation, ref_hidden without a reference"):
        scored(policy, model, None)
    with pytest.raises(CapabilityError, match=r"found the extras learned_mask@2, which a network makes.*train"):
        scored(policy, model, Itself(), extras=frozenset({"learned_mask@2"}))
    reference = frozen_copy(model)
    reference.model.config.num_hidden_layers = 7  # type: ignore[union-attr]
    with pytest.raises(CapabilityError, match=r"found no list of blocks in LlamaForCausalLM.*To mend"):
        scored(policy, model, reference)
    unet, denoiser = load_diffusion_policy(save_pipeline(tmp_path, "epsilon"))
    with pytest.raises(CapabilityError, match=r"reads `hidden`, `ref_activation`, `ref_hidden`, which need tokens"):
        scored(denoiser, unet, frozen_copy(unet), picture_pairs(1))
