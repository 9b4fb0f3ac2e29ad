"""Networks that make extras: what they compute, and that they train, share, stop and go on as the policy does."""

from __future__ import annotations

from pathlib import Path

import factories
import pytest
import torch
from accelerate import Accelerator
from diffusion_factories import save_pipeline
from safetensors.torch import load_file
from training.test_parts import make as make_parts
from training.test_run import in_two_processes, rows_of_text, write
from training.test_run import losses as losses_in
from training.test_sharded import FSDP, two_processes
from training.test_trainer import losses, make

from omnipref.cli import main
from omnipref.errors import CapabilityError, ConfigError
from omnipref.objectives import Objective, bco, sparse_po
from omnipref.policies.diffusion import load_diffusion_policy
from omnipref.training import PreferenceTrainer
from omnipref.training.learned_extras import FILE, MaskNetwork, learned_by


def masked(kappa: float = 0.01, **settings) -> Objective:
    given = {"beta": 0.8, "mask": "learned_mask", "sparsity": kappa, "divergence_sparsity": kappa, **settings}
    return sparse_po(**given)


def weights(trainer: PreferenceTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.learned.networks.state_dict().items()}


def test_a_network_is_the_formula_and_starts_near_1():
    network = MaskNetwork(3, 5, seed=1).double()
    draw = torch.Generator().manual_seed(0)
    state = 3 + 2 * torch.randn(2, 4, 3, 5, generator=draw, dtype=torch.float64)
    assert (network(state) - 1).abs().max() < 0.1
    assert network(state).std() > 1e-3
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
        network.weight.mul_(3)
        network.share.copy_(torch.tensor([1.0, -1.0, 0.5]))
    mean, spread = state.mean(-1, keepdim=True), state.var(-1, correction=0, keepdim=True)
    normal = (state - mean) / (spread + network.norm.eps).sqrt() * network.norm.weight + network.norm.bias
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for block in range(3):
        gate = (normal[:, :, block] @ network.weight[block] + network.bias[block]).clamp(min=0)
        expected = expected + network.share[block] * gate
    assert (expected < 0).any() and (expected > 0).any()
    found = network(state)
    torch.testing.assert_close(found, expected.clamp(min=0))
    (found.square().sum()).backward()
    slopes = torch.autograd.grad(expected.clamp(min=0).square().sum(), list(network.parameters()))
    for parameter, slope in zip(network.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope)


def test_networks_learn_with_the_policy_under_their_own_decay(tmp_path):
    trainer = make(tmp_path, objective=masked())
    before, words = weights(trainer), trainer.model.lm_head.weight.detach().clone()
    trainer.train()
    assert all(not torch.equal(value, before[name]) for name, value in weights(trainer).items())
    assert not torch.equal(trainer.model.lm_head.weight, words)
    group = trainer.optimizer.param_groups[-1]
    assert group["weight_decay"] == 0.01 and group["lr"] == trainer.optimizer.param_groups[0]["lr"]
    assert {id(p) for p in group["params"]} == {id(p) for p in trainer.learned.networks.parameters()}
    assert not any("mask" in name for name, _ in trainer.model.named_parameters())


def test_at_the_reference_a_mask_moves_by_its_norm_alone(tmp_path):
    for kappa, still in ((0.0, True), (0.01, False)):
        trainer = make(tmp_path / str(still), objective=masked(kappa), steps=1, weight_decay=0.0)
        before = weights(trainer)
        trainer.create_optimizer()
        trainer.optimizer.param_groups[-1]["weight_decay"] = 0.0
        trainer.train()
        assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items()) == still
        unit = trainer.policy.collate([trainer.train_dataset[i] for i in range(4)])
        scores = trainer.scores(trainer.reference.model, unit)  # the policy as it was, but for the masks
        assert scores.extras.keys() == {"kl_ref_policy", "learned_mask"}
        loss_P = trainer.objective(scores).loss_P
        norm_N = (scores.extras["learned_mask"] * scores.mask).sum(1)
        size_P = scores.at("chosen", norm_N) + scores.at("rejected", norm_N)
        torch.testing.assert_close(loss_P, 0.6931472 + 2 * kappa * size_P, rtol=0, atol=1e-5)


def test_a_mask_does_not_know_the_unit_that_it_weighs(tmp_path):
    trainer = make(tmp_path, objective=masked())
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.learned.networks.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    batch = trainer.policy.collate([trainer.train_dataset[0]])
    scores = trainer.scores(trainer.model, batch)
    mask, other = scores.extras["learned_mask"]
    target, another = batch.inputs["target_NU"]
    first = int((target != another).nonzero()[0])  # where the responses part
    assert torch.equal(mask[: first + 1], other[: first + 1]) and mask[first] > 0
    assert mask[first + 1] != other[first + 1]
    assert (scores.extras["learned_mask"][~scores.mask] == 0).all()


