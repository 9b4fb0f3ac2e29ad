"""What to log about a batch, under TRL's names."""

from __future__ import annotations

import torch
from torch import Tensor

from omnipref.objectives.objective import Outcome
from omnipref.objectives.ratio import log_likelihood
from omnipref.objectives.reduce import total
from omnipref.scores import Cases, Scores


def preference_metrics(scores: Scores, outcome: Outcome) -> dict[str, Tensor]:
    """Rewards, their order, and log-likelihoods of this process's batch, as detached scalars.

    Names and meanings are TRL's (`DPOTrainer`, `KTOTrainer`), but that a tie counts half in accuracies:

    - `rewards/<role>`, `logps/<role>`: mean over the preferences that have this case. Where no case is called `chosen`,
      `chosen` stands for all desirable cases and `rejected` for all undesirable ones.
    - `lengths/<role>`: mean number of units. `entropies/<role>`, `ref_entropies/<role>`: mean over cases of the entropy
      summed over units, where the objective asks for it; a model's own samples have `-logps` of the same expectation.
    - `rewards/accuracies`, `rewards/margins`: share of preferences in the right order, mean difference of rewards. For
      lists over all ordered pairs of a list, then over lists; and `rewards/top1`, how often the best case is on top.
      For unpaired cases only the margin: the difference between the two means.
    - `rewards/accuracies/<a>@<b>`, `rewards/margins/<a>@<b>`: the same for case `<a>` over its counterpart `<a>@<b>`.
    - `length_correlation`: of margins with differences in length, over three pairs or more that are not all
      alike in either.
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
    metrics, sizes = dict(outcome.metrics), _sizes(scores)
    for name, index in _groups(scores.cases).items():
        metrics[f"logps/{name}"] = logp_N[index].mean()
        metrics |= {f"{kind}/{name}": value_N[index].mean() for kind, value_N in sizes.items()}
        if reward_N is not None:
            metrics[f"rewards/{name}"] = reward_N[index].mean()
    if reward_N is None:
        return metrics
    contrasts = _contrasts(scores.cases)
    for suffix, (better, worse) in contrasts.items():
        metrics |= _order(reward_N[better] - reward_N[worse], suffix)
    if "" in contrasts:
        better, worse = contrasts[""]
        longer = sizes["lengths"][better] - sizes["lengths"][worse]
        metrics |= _correlation("length_correlation", reward_N[better] - reward_N[worse], longer)
    if "rewards/margins" not in metrics and {"rewards/chosen", "rewards/rejected"} <= metrics.keys():
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    elif "rewards/margins" not in metrics:
        metrics |= _list_order(reward_N, scores.cases)
    return metrics


def _sizes(scores: Scores) -> dict[str, Tensor]:
    """Units of each case, and entropies summed over them where they are there, `[N]`."""
    sizes = {"lengths": scores.mask.sum(1).to(scores.logp.dtype)}
    for extra, kind in {"entropy": "entropies", "ref_entropy": "ref_entropies"}.items():
        if extra in scores.extras:
            sizes[kind] = total(scores.extras[extra].detach(), scores.mask)
    return sizes


def _correlation(name: str, one: Tensor, other: Tensor) -> dict[str, Tensor]:
    """Pearson's, under this name; nothing where it is not defined."""
    one, other = (value.float() - value.float().mean() for value in (one, other))
    spread = one.norm() * other.norm()
    return {name: one @ other / spread} if len(one) > 2 and bool(spread > 1e-9) else {}


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
