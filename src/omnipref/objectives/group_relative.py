"""Group-relative policy gradients: K scored samples of one context, each judged by how it compares with the others.

An objective is six choices, each a table here: what the advantage of a sample is, what its ratio to the policy that
drew it is taken of and which policy that is, how the ratio is kept in bounds, what a loss per unit is divided by, and
where the divergence from the reference enters. A group is all cases of a preference; their scores are the column
`score`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from omnipref.errors import ConfigError, NeedsError
from omnipref.objectives.batch import batch_mean, everyone, spread
from omnipref.objectives.checks import check_choice, check_number
from omnipref.objectives.objective import Needs, Objective, Outcome, State, single
from omnipref.objectives.reduce import Reduction, mean, total
from omnipref.scores import Cases, Scores

EPSILON = 1e-4
"""Added to standard deviations, so that a group whose scores hardly differ is not blown up; as in TRL."""


def grpo(
    *,
    beta: float = 0.04,
    clip: float = 0.2,
    clip_high: float | None = None,
    advantage: str = "group",
    ratio: str = "unit",
    surrogate: str = "clipped",
    normalise: str = "case",
    penalty: str = "corrected",
    old: str = "policy",
) -> Objective:
    """Group relative policy optimisation (GRPO), and by its options Dr. GRPO, DAPO, GSPO, CISPO, RLOO and TRL's BNPO.

    `L = −mean_i mean_t {min[r_{it} A_i, clip(r_{it}, 1 − ε, 1 + ε_high) A_i] − β r_{it} k_{it}}`, no reward of its own,
    with `A_i = (score_i − mean) / std` over the group, `r_{it} = π_θ / π_old` of a unit and
    `k = π_ref/π_θ − log(π_ref/π_θ) − 1`. The value means nothing; the gradient does. `docs/schedules.md` says which
    options make which method. Dr. GRPO's constant length is a factor: `(1 / 512) * grpo(normalise="total")`.

    Args:
        beta: `β ≥ 0`, weight of the divergence from the reference, per nat; 0 for no reference.
        clip: `ε` in [0, 1).
        clip_high: `ε_high ≥ 0`; None for `ε`.
        advantage: one of `ADVANTAGES`: `group`; `centred`, without the division; `batch`, divided by the standard
            deviation of the scores of the whole batch; `leave_one_out`, the score less the mean of the others.
        ratio: one of `RATIOS`: of each `unit`, or of the whole sample, to the power 1/units (`mean`) or not (`total`).
        surrogate: one of `SURROGATES`: `clipped`, as above; `weighted`, `sg[min(r, 1 + ε_high)] A log π_θ`.
        normalise: one of `NORMALISERS`: each `case` has the mean over its units; or the mean is over the units of the
            `group`, or of the `batch`; or `total`, the sum over a case's units.
        penalty: one of `PENALTIES`: `corrected`, as above; `loss`, `k` without `r`, as in GRPO's paper; `reward`:
            `β log(π_old/π_ref)` of the whole sample is taken off its score.
        old: what drew the samples, one of `ORIGINS`: `policy`, itself as it is now, for which `r = 1` and only its
            gradient counts; `reference`, in rounds; or the name of an extra that holds the log-likelihoods, `[N, U]`.

    Raises:
        ConfigError: an argument is out of range.
        NeedsError: a group has a single case; names the records.

    Here: without `r`, `k` has the gradient of the other divergence, `KL(π_ref ‖ π_θ)`, so `corrected` is the
        default, as it is TRL's. With groups of different sizes, means are over each group first. `weighted` has no
        lower bound, like TRL's. The `batch` is that of one backward pass over all processes, as in TRL's `bnpo`; its
        `dapo` and `cispo` count the units of all accumulated batches together.

    Identities: no gradient where the scores of a group are equal and policy = reference; `leave_one_out` is `centred`
        times `K/(K − 1)`; `leave_one_out` with `normalise="total"` has on average the gradient of the expected score,
        and the penalty `corrected`, for samples of one unit, that of `KL(π_θ ‖ π_ref)`.

    Example:
        >>> from dataclasses import replace
        >>> from omnipref.scores import pair_scores
        >>> scores = pair_scores(*torch.tensor([[-12.0], [-15.0], [-13.0], [-14.0]]))
        >>> scores = replace(scores, cases=replace(scores.cases, columns={"score": torch.tensor([1.0, 0.0])}))
        >>> grpo(beta=0, old="reference")(scores).loss_P
        tensor([-0.1414])

    Source: arXiv 2402.03300, equation (3); Dr. GRPO 2503.20783, DAPO 2503.14476, GSPO 2507.18071, CISPO 2506.13585,
        RLOO 2402.14740, `corrected` 2512.02556; TRL's `GRPOTrainer` and `RLOOTrainer`.
    """
    settings = dict(locals())
    check_number(0, beta=beta)
    check_number(0, 1, clip=clip)
    check_number(0, clip_high=clip if clip_high is None else clip_high)
    if not isinstance(old, str) or not old:
        raise ConfigError(f"found old={old!r}; expected 'policy', 'reference' or the name of an extra")
    bounds = (1 - clip, 1 + (clip if clip_high is None else clip_high))
    advantages, across = check_choice("advantage", advantage, ADVANTAGES)
    normaliser, over_batch = check_choice("normalise", normalise, NORMALISERS)
    ratio_of = check_choice("ratio", ratio, RATIOS)
    surrogate_of = check_choice("surrogate", surrogate, SURROGATES)
    weigh, in_reward = check_choice("penalty", penalty, PENALTIES)
    extra: Origin = (lambda scores: scores.extras[old], Needs(extras=frozenset({old})))
    origin, read = ORIGINS.get(old, extra)

    def compute(scores: Scores, state: State) -> Outcome:
        cases, mask_NU, old_NU = scores.cases, scores.mask, origin(scores).detach()
        score_N = cases.columns["score"].to(scores.logp.dtype)
        drift_N = total(old_NU - _reference(scores), mask_NU) if beta and in_reward else torch.zeros_like(score_N)
        advantage_N1 = advantages(score_N - beta * drift_N, cases)[:, None]
        ratio_NU = ratio_of(torch.where(mask_NU, scores.logp - old_NU, 0.0), mask_NU).exp()
        loss_NU = -surrogate_of(ratio_NU, advantage_N1, scores.logp, bounds)
        outside_NU = (ratio_NU < bounds[0]) | (ratio_NU > bounds[1])
        metrics = {"score": score_N.mean(), "outside": mean(outside_NU, mask_NU).mean()}
        if beta:
            kl_NU = _divergence(torch.where(mask_NU, scores.logp - _reference(scores), 0.0))
            if not in_reward:  # there it would add 0, or NaN where a divergence is infinite
                loss_NU = loss_NU + beta * weigh(ratio_NU) * kl_NU
            metrics["kl"] = mean(kl_NU.detach(), mask_NU).mean()
        return Outcome(normaliser(loss_NU, mask_NU, cases), metrics=metrics)

    own = Needs(reference=beta > 0, columns=frozenset({"score"}), groups=True, batch=across or over_batch)
    return single(grpo, compute, own | read, settings)


def group_sum(value_N: Tensor, cases: Cases) -> Tensor:
    """The sum over the cases of each preference: `[N]` to `[P]`.

    Example:
        >>> from omnipref.scores import pair_scores
        >>> group_sum(torch.tensor([1.0, 2.0, 3.0, 4.0]), pair_scores(torch.zeros(2), torch.zeros(2)).cases)
        tensor([4., 6.])
    """
    return value_N.new_zeros(cases.count).index_add(0, cases.preference_N, value_N)


def _sizes(value_N: Tensor, cases: Cases) -> Tensor:
    return group_sum(torch.ones_like(value_N), cases)


def _centred(score_N: Tensor, cases: Cases) -> Tensor:
    return score_N - (group_sum(score_N, cases) / _sizes(score_N, cases))[cases.preference_N]


def _standardised(score_N: Tensor, cases: Cases) -> Tensor:
    gap_N = _centred(score_N, cases)
    variance_P = group_sum(gap_N.square(), cases) / (_sizes(score_N, cases) - 1).clamp(min=1)
    return gap_N / (variance_P.sqrt() + EPSILON)[cases.preference_N]


def _standardised_by_batch(score_N: Tensor, cases: Cases) -> Tensor:
    return _centred(score_N, cases) / (spread(everyone(score_N)[0]) + EPSILON)


def _less_the_others(score_N: Tensor, cases: Cases) -> Tensor:
    size_P = _sizes(score_N, cases)
    return _centred(score_N, cases) * (size_P / (size_P - 1).clamp(min=1))[cases.preference_N]


ADVANTAGES: Mapping[str, tuple[Callable[[Tensor, Cases], Tensor], bool]] = {
    "group": (_standardised, False),
    "centred": (_centred, False),
    "batch": (_standardised_by_batch, True),
    "leave_one_out": (_less_the_others, False),
}
"""From scores `[N]` to advantages `[N]`, and whether that couples the preferences of a batch."""

RATIOS: Mapping[str, Reduction] = {
    "unit": lambda value_NU, mask_NU: value_NU,
    "mean": lambda value_NU, mask_NU: mean(value_NU, mask_NU)[:, None],
    "total": lambda value_NU, mask_NU: total(value_NU, mask_NU)[:, None],
}
"""From log-ratios per unit to what a ratio is taken of, `[N, U]` or `[N, 1]`."""


def _clipped(ratio_NU: Tensor, advantage_N1: Tensor, logp_NU: Tensor, bounds: tuple[float, float]) -> Tensor:
    del logp_NU
    return torch.minimum(ratio_NU * advantage_N1, ratio_NU.clamp(*bounds) * advantage_N1)


def _weighted(ratio_NU: Tensor, advantage_N1: Tensor, logp_NU: Tensor, bounds: tuple[float, float]) -> Tensor:
    return ratio_NU.detach().clamp(max=bounds[1]) * advantage_N1 * logp_NU


Surrogate = Callable[[Tensor, Tensor, Tensor, tuple[float, float]], Tensor]
"""From ratios, advantages `[N, 1]`, log-likelihoods and the bounds of the ratio to what is maximised, per unit."""

SURROGATES: Mapping[str, Surrogate] = {"clipped": _clipped, "weighted": _weighted}
"""What the argument `surrogate` of `grpo` may name."""


def _by_case(loss_NU: Tensor, mask_NU: Tensor, cases: Cases) -> Tensor:
    loss_N = mean(loss_NU, mask_NU)
    return group_sum(loss_N, cases) / _sizes(loss_N, cases)


def _summed(loss_NU: Tensor, mask_NU: Tensor, cases: Cases) -> Tensor:
    loss_N = total(loss_NU, mask_NU)
    return group_sum(loss_N, cases) / _sizes(loss_N, cases)


def _by_units(loss_NU: Tensor, mask_NU: Tensor, cases: Cases) -> tuple[Tensor, Tensor]:
    loss_N = total(loss_NU, mask_NU)
    return group_sum(loss_N, cases), group_sum(mask_NU.sum(1).to(loss_N), cases)


def _by_group(loss_NU: Tensor, mask_NU: Tensor, cases: Cases) -> Tensor:
    loss_P, units_P = _by_units(loss_NU, mask_NU, cases)
    return loss_P / units_P.clamp(min=1)


def _by_batch(loss_NU: Tensor, mask_NU: Tensor, cases: Cases) -> Tensor:
    loss_P, units_P = _by_units(loss_NU, mask_NU, cases)
    return loss_P / batch_mean(units_P).clamp(min=1)  # so that the mean over preferences is that over all units


NORMALISERS: Mapping[str, tuple[Callable[[Tensor, Tensor, Cases], Tensor], bool]] = {
    "case": (_by_case, False),
    "group": (_by_group, False),
    "batch": (_by_batch, True),
    "total": (_summed, False),
}
"""From losses per unit to one per preference, and whether that couples the preferences of a batch."""

PENALTIES: Mapping[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "corrected": (lambda ratio_NU: ratio_NU, False),
    "loss": (torch.ones_like, False),
    "reward": (torch.zeros_like, True),
}
"""From ratios to what the divergence of a unit weighs in the loss, and whether it is taken off the score instead."""


def _reference(scores: Scores) -> Tensor:
    if scores.ref_logp is None:
        raise NeedsError("found scores without ref_logp; expected log-likelihoods under the reference")
    return scores.ref_logp.detach()


def _divergence(rho_NU: Tensor) -> Tensor:
    """An estimate of `KL(π_θ ‖ π_ref)` that is at least 0 and, over samples of the policy, unbiased."""
    return torch.exp(-rho_NU) + rho_NU - 1


Origin = tuple[Callable[[Scores], Tensor], Needs]
"""From scores to the log-likelihoods that samples were drawn with, `[N, U]`, and what that reads."""

ORIGINS: Mapping[str, Origin] = {
    "policy": (lambda scores: scores.logp, Needs()),
    "reference": (_reference, Needs(reference=True)),
}
"""What the argument `old` of `grpo` may name beside an extra."""