def test_a_killed_run_resumes_to_the_same_masks_to_the_last_digit(tmp_path):
    whole = make(tmp_path, objective=masked(divergence_mask="learned_mask@2"))
    whole.train()
    resumed = make(tmp_path, objective=masked(divergence_mask="learned_mask@2"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(resumed) == losses(whole)
    ends = weights(whole), weights(resumed), load_file(tmp_path / "checkpoint-6" / FILE)
    assert ends[0].keys() == ends[1].keys() == ends[2].keys()
    assert all(torch.equal(ends[0][name], end[name]) for end in ends[1:] for name in ends[0])
    pair = [ends[0][f"{name}.weight"] for name in ("learned_mask", "learned_mask@2")]
    assert not torch.allclose(*pair)
    (tmp_path / "checkpoint-2" / FILE).unlink()
    with pytest.raises(ConfigError, match=f"found no {FILE} in .*checkpoint-2.*learned_mask, learned_mask@2"):
        make(tmp_path, objective=masked(divergence_mask="learned_mask@2")).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )


@pytest.mark.parametrize("objective", [masked(), masked() + bco()], ids=["separate", "coupled"])
def test_a_run_in_parts_has_the_masks_of_the_whole(tmp_path, objective):
    runs = [make_parts(tmp_path / str(limit), objective, limit) for limit in (None, 80)]
    for trainer in runs:
        trainer.train()
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), abs=1e-6)
    one, other = map(weights, runs)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=2e-5)


def test_forest_rows_and_accumulated_batches_learn_alike(tmp_path):
    arms = ({}, {"layout": "rows"}, {"batch": 2, "accumulate": 2})
    runs = [make(tmp_path / str(i), objective=masked(), **arm) for i, arm in enumerate(arms)]
    for trainer in runs:
        trainer.train()
    for other in runs[1:]:
        assert losses(other) == pytest.approx(losses(runs[0]), abs=1e-5)
        for name, value in weights(runs[0]).items():
            torch.testing.assert_close(weights(other)[name], value, rtol=0, atol=2e-4)


def test_gradients_are_clipped_apart_and_dropped_once_used(tmp_path):
    trainer = make(tmp_path, objective=masked(50.0), steps=1, max_grad_norm=0.5)
    norms = []

    class Watch(type(trainer.learned)):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            norms.append(torch.cat([p.grad.flatten() for p in trainer.learned.networks.parameters()]).norm())

    trainer.callback_handler.callbacks.append(Watch(trainer.learned.networks, trainer.accelerator))
    trainer.train()
    assert norms[0] == pytest.approx(0.5, abs=1e-4)
    assert all(p.grad is None for p in trainer.learned.networks.parameters())


def test_evaluation_reads_masks_and_leaves_them_alone(tmp_path):
    trainer = make(tmp_path, objective=masked(), steps=2)
    trainer.train()
    trainer.eval_dataset = trainer.train_dataset
    before = weights(trainer)
    assert trainer.evaluate()["eval_loss"] > 0
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return factories.save(*factories.llama(), tmp_path_factory.mktemp("learned") / "llama")


def words(model: Path, folder: Path, output: str, batch: int) -> list[str]:
    """What to train with learned masks; lengths differ, so that a process has one part where the other has two."""
    rows = [{**row, "prompt": row["prompt"] + "cup " * (i % 4 * 5)} for i, row in enumerate(rows_of_text(16))]
    data = write(folder / "pairs.jsonl", rows)
    given = ["--model-name-or-path", str(model), "--dataset", str(data), "--output-dir", str(folder / output)]
    given += ["--learning-rate", "1e-3", "--logging-steps", "1", "--max-steps", "4", "--objective", str(masked())]
    return [*given, "--per-device-train-batch-size", str(batch), "--training-arguments", "use_cpu=true"]


def test_two_processes_learn_the_masks_of_one(llama, tmp_path):
    in_two_processes(*words(llama, tmp_path, "two", 2), "--max-batch-tokens", "64")
    assert main(["train", *words(llama, tmp_path, "one", 4)]) == 0
    assert losses_in(tmp_path / "two") == pytest.approx(losses_in(tmp_path / "one"), abs=2e-6)
    one, two = (load_file(tmp_path / name / FILE) for name in ("one", "two"))
    start = MaskNetwork(2, 32).state_dict()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
    assert not torch.allclose(one["learned_mask.bias"], start["bias"], atol=1e-4)
    assert not any("mask" in name for name in load_file(tmp_path / "one" / "model.safetensors"))


def test_weights_in_shards_are_refused_by_name(llama, tmp_path):
    with pytest.raises(AssertionError, match=r"found the extras learned_mask, which a network makes.*FSDP.*To mend"):
        two_processes(FSDP, tmp_path, ["train", *words(llama, tmp_path, "out", 2)])


def test_what_cannot_be_learned_is_refused_before_training(llama, tmp_path, capsys):
    for arguments in (["--precompute-ref-log-probs"], ["--cache-ref-log-probs"]):
        assert main(["train", *words(llama, tmp_path, "out", 2), *arguments]) == 2
        assert "reads more of the reference than scores: kl_ref_policy, learned_mask" in capsys.readouterr().err
    model = factories.llama()[0]
    with pytest.raises(CapabilityError, match="found the extra `learned_mask@two`; expected a whole number"):
        learned_by({"learned_mask@two"}, model, Accelerator(), 0)
    unet, _ = load_diffusion_policy(save_pipeline(tmp_path, "epsilon"))
    with pytest.raises(CapabilityError, match="found no list of blocks in UNet2DConditionModel"):
        learned_by({"learned_mask"}, unet, Accelerator(), 0)
    assert not learned_by({"entropy"}, unet, Accelerator(), 0).networks
