"""FSDP2 on two gloo processes gives the log-probabilities and gradients of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, sys.argv[1])
import factories
from omnipref.policies.autoregressive.load import build_policy
from omnipref.preferences import pair

dist.init_process_group("gloo")
model, owner = factories.llama()
policy = build_policy(model, owner)
batch = policy.collate([policy.encode(pair("What is one plus one? ", "two", "three cups"))])


def norm():
    logp = policy.score(model, batch).logp
    logp.sum().backward()
    gradient = model.model.layers[0].mlp.up_proj.weight.grad
    whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    model.zero_grad()
    return logp.detach().sum().item(), whole.norm().item()


alone = norm()
mesh = init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
sharded = norm()
assert all(abs(a - b) < 1e-4 * max(1, abs(a)) for a, b in zip(alone, sharded)), (alone, sharded)
print("same", alone, sharded)
dist.destroy_process_group()
"""


def test_two_shards_score_as_one_model(tmp_path: Path):
    script = tmp_path / "sharded.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(Path(__file__).parents[1])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "same" in done.stdout, done.stderr[-2000:]
