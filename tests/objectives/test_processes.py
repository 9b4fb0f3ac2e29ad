"""Two processes with half the batch each give the losses of one with the whole."""

from __future__ import annotations

from pathlib import Path

import torch
from objectives.examples import pairs, scored
from torch import distributed, multiprocessing

from omnipref.objectives import bco, kto
from omnipref.scores import Scores

OBJECTIVE = kto(baseline="batch") + bco()
COUNT = 6


def part(first: int, last: int) -> Scores:
    """Preferences `first` to `last` of the whole batch."""
    whole = scored(pairs(COUNT), seed=11)
    rows = slice(2 * first, 2 * last)
    assert whole.ref_logp is not None
    cases = scored(pairs(last - first)).cases
    return Scores(whole.logp[rows] + 0.5 * whole.mask[rows], whole.mask[rows], cases, whole.ref_logp[rows])


def work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    bounds = [(0, 2), (2, COUNT)][rank]  # unequal halves
    outcome = OBJECTIVE(part(*bounds))
    torch.save((outcome.loss_P, dict(outcome.state)), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path):
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    whole = OBJECTIVE(part(0, COUNT))
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([loss_P for loss_P, _ in results]), whole.loss_P, atol=1e-12, rtol=1e-12)
    for _, state in results:
        for name, value in whole.state.items():
            torch.testing.assert_close(state[name], value)
    assert whole.metrics["kto/kl"] > 0
    assert not torch.allclose(OBJECTIVE(part(0, 2)).loss_P, whole.loss_P[:2])  # without the meeting they differ
