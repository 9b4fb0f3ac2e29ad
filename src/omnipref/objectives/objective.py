"""Objectives: pure functions of scores that add and scale like numbers.

`0.8 * dpo() + 0.2 * bco() + sft()` is an objective; calling it on `Scores` gives one loss per preference, in float32,
before any mean. Weights, masks and the mean over preferences are applied once, by whoever calls it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from omnipref.errors import NeedsError
from omnipref.scores import Cases, Scores

State = Mapping[str, Tensor]
"""Running statistics of a term, such as BCO's reward shift; saved with checkpoints."""


@dataclass(frozen=True)
class Needs:
    """What an objective reads; a policy computes just that, and data that lack it are refused before training.

    Args:
        roles: cases that every preference must have.
        reference: whether log-likelihoods under the reference are read.
        lists: whether preferences must be ranked (a pair is a list of two).
        labels: whether cases must be labelled desirable or undesirable (a pair labels its two).
        columns: further columns of the records.
        extras: further quantities per unit, such as `entropy`.
        batch: whether a preference's loss depends on the others of its batch, or the term counts batches in its state,
            so that a batch cannot be split.
        ties: whether a tie between two of the roles is understood; otherwise data with one are refused.
        groups: whether all cases of a preference are compared, of which there must be two or more.
    """

    roles: frozenset[str] = frozenset()
    reference: bool = False
    lists: bool = False
    labels: bool = False
    columns: frozenset[str] = frozenset()
    extras: frozenset[str] = frozenset()
    batch: bool = False
    ties: bool = False
    groups: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.roles | other.roles,
            self.reference or other.reference,
            self.lists or other.lists,
            self.labels or other.labels,
            self.columns | other.columns,
            self.extras | other.extras,
            self.batch or other.batch,
            # Every term that compares two roles must understand a tie; one that reads a single role does not care.
            all(needs.ties or len(needs.roles) < 2 for needs in (self, other)),
            self.groups or other.groups,
        )


