"""What a file of `methods/` holds: a `Method`, which is a composition, and a `Claim`, which is data.

The file is the registry's entry: its name is the method's slug (dashes become underscores), its function of that name
returns the `Method`, its value `claim` is the `Claim`, and its docstring is the method's card: a title, an empty line,
then fields `arXiv:`, `Modality:` and `In short:`, and after that `Paper:`, `Released code:`, `Here:` and `Why:` where
these differ; a field ends at the next one or at an empty line. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from omnipref.objectives.objective import Needs, Objective


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published method as a composition of the library's pieces.

    Args:
        objective: what is minimised.
        builders: what makes the preferences that the method needs, each as `omnipref build` takes it, such as
            `occlude(share=0.75)`; first to last.
        schedule: what changes over time; empty for a plain run.
        defaults: the paper's hyper-parameters by name of the field of `TrainConfig`; flags and YAML override them.
        not_symmetric_because: why exchanging the roles `chosen` and `rejected` does not flip the reward margin.
        not_pulling_because: why raising log p(chosen) need not lower the loss.

    The last two are the method's declared exceptions: the conformance suite checks everything that is not excused.
    """

    objective: Objective
    builders: tuple[str, ...] = ()
    schedule: tuple[Any, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    not_symmetric_because: str = ""
    not_pulling_because: str = ""

    @property
    def needs(self) -> Needs:
        """What the data and the policy must provide: the objective's needs."""
        return self.objective.needs


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says, at a size that two cores can check: data that one runner runs.

    An arm is a word that `run` understands. The claim holds if the method beats its baseline, and if every control
    (the same method with its key part off) falls short of the method: both with an interval, paired by seed, that
    excludes zero.

    Args:
        statement: the claim in one sentence.
        world: the small world it is checked in, for people.
        run: dotted path `package.module:function` of `(arm, seed, **options) -> dict[str, float]`, the numbers of one
            trained arm.
        metric: the number that decides.
        direction: whether `up` or `down` is better.
        method: arm of the method.
        baseline: arm that must lose.
        controls: arms that must not show the gain.
        also: further arms, shown in the table and deciding nothing.
        show: further metrics, shown in the table and deciding nothing.
        options: passed to `run`, such as steps or sizes.
        seeds: how many seeds by default, counted from 0.
        expected: size of the effect that is expected here, in units of the metric; None when only its sign is.
        expected_here: False where the effect is not expected at this scale; `note` says why.
        note: what was seen, and what the claim does not show.
        version: rises when the protocol changes, so that old numbers are not mixed with new ones.
    """

    statement: str
    world: str
    run: str
    metric: str
    direction: Literal["up", "down"]
    method: str
    baseline: str
    controls: tuple[str, ...]
    also: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 5
    expected: float | None = None
    expected_here: bool = True
    note: str = ""
    version: int = 1

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm to be run, each once, the method first."""
        return tuple(dict.fromkeys((self.method, self.baseline, *self.controls, *self.also)))
