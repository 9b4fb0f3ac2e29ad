"""The file of SparsePO: the paper's three masks, on the models that they are made for (card sparsepo, 2410.05102)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import factories
import pytest
import torch
from objectives.examples import pairs, scored
from safetensors.torch import load_file
from training.test_run import rows_of_pictures, rows_of_text, train, write

from omnipref.errors import ConfigError
from omnipref.objectives import sparse_po, tdpo1
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import pair
from omnipref.registry import load_method
from omnipref.training.learned_extras import FILE

LN_2 = 0.6931472


def test_the_masks_are_the_papers():
    read = {mask: load_method("sparsepo", {"mask": mask}).needs.extras for mask in ("mapo", "common", "independent")}
    assert read == {
        "mapo": {"kl_ref_policy", "ref_activation"},
        "common": {"kl_ref_policy", "learned_mask"},
        "independent": {"kl_ref_policy", "learned_mask", "learned_mask@2"},
    }
    default = load_method("sparsepo")
    assert str(default.objective) == str(sparse_po()) and default.needs.reference
    rates = [load_method("sparsepo", given).defaults["learning_rate"] for given in ({}, {"mask": "common"})]
    assert rates == [1e-6, 5e-7]
    assert load_method("sparsepo", {"learning_rate": 1e-3}).defaults["learning_rate"] == 1e-3
    with pytest.raises(ConfigError, match="found mask='mapi'; did you mean `mapo`"):
        load_method("sparsepo", {"mask": "mapi"})


def test_masks_of_one_are_tdpo_and_the_norm_of_common_ones_counts_twice():
    scores = scored(pairs(4), seed=1)
    ones = {name: torch.ones_like(scores.logp) for name in ("ref_activation", "learned_mask", "learned_mask@2")}
    scores = replace(scores, extras={**scores.extras, **ones})
    expected = tdpo1(beta=0.8)(scores).loss_P
    for mask in ("mapo", "common", "independent"):
        torch.testing.assert_close(
            load_method("sparsepo", {"mask": mask, "beta": 0.8}).objective(scores).loss_P, expected
        )
    both = load_method("sparsepo", {"mask": "common", "beta": 0.8, "sparsity": 0.001}).objective(scores).loss_P
    once = sparse_po(beta=0.8, mask="learned_mask", sparsity=0.002)(scores).loss_P
    torch.testing.assert_close(both, once)
    assert not torch.allclose(both, expected)


def test_units_of_mask_0_move_no_logit_of_theirs():
    """MaPO's masks are exactly 0 where every tensor is at its least, as in a model with one tap's worth of signal."""
    model, owner = factories.llama()
    policy, reference = build_policy(model.double(), owner), frozen_copy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    records = [pair(f"What is {i}? ", f"two {i}", "three cups", record=i) for i in range(3)]
    batch = policy.collate([policy.encode(record) for record in records])
    objective = load_method("sparsepo").objective
    scores = policy.score(model, batch, extras=objective.needs.extras, reference=reference)
    cut = scores.extras["ref_activation"].clone()
    cut[:, 0] = 0
    leaves = replace(scores, extras={**scores.extras, "ref_activation": cut}).with_gradient({"kl_ref_policy"})
    objective(leaves).loss_P.sum().backward()
    for slope in (leaves.logp.grad, leaves.extras["kl_ref_policy"].grad):
        assert slope is not None
        assert (slope[:, 0] == 0).all() and (slope[:, 1:][scores.mask[:, 1:]] != 0).any()
    nothing = replace(scores, extras={**scores.extras, "ref_activation": 0 * cut}).with_gradient()
    outcome = objective(nothing)
    torch.testing.assert_close(outcome.loss_P, torch.full((3,), LN_2, dtype=torch.float64))
    outcome.loss_P.sum().backward()
    assert nothing.logp.grad is not None and (nothing.logp.grad == 0).all()


METHOD = ["--method", "sparsepo", "--max-steps", "3", "--gradient-accumulation-steps", "1", "--warmup-ratio", "0"]


@pytest.mark.parametrize("mask", ["mapo", "common", "independent"])
def test_every_mask_trains_from_the_command_line(mask: str, tmp_path: Path):
    model = factories.save(*factories.llama(), tmp_path / "llama")
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    arguments = ["--method-args", f"mask={mask}", "beta=0.8"]
    found = train(model, data, tmp_path / "out", *METHOD, *arguments, "--save-steps", "2")
    assert found[0] == pytest.approx(LN_2, abs=1e-5) and found[-1] < found[0]  # log 2 for any mask at the start
    networks = {"mapo": 0, "common": 1, "independent": 2}[mask]
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-2"):
        names = set(load_file(folder / FILE)) if networks else set()
        assert (folder / FILE).exists() == bool(networks)
        assert len({name.partition(".")[0] for name in names}) == networks


def test_a_vision_language_model_learns_masks_too(tmp_path: Path):
    model = factories.save(*factories.llava(), tmp_path / "llava")
    (tmp_path / "data").mkdir()
    data = write(tmp_path / "data" / "pairs.jsonl", rows_of_pictures(tmp_path / "data"))
    arguments = ["--method-args", "mask=common", "sparsity=0.001", "--lora-r", "4"]
    found = train(model, data, tmp_path / "out", *METHOD, *arguments)
    assert found[0] > LN_2 + 1e-3 and found[-1] < found[0]  # log 2 and the norm of masks near 1
    kept = load_file(tmp_path / "out" / FILE)
    assert kept["learned_mask.weight"].shape == (2, 32)  # of the text model's blocks, not of the encoder's
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert all(line["grad_norm"] > 0 for line in history if "grad_norm" in line)