@dataclass(frozen=True)
class Outcome:
    """What an objective returns.

    Args:
        loss_P: loss of each preference, float32 `[P]`.
        reward_N: implicit reward of each case, detached `[N]`; None where the term defines none.
        metrics: scalars to log, detached.
        state: running statistics after this batch.
    """

    loss_P: Tensor
    reward_N: Tensor | None = None
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    state: State = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """One weighted summand.

    Args:
        name: constructor's name, used as `<name>/loss` in logs and to tell states apart.
        compute: `(scores, state) -> Outcome`, with the loss before weighting.
        needs: what `compute` reads.
        weight: factor on the loss and, as in TRL's weighted loss types, on the reported reward.
        state: statistics before the first batch.
        settings: the constructor's arguments that differ from its defaults, for printing.
    """

    name: str
    compute: Callable[[Scores, State], Outcome]
    needs: Needs
    weight: float = 1.0
    state: State = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        call = f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"
        return call if self.weight == 1 else f"{self.weight!r}*{call}"


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms.

    Example:
        >>> from omnipref.objectives import dpo, sft
        >>> objective = 0.8 * dpo(beta=0.2) + sft()
        >>> [(term.name, term.weight) for term in objective.terms]
        [('dpo', 0.8), ('sft', 1.0)]
        >>> print(objective)
        0.8*dpo(beta=0.2) + sft()
    """

    terms: tuple[Term, ...]

    @property
    def needs(self) -> Needs:
        """The union of what the terms read."""
        needs = Needs()
        for term in self.terms:
            needs = needs | term.needs
        return needs

    @property
    def keys(self) -> tuple[str, ...]:
        """A unique key per term: its name, numbered where a name recurs (`dpo`, `dpo_2`)."""
        names = [term.name for term in self.terms]
        return tuple(
            name if names[: i + 1].count(name) == 1 else f"{name}_{names[: i + 1].count(name)}"
            for i, name in enumerate(names)
        )

    def initial_state(self) -> State:
        """Statistics of all terms before the first batch, keyed `term/name`."""
        return {
            f"{key}/{name}": value
            for key, term in zip(self.keys, self.terms, strict=True)
            for name, value in term.state.items()
        }

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms) if isinstance(other, Objective) else NotImplemented

    def __mul__(self, factor: float) -> Objective:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        return Objective(tuple(replace(term, weight=term.weight * factor) for term in self.terms))

    __rmul__ = __mul__

    def __call__(self, scores: Scores, state: State | None = None) -> Outcome:
        """Loss per preference, rewards, metrics and the next state.

        Raises:
            NeedsError: the scores or the state lack what a term reads; names the records where only some lack it.
        """
        _check_present(self.needs, scores)
        _check_records(self.needs, scores.cases)
        initial = self.initial_state()
        state = initial if state is None else state
        if lost := initial.keys() - state.keys():
            raise NeedsError(f"found a state without {', '.join(sorted(lost))}; expected the state of {self}")
        loss_P = torch.zeros(scores.cases.count, device=scores.logp.device)
        reward_N: Tensor | None = None
        metrics: dict[str, Tensor] = {}
        next_state: dict[str, Tensor] = {}
        for key, term in zip(self.keys, self.terms, strict=True):
            prefix = f"{key}/"
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            outcome = term.compute(scores, own)
            loss_P = loss_P + term.weight * outcome.loss_P
            metrics[f"{key}/loss"] = outcome.loss_P.detach().mean()
            metrics |= {f"{key}/{name}": value for name, value in outcome.metrics.items()}
            next_state |= {f"{key}/{name}": value for name, value in outcome.state.items()}
            if outcome.reward_N is not None:
                reward = term.weight * outcome.reward_N.detach()
                reward_N = reward if reward_N is None else reward_N + reward
        return Outcome(loss_P, reward_N, metrics, next_state)


def single(
    constructor: Callable[..., Objective],
    compute: Callable[[Scores, State], Outcome],
    needs: Needs,
    settings: Mapping[str, object],
    state: State | None = None,
) -> Objective:
    """An objective of one term, named and printed after its constructor.

    Args:
        constructor: the function that is called to build it.
        compute: see `Term`.
        needs: see `Term`; a term with a state has `batch` set.
        settings: the arguments that `constructor` was called with, by name.
        state: see `Term`.
    """
    parameters = inspect.signature(constructor).parameters
    changed = {name: value for name, value in settings.items() if value != parameters[name].default}
    needs = replace(needs, batch=needs.batch or bool(state))
    return Objective((Term(constructor.__name__, compute, needs, state=state or {}, settings=changed),))


def _check_present(needs: Needs, scores: Scores) -> None:
    missing = sorted(needs.roles - set(scores.cases.rows))
    missing += [f"column {name}" for name in sorted(needs.columns - set(scores.cases.columns))]
    missing += [f"extra {name}" for name in sorted(needs.extras - set(scores.extras))]
    if needs.reference and scores.ref_logp is None:
        missing.append("ref_logp")
    if missing:
        have = ", ".join(sorted(scores.cases.rows)) or "none"
        raise NeedsError(f"found scores without {', '.join(missing)}; roles present: {have}")


def _check_records(needs: Needs, cases: Cases) -> None:
    """Refuse a batch in which some preferences lack a case, a label or an order; costs one look at the device."""
    lacks = {f"a case `{role}`": cases.rows[role] < 0 for role in sorted(needs.roles)}
    empty = torch.zeros_like(cases.record_P)
    if needs.labels:
        lacks["a labelled case"] = empty.index_add(0, cases.preference_N, cases.label_N.abs()) == 0
    if needs.lists:
        lacks["two cases of different rank"] = empty.index_add(0, cases.preference_N, cases.rank_N.clamp(min=0)) == 0
    if needs.groups:
        lacks["two cases"] = cases.preference_N.bincount(minlength=cases.count) < 2
    if lacks and bool(torch.stack(list(lacks.values())).any()):
        records = {what: cases.record_P[lack].tolist() for what, lack in lacks.items()}
        found = "; ".join(f"records {numbers} without {what}" for what, numbers in records.items() if numbers)
        raise NeedsError(f"found {found}; expected one in every preference of the batch")
