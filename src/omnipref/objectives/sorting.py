"""Objectives over the distributions of a batch: sorted values are compared rank by rank, not pair by pair.

`S` is the log-likelihood of a case, `ρ` its log-ratio to the reference, `w` the chosen and `l` the rejected case.
"""

from __future__ import annotations

from torch import Tensor

from omnipref.objectives.batch import everyone
from omnipref.objectives.checks import check_number, check_roles
from omnipref.objectives.links import logistic
from omnipref.objectives.noise import smooth
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.ratio import difference, log_likelihood, log_ratio
from omnipref.scores import Scores


def aot(
    *, beta: float = 0.01, label_smoothing: float = 0.0, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Alignment via optimal transport (AOT), paired: the policy's margins as a whole must exceed the reference's.

    `L = −log σ(β(m_(k) − m^ref_(k)))` with the margins `m = S_w − S_l` sorted over the batch, and those of the
    reference sorted by themselves; reward `βρ`. A preference's loss is the one at the rank of its own margin.

    Args:
        beta: `β > 0`, per nat.
        label_smoothing: `ε` in [0, 0.5), the share of labels believed flipped, as in `dpo`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: sorted over the global batch. TRL sorts the micro-batch of each process.

    Identities: log 2 where policy = reference; `dpo(beta)` for a batch of one, and where both margins have one order.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> zero = torch.zeros(2)
        >>> aot(beta=0.1)(pair_scores(torch.tensor([3.0, 1.0]), zero, torch.tensor([0.0, 2.0]), zero)).loss_P
        tensor([0.6444, 0.6444])

    Source: arXiv 2406.05882; TRL's `aot`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 0.5, label_smoothing=label_smoothing)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        logp_N, rho_N = log_likelihood(scores), log_ratio(scores)
        margin_P = difference(scores, logp_N, chosen, rejected)
        ref_margin_P = difference(scores, logp_N - rho_N, chosen, rejected)
        gap_P = beta * (margin_P - at_same_rank(margin_P, ref_margin_P))
        return Outcome(smooth(logistic, gap_P, label_smoothing), beta * rho_N)

    return single(aot, compute, Needs(frozenset({chosen, rejected}), reference=True, batch=True), settings)


def aot_unpaired(
    *, beta: float = 0.01, label_smoothing: float = 0.0, chosen: str = "chosen", rejected: str = "rejected"
) -> Objective:
    """Alignment via optimal transport (AOT), unpaired: chosen rewards as a whole must exceed rejected ones.

    `L = −log σ(β(ρ_w(k) − ρ_l(k)))` with the log-ratios of the chosen cases sorted over the batch, and those of the
    rejected cases sorted by themselves; reward `βρ`. A preference's loss is the mean of those at the ranks of its two
    cases, which need not have the same prompt as what they are compared with.

    Args:
        beta: `β > 0`, per nat.
        label_smoothing: `ε` in [0, 0.5), the share of labels believed flipped, as in `dpo`.
        chosen: role of the better case.
        rejected: role of the worse case.

    Raises:
        ConfigError: an argument is out of range.

    Here: sorted over the global batch, in which there are as many chosen as rejected cases. TRL sorts the micro-batch
        of each process.

    Identities: log 2 where policy = reference; `dpo(beta)` for a batch of one; which rejected case belongs to which
        chosen one does not change the mean.

    Example:
        >>> import torch
        >>> from omnipref.scores import pair_scores
        >>> zero = torch.zeros(2)
        >>> aot_unpaired(beta=0.1)(pair_scores(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]), zero, zero)).loss_P
        tensor([0.6444, 0.6444])

    Source: arXiv 2406.05882; TRL's `aot_unpaired`.
    """
    settings = dict(locals())
    check_number(0, open_low=True, beta=beta)
    check_number(0, 0.5, label_smoothing=label_smoothing)
    check_roles(chosen=chosen, rejected=rejected)

    def compute(scores: Scores, state: State) -> Outcome:
        reward_N = beta * log_ratio(scores)
        better_P, worse_P = (scores.at(role, reward_N) for role in (chosen, rejected))
        above_P = better_P - at_same_rank(better_P, worse_P)
        below_P = at_same_rank(worse_P, better_P) - worse_P
        both_P = smooth(logistic, above_P, label_smoothing) + smooth(logistic, below_P, label_smoothing)
        # Each comparison stands in two preferences, once with the gradient of either side: half the value, whole slope.
        return Outcome(both_P - both_P.detach() / 2, reward_N)

    return single(aot_unpaired, compute, Needs(frozenset({chosen, rejected}), reference=True, batch=True), settings)


def at_same_rank(value_P: Tensor, other_P: Tensor) -> Tensor:
    """For each value the other value of the same rank in the global batch, without gradient: `[P]`.

    Example:
        >>> import torch
        >>> at_same_rank(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([10.0, 20.0, 30.0]))
        tensor([30., 10., 20.])
    """
    values, own = everyone(value_P)
    rank = values.argsort(stable=True).argsort()
    return everyone(other_P)[0].sort().values[rank[own]]
