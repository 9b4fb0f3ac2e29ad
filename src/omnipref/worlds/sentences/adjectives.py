"""Sentences of nouns and adjectives, of which only the adjectives are judged: what nouns do is drift.

A sentence is (noun, is, adjective) three times; `is` is certain and left out, which makes six units. The policy is a
table of two rows, one for nouns and one for adjectives. The sentence with more positive adjectives is preferred. A mask
is `ReLU(w·h + b)` on an embedding `h` of each of the two states, and knows nothing else of a unit.

20 nouns and 20 adjectives are as many as make DPO drift by 0.09 nats on its way to a probability of 0.8 of positive
adjectives, and by 0.27 in 400 updates; with 4 features masks without a norm grow to about 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from omnipref.objectives import parse_objective
from omnipref.scores import Scores
from omnipref.worlds.bandits.arms import plan_of
from omnipref.worlds.bandits.policies import Tabular, divergence, sample
from omnipref.worlds.sentences.tables import descend, pair_cases, score, value_at

WORDS, POSITIVE, TRIPLES, STATES, FEATURES, PAIRS = 20, 10, 3, 2, 4, 40
NOUN, ADJECTIVE = 0, 1
MASKS = ("mask", "divergence_mask")


@dataclass(frozen=True)
class Adjectives:
    """One draw of the world.

    Args:
        reference_RV: log-probabilities of nouns (row 0), which are uneven, and of adjectives (row 1), which are even;
            the first half of the adjectives is positive.
        state_RD: embedding of the two states, standard normal.
        word_NU: the sentences, chosen ones first.
    """

    reference_RV: Tensor
    state_RD: Tensor
    word_NU: Tensor

    def place(self, logp_RV: Tensor) -> tuple[float, float]:
        """Where a policy stands: its probability of a positive adjective, and how far its nouns have drifted, in nats.

        Args:
            logp_RV: its log-probabilities.
        """
        positive = logp_RV[ADJECTIVE, :POSITIVE].exp().sum().item()
        return positive, divergence(logp_RV[:ADJECTIVE], self.reference_RV[:ADJECTIVE])


def row_of_units(sentences: int) -> Tensor:
    """The row of the table of each unit, `[N, U]`: noun, adjective, noun, adjective ...

    Args:
        sentences: N.
    """
    return torch.tensor([NOUN, ADJECTIVE] * TRIPLES).expand(sentences, -1)


def draw_world(seed: int) -> Adjectives:
    """A world and its pairs of sentences of the reference; sentences that tie are drawn again.

    Args:
        seed: of everything.
    """
    draw = torch.Generator().manual_seed(seed)
    reference_RV = torch.zeros(STATES, WORDS, dtype=torch.float64)
    reference_RV[NOUN] = torch.randn(WORDS, generator=draw, dtype=torch.float64)
    reference_RV = reference_RV.log_softmax(1)
    state_RD = torch.randn(STATES, FEATURES, generator=draw, dtype=torch.float64)
    many = 10 * PAIRS
    row_NU = row_of_units(2 * many)
    word_2PU = sample(reference_RV, row_NU.flatten(), draw)[:, 0].reshape(2, many, -1)
    merit_2P = ((word_2PU < POSITIVE) & (row_NU[0] == ADJECTIVE)).sum(2)
    clear = (merit_2P[0] != merit_2P[1]).nonzero()[:PAIRS, 0]
    better_P = merit_2P[:, clear].argmax(0)
    chosen_PU, rejected_PU = word_2PU[better_P, clear], word_2PU[1 - better_P, clear]
    return Adjectives(reference_RV, state_RD, torch.cat([chosen_PU, rejected_PU]))


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        objective: as text; it may read the extras `mask` and `divergence_mask`, which are learned.
        shuffled: whether a mask sees, at each unit, a state drawn by a fair coin instead of the unit's own.
    """

    objective: str
    shuffled: bool = False


def mask_network(seed: int) -> nn.Linear:
    """`w·h + b`, with weights near 0 and a bias of 1, so that masks start near 1 and none is dead.

    Args:
        seed: of the weights.
    """
    network = nn.Linear(FEATURES, 1, dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.weight.copy_(0.02 * torch.randn(network.weight.shape, generator=draw))
        network.bias.fill_(1.0)
    return network


def batch(
    world: Adjectives, plan: Arm, policy: Tabular, masks: Mapping[str, nn.Linear], seed: int
) -> Callable[[], Scores]:
    """The scores of all pairs under the policy and masks as they are.

    Args:
        world: the pairs.
        plan: the arm.
        policy: what is trained.
        masks: network by the name of its extra.
        seed: of the coin.
    """
    sentences = len(world.word_NU)
    number_P, row_NU = torch.arange(sentences // 2), row_of_units(sentences)
    cases = pair_cases(number_P, number_P + sentences // 2, sentences)
    coin_NU = torch.randint(2, row_NU.shape, generator=torch.Generator().manual_seed(seed))
    state_NUD = world.state_RD[coin_NU if plan.shuffled else row_NU]

    def scored() -> Scores:
        logp_RV = policy()
        drift_R = (world.reference_RV.exp() * (world.reference_RV - logp_RV)).sum(1)
        extras = {name: torch.relu(network(state_NUD))[:, :, 0] for name, network in masks.items()}
        scores = score(logp_RV, world.reference_RV, row_NU, world.word_NU, cases)
        return replace(scores, extras={"kl_ref_policy": drift_R[row_NU], **extras})

    return scored


def run(
    arm: str,
    seed: int,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    steps: int = 400,
    rate: float = 0.01,
    level: float = 0.8,
) -> dict[str, float]:
    """Train one arm with Adam on the full batch, policy and masks together.

    `drift`, the divergence of nouns from the reference where positive adjectives first have the probability `level` (at
    the end, if they never have, and then `reached` is 0); `positive` and `final_drift`, both at the end;
    `noun_mask` and `adjective_mask`, the mask of each state at the end.

    Args:
        arm: one of `arms`.
        seed: of the world, the masks and the coin.
        arms: arm to the fields of `Arm`.
        steps: updates.
        rate: of Adam.
        level: the probability at which arms are compared.
    """
    plan, world = plan_of(Arm, arms, arm), draw_world(seed)
    policy = Tabular(world.reference_RV)
    masks = {name: mask_network(seed + number) for number, name in enumerate(MASKS)}
    trained = nn.ModuleList([policy, *masks.values()])
    optimizer = torch.optim.Adam(trained.parameters(), lr=rate)
    path = [world.place(world.reference_RV)]
    for _ in descend(parse_objective(plan.objective), batch(world, plan, policy, masks, seed), optimizer, steps):
        path.append(world.place(policy().detach()))
    noun, adjective = torch.relu(masks[MASKS[0]](world.state_RD))[:, 0].tolist()
    ends = {"positive": path[-1][0], "final_drift": path[-1][1], "noun_mask": noun, "adjective_mask": adjective}
    reached = float(max(positive for positive, _ in path) >= level)
    return {"drift": value_at(path, level), "reached": reached, **ends}
