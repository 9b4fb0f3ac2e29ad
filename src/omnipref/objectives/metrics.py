"""What to log about a batch, under TRL's names."""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.objectives.objective import Outcome
from omnipref.objectives.ratio import log_likelihood
from omnipref.scores import Cases, Scores


def preference_metrics(scores: Scores, outcome: Outcome) -> dict[str, Tensor]:
    """Rewards, their order, and log-likelihoods of this process's batch, as detached scalars.

    Names and meanings are TRL's (`DPOTrainer`, `KTOTrainer`), but that a tie counts half in accuracies:

    - `rewards/<role>`, `logps/<role>`: mean over the preferences that have this case. Where no case is called `chosen`,
      `chosen` stands for all desirable cases and `rejected` for all undesirable ones.
    - `rewards/accuracies`, `rewards/margins`: share of preferences in the right order, mean difference of rewards. For
      lists over all ordered pairs of a list, then over lists; and `rewards/top1`, how often the best case is on top.
      For unpaired cases only the margin: the difference between the two means.
    - `rewards/accuracies/<a>@<b>`, `rewards/margins/<a>@<b>`: the same for case `<a>` over its counterpart `<a>@<b>`.
    - everything that the terms report, such as `dpo/loss`, `kto/kl`, `bco/shift`.

    Rewards are absent where no term defines one (`sft` alone).

    Example:
        >>> from omnipref.objectives import dpo
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> round(preference_metrics(scores, dpo()(scores))["rewards/margins"].item(), 6)
        0.2
    """
    logp_N, reward_N = log_likelihood(scores).detach(), outcome.reward_N
    metrics = dict(outcome.metrics)
    for name, index in _groups(scores.cases).items():
        metrics[f"logps/{name}"] = logp_N[index].mean()
        if reward_N is not None:
            metrics[f"rewards/{name}"] = reward_N[index].mean()
    if reward_N is None:
        return metrics
    for suffix, (better, worse) in _contrasts(scores.cases).items():
        metrics |= _order(reward_N[better] - reward_N[worse], suffix)
    if "rewards/margins" not in metrics and {"rewards/chosen", "rewards/rejected"} <= metrics.keys():
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    elif "rewards/margins" not in metrics:
        metrics |= _list_order(reward_N, scores.cases)
    return metrics


def _groups(cases: Cases) -> dict[str, Tensor]:
    """The cases of each role, as indices; and by label where no role is called `chosen`."""
    groups = {role: index[index >= 0] for role, index in cases.rows.items()}
    if "chosen" not in groups:
        groups |= {"chosen": (cases.label_N > 0).nonzero()[:, 0], "rejected": (cases.label_N < 0).nonzero()[:, 0]}
    return {name: index for name, index in groups.items() if len(index)}


def _contrasts(cases: Cases) -> dict[str, tuple[Tensor, Tensor]]:
    """Better and worse cases to compare by reward, by the suffix of the metric's name."""
    names = {"": ("chosen", "rejected")}
    names |= {f"/{role}": (role.partition("@")[0], role) for role in cases.rows if "@" in role}
    contrasts = {}
    for suffix, roles in names.items():
        if all(role in cases.rows for role in roles):
            better, worse = (cases.rows[role] for role in roles)
            both = (better >= 0) & (worse >= 0)
            if both.any():
                contrasts[suffix] = (better[both], worse[both])
    return contrasts


def _order(margin: Tensor, suffix: str) -> dict[str, Tensor]:
    return {f"rewards/accuracies{suffix}": _right(margin).mean(), f"rewards/margins{suffix}": margin.mean()}


def _right(margin: Tensor) -> Tensor:
    return torch.heaviside(margin, margin.new_tensor(0.5))


def _list_order(reward_N: Tensor, cases: Cases) -> dict[str, Tensor]:
    rank, owner = cases.rank_N, cases.preference_N
    ordered = (owner[:, None] == owner) & (rank[:, None] < rank) & (rank[:, None] >= 0)
    better, worse = ordered.nonzero(as_tuple=True)
    if not len(better):
        return {}
    margin = reward_N[better] - reward_N[worse]
    count_P = margin.new_zeros(cases.count).index_add(0, owner[better], torch.ones_like(margin))
    share = 1 / count_P[owner[better]] / (count_P > 0).sum()
    return {
        "rewards/accuracies": (share * _right(margin)).sum(),
        "rewards/margins": (share * margin).sum(),
        "rewards/top1": _top1(reward_N, cases)[count_P > 0].mean(),
    }


def _top1(reward_N: Tensor, cases: Cases) -> Tensor:
    """Per preference, the share of cases of rank 0 among the ranked cases of highest reward, `[P]`."""
    listed = cases.rank_N >= 0
    owner, reward = cases.preference_N[listed], reward_N[listed]
    highest = torch.where(owner[:, None] == owner, reward, -torch.inf).amax(1)
    on_top = (reward == highest).to(reward.dtype)
    right = on_top * (cases.rank_N[listed] == 0)
    zeros = reward.new_zeros(cases.count)
    return zeros.index_add(0, owner, right) / zeros.index_add(0, owner, on_top).clamp(min=1)
