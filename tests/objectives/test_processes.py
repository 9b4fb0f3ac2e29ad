"""Two processes with half the batch each give the losses of one with the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from objectives.examples import pairs, scored, taken
from torch import Tensor, distributed, multiprocessing

from omnipref.objectives import alpha_dpo, aot, aot_unpaired, bco, beta_dpo, dr_dpo, epsilon_dpo, grpo, kto, kto_pair
from omnipref.scores import Scores

OBJECTIVE = (
    kto(baseline="batch")
    + bco()
    + kto_pair()
    + aot()
    + aot_unpaired()
    + alpha_dpo()
    + beta_dpo()
    + dr_dpo()
    + epsilon_dpo()
    + grpo(advantage="batch", normalise="batch", old="reference")
)
COUNT = 6


def part(first: int, last: int) -> Scores:
    """Preferences `first` to `last` of the whole batch."""
    whole = scored(pairs(COUNT), seed=11)
    moved = replace(whole, logp=whole.logp + 0.5 * whole.mask)
    return taken(moved, pairs(COUNT), range(first, last))


def gradient(scores: Scores) -> Tensor:
    """Of the sum of losses, which is the mean's times the number of preferences."""
    logp = scores.logp.clone().requires_grad_()
    return torch.autograd.grad(OBJECTIVE(replace(scores, logp=logp)).loss_P.sum(), logp)[0]


def work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    bounds = [(0, 2), (2, COUNT)][rank]  # unequal halves
    outcome = OBJECTIVE(part(*bounds))
    torch.save((outcome.loss_P, dict(outcome.state), gradient(part(*bounds))), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path):
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    whole = OBJECTIVE(part(0, COUNT))
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    losses, states, gradients = zip(*results, strict=True)
    torch.testing.assert_close(torch.cat(losses), whole.loss_P, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(torch.cat(gradients), gradient(part(0, COUNT)), atol=1e-12, rtol=1e-12)
    for state in states:
        for name, value in whole.state.items():
            torch.testing.assert_close(state[name], value)
    assert whole.metrics["kto/kl"] > 0
    assert not torch.allclose(OBJECTIVE(part(0, 2)).loss_P, whole.loss_P[:2])  # without the meeting they differ
