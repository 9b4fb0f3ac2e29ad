"""What is compared: preferences over actions, and the scores that a policy gives them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from omnipref.errors import CapabilityError, nearest
from omnipref.scores import Cases, Scores

RANK = {"chosen": 0, "rejected": 1}
LABEL = {"chosen": 1, "rejected": -1}


@dataclass(frozen=True)
class Choices:
    """P preferences between actions for the same prompt.

    Args:
        prompt_P: number of each prompt.
        actions: role to the number of the action, `[P]`.
        columns: further numbers by name, as in `omnipref.scores.Cases`.
    """

    prompt_P: Tensor
    actions: Mapping[str, Tensor]
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def plus(self, **actions: Tensor) -> Choices:
        """The same with further roles, or with other actions for these roles."""
        return replace(self, actions={**self.actions, **actions})

    def joined(self, other: Choices) -> Choices:
        """These preferences and then those, of the same roles and without columns."""
        actions = {role: torch.cat([own, other.actions[role]]) for role, own in self.actions.items()}
        return Choices(torch.cat([self.prompt_P, other.prompt_P]), actions)


def labelled(
    reward_XA: Tensor, pairs: int, draw: torch.Generator, allowed_XA: Tensor | None = None, sharpness: float = 1.0
) -> Choices:
    """Pairs of two different actions, labelled as Bradley and Terry say.

    Args:
        reward_XA: what labels them.
        pairs: how many.
        draw: random numbers.
        allowed_XA: how often each action is compared, relative to the others of its prompt; all alike where None.
        sharpness: factor on the difference of rewards.

    Example:
        >>> pair = labelled(torch.tensor([[0.0, 99.0]]), 1, torch.Generator().manual_seed(0))
        >>> pair.actions["chosen"], pair.actions["rejected"]
        (tensor([1]), tensor([0]))
    """
    prompt_P = torch.randint(len(reward_XA), (pairs,), generator=draw)
    weight_XA = torch.ones_like(reward_XA) if allowed_XA is None else allowed_XA
    first_P, second_P = weight_XA[prompt_P].multinomial(2, generator=draw).unbind(1)
    return judged(reward_XA, prompt_P, first_P, second_P, draw, sharpness)


def judged(
    reward_XA: Tensor,
    prompt_P: Tensor,
    first_P: Tensor,
    second_P: Tensor,
    draw: torch.Generator,
    sharpness: float = 1.0,
) -> Choices:
    """Which of two actions is preferred, as Bradley and Terry say.

    Args:
        reward_XA: what judges.
        prompt_P: number of each prompt.
        first_P: one action.
        second_P: the other.
        draw: random numbers.
        sharpness: factor on the difference of rewards.
    """
    gap_P = sharpness * (reward_XA[prompt_P, first_P] - reward_XA[prompt_P, second_P])
    wins_P = torch.rand(len(prompt_P), generator=draw) < torch.sigmoid(gap_P)
    chosen_P, rejected_P = torch.where(wins_P, first_P, second_P), torch.where(wins_P, second_P, first_P)
    return Choices(prompt_P, {"chosen": chosen_P, "rejected": rejected_P})


def score(logp_XA: Tensor, reference_XA: Tensor, choices: Choices, extras: Collection[str] = ()) -> Scores:
    """Scores of P preferences under a policy: an action is a response of one unit.

    Args:
        logp_XA: log-probabilities of the policy, with gradient.
        reference_XA: those of the reference.
        choices: what is compared.
        extras: further quantities, named as in `omnipref.scores.Scores`.

    Raises:
        CapabilityError: an extra that is not known here.

    Example:
        >>> uniform_XA = torch.zeros(1, 2).log_softmax(1)
        >>> choices = Choices(torch.tensor([0]), {"chosen": torch.tensor([1]), "rejected": torch.tensor([0])})
        >>> score(torch.tensor([[0.0, 1.0]]).log_softmax(1), uniform_XA, choices).logp
        tensor([[-0.3133],
                [-1.3133]])
    """
    prompt_N = choices.prompt_P.repeat(len(choices.actions))
    action_N = torch.cat(list(choices.actions.values()))

    def picked(value_XA: Tensor) -> Tensor:
        return value_XA[prompt_N, action_N][:, None]

    return Scores(
        picked(logp_XA),
        torch.ones(len(prompt_N), 1, dtype=torch.bool),
        replace(_aligned(tuple(choices.actions), len(choices.prompt_P)), columns=choices.columns),
        picked(reference_XA),
        extras={name: picked(_extra(name, logp_XA, reference_XA)) for name in extras},
    )


@lru_cache(maxsize=64)
def _aligned(roles: tuple[str, ...], count: int) -> Cases:
    number_P = torch.arange(count)
    rows = {role: number_P + i * count for i, role in enumerate(roles)}
    rank = torch.tensor([RANK.get(role, -1) for role in roles]).repeat_interleave(count)
    label = torch.tensor([LABEL.get(role, 0) for role in roles]).repeat_interleave(count)
    return Cases(number_P, rows, number_P.repeat(len(roles)), rank, label)


def _whole(value_XA: Tensor) -> Tensor:
    return value_XA.sum(1, keepdim=True).expand_as(value_XA)


_EXTRAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "entropy": lambda own, ref: _whole(-own.exp() * own),
    "ref_entropy": lambda own, ref: _whole(-ref.exp() * ref),
    "square_sum": lambda own, ref: _whole((2 * own).exp()),
    "ref_square_sum": lambda own, ref: _whole((2 * ref).exp()),
    "kl_ref_policy": lambda own, ref: _whole(ref.exp() * (ref - own)),
    "kl_policy_ref": lambda own, ref: _whole(own.exp() * (own - ref)),
}


def _extra(name: str, logp_XA: Tensor, reference_XA: Tensor) -> Tensor:
    kind, _, amount = name.partition("@")
    if kind == "tilted":
        return ((1 + float(amount)) * logp_XA - float(amount) * reference_XA).log_softmax(1)
    if name not in _EXTRAS:
        raise CapabilityError(f"a policy over actions has no `{name}`; {nearest(name, _EXTRAS)}")
    return _EXTRAS[name](logp_XA, reference_XA)
