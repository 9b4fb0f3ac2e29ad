"""Few lists with noisy labels: what a linear scorer learns of the order of items that it has never seen.

Six lists of ten items of 20 features are drawn once; the label that orders them is a linear value plus noise. 500 new
items are ordered by the value itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnipref.objectives import Objective, parse_objective, progressive_skips, ranklist
from omnipref.scores import Scores
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.scorers.cases import PAIR, minimised, scored

LISTS, ITEMS, FEATURES, FRESH = 6, 10, 20, 500
RANKS = {f"response_{k}": k for k in range(ITEMS)}


@dataclass(frozen=True)
class Arm:
    """One way to train in this world.

    Args:
        objective: as text.
        noise: standard deviation of the labels' noise; that of the value is 1.
        pairs: pairs of the same lists, drawn at random, as many as a list has neighbours.
        progressive_to: if above 0, `ranklist` with distances that grow to this one, instead of `objective`.
    """

    objective: str = ""
    noise: float = 1.0
    pairs: bool = False
    progressive_to: int = 0


@dataclass(frozen=True)
class Lists:
    """One draw of the world.

    Args:
        value_D: weights of the true value, whose standard deviation over items is 1.
        sorted_LKD: the items of each list, the one of the highest label first.
        fresh_ND: new items.
    """

    value_D: Tensor
    sorted_LKD: Tensor
    fresh_ND: Tensor

    def measure(self, weight_D: Tensor) -> dict[str, float]:
        """Of a linear scorer: `tau`, Kendall's on new items, and `scale`, the standard deviation of their scores.

        Args:
            weight_D: its weights.
        """
        score_N = self.fresh_ND @ weight_D
        return {"tau": kendall(score_N, self.fresh_ND @ self.value_D), "scale": score_N.std().item()}


def draw_lists(seed: int, noise: float) -> Lists:
    """Lists, ordered by noisy labels, and new items.

    Args:
        seed: of everything; the items are the same whatever the noise.
        noise: standard deviation.
    """
    draw = torch.Generator().manual_seed(seed)
    value_D = torch.randn(FEATURES, generator=draw)
    value_D = value_D / value_D.norm()
    lists_LKD = torch.randn(LISTS, ITEMS, FEATURES, generator=draw)
    fresh_ND = torch.randn(FRESH, FEATURES, generator=draw)
    label_LK = lists_LKD @ value_D + noise * torch.randn(LISTS, ITEMS, generator=draw)
    order_LK1 = label_LK.argsort(1, descending=True)[:, :, None]
    return Lists(value_D, lists_LKD.gather(1, order_LK1.expand_as(lists_LKD)), fresh_ND)


def kendall(score_N: Tensor, truth_N: Tensor) -> float:
    """Kendall's tau of two orders: concordant minus discordant pairs, over all pairs.

    Example:
        >>> round(kendall(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([9.0, 4.0, 5.0])), 4)
        0.3333
    """
    signs = [(value[:, None] - value).sign() for value in (score_N, truth_N)]
    return ((signs[0] * signs[1]).sum() / (len(score_N) * (len(score_N) - 1))).item()


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    steps: int = 250,
    rate: float = 0.05,
    decay: float = 0.02,
) -> dict[str, float]:
    """Train a linear scorer with AdamW on all lists at once, and see how it orders new items (`Lists.measure`).

    Args:
        arm: one of `arms`.
        seed: of the lists and of the pairs.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: of AdamW.
        decay: of weights, as AdamW has it.
    """
    plan = plan_of(Arm, arms, arm)
    world = draw_lists(seed, plan.noise)
    lists = dict(zip(RANKS, world.sorted_LKD.unbind(1), strict=True))
    ranks, items = (PAIR, _pairs(world.sorted_LKD, seed)) if plan.pairs else (RANKS, lists)
    weight_D = torch.zeros(FEATURES, requires_grad=True)

    def scores() -> Scores:
        return scored({role: item_PD @ weight_D for role, item_PD in items.items()}, ranks)

    optimizer = torch.optim.AdamW([weight_D], lr=rate, weight_decay=decay)
    for _ in minimised(scores, _objective(plan), optimizer, steps):
        pass
    return world.measure(weight_D.detach())


def _objective(plan: Arm) -> Callable[[float], Objective]:
    if plan.progressive_to:
        return lambda progress: ranklist(skips=progressive_skips(progress, plan.progressive_to))
    fixed = parse_objective(plan.objective)
    return lambda progress: fixed


def _pairs(sorted_LKD: Tensor, seed: int) -> dict[str, Tensor]:
    """As many pairs of each list as it has neighbours, places drawn at random, the better one chosen."""
    draw = torch.Generator().manual_seed(seed)
    place_LM2 = torch.rand(LISTS, ITEMS - 1, ITEMS, generator=draw).topk(2).indices.sort().values
    rows = torch.arange(LISTS)[:, None]
    return {role: sorted_LKD[rows, place_LM2[..., k]].flatten(0, 1) for role, k in PAIR.items()}
