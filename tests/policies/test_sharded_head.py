"""The head in chunks, with weights in shards on two gloo processes: the numbers of one process, in float32."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from dataclasses import replace
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

sys.path.insert(0, sys.argv[1])
import factories
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import pair

dist.init_process_group("gloo")
model, owner = factories.llama()
policy = replace(build_policy(model, owner), chunk_elements=2 * 420 * 3)
batch = policy.collate([policy.encode(pair("What is one plus one? ", "two", "three cups"))])
reference = frozen_copy(model)
with torch.no_grad():
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
names = frozenset({"kl_policy_ref", "entropy"})


def found(trained):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained or "lm_head" not in name)
    scores = policy.score(model, batch, extras=names, reference=reference)
    (scores.logp + scores.extras["kl_policy_ref"]).sum().backward()
    values = torch.stack([scores.logp, scores.ref_logp, *scores.extras.values()]).detach()
    gradients = [p.grad for p in (model.model.layers[0].mlp.up_proj.weight, model.lm_head.weight) if p.grad is not None]
    whole = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in gradients]
    model.zero_grad()
    return values, whole


def shard(each, grouped, **settings):
    mesh = init_device_mesh("cpu", (2,))
    for layer in each.model.layers:
        fully_shard(layer, mesh=mesh, **settings)
    if grouped:  # as accelerate does
        fully_shard([each.model.norm, each.lm_head], mesh=mesh, reshard_after_forward=False, **settings)
    fully_shard(each, mesh=mesh, **settings)


alone = [found(trained) for trained in (True, False)]
low = sys.argv[2] == "bfloat16"
# As the trainer sets it under bf16, see `omnipref.training.sharding.settle_sharding`.
settings = {"mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)} if low else {}
for each in (model, reference.model):
    shard(each, grouped=sys.argv[3] == "grouped", **settings)
tolerance = 0.2 if low else 1e-4
for trained, (values, gradients) in zip((True, False), alone):
    sharded, others = found(trained)
    assert sharded.dtype == torch.float32
    assert (values - sharded).abs().max() < tolerance, (values - sharded).abs().max()
    rounded = (sharded.bfloat16().float() == sharded)[sharded != 0].float().mean()
    assert rounded < 0.2, f"{rounded:.0%} of the scores are rounded to bfloat16"
    assert len(gradients) == len(others) == 1 + trained
    for one, other in zip(gradients, others):
        error = (one - other).norm() / one.norm()
        assert error < (0.2 if low else 1e-5), error
print("same")
dist.destroy_process_group()
"""


def run(tmp_path: Path, *arguments: str) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(Path(__file__).parents[1]), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "same" in done.stdout, done.stderr[-3000:]


def test_chunks_of_a_sharded_head_beside_a_sharded_reference(tmp_path: Path):
    run(tmp_path, "float32", "grouped")


def test_scores_stay_in_float32_under_bfloat16_weights(tmp_path: Path):
    run(tmp_path, "bfloat16", "grouped")


def test_a_head_in_the_shard_of_the_whole_model(tmp_path: Path):
    run(tmp_path, "float32", "root")
