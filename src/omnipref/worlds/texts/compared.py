"""Objectives on a small transformer: preferences are its own judged samples, the true reward is that of new ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import nn

from omnipref.build import judge, sample
from omnipref.objectives import Objective, reduce_loss
from omnipref.policies.autoregressive.load import build_policy, load_model, load_owner
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.policies.reference import frozen_copy
from omnipref.policies.sampling import LocalSampler
from omnipref.preferences import Case, Preference, to_pairs
from omnipref.rewards.reward import Reward, RewardTerm
from omnipref.training.data import check_needs, narrowed
from omnipref.worlds.comparable import Measured
from omnipref.worlds.texts import tasks
from omnipref.worlds.texts.base import base_folder
from omnipref.worlds.texts.tasks import Task, prompts

RECORDS, SAMPLES, TESTS, LONGEST, BATCH = 128, 5, 256, 24, 16
JUDGE_NOISE = 0.5


@dataclass(frozen=True)
class TextWorld:
    """One draw: prompts, five samples of the base model for each, and scores that are the true reward with noise.

    Args:
        make: the function that gives the task.
        seed: of prompts, samples and noise.
        rate: learning rate of AdamW.
    """

    make: Callable[[], Task]
    seed: int
    rate: float = 1e-4

    @property
    def roles(self) -> frozenset[str]:
        """Pairs (`chosen`, `rejected`), and a best sample as `completion`; lists where an objective reads them."""
        return frozenset({"chosen", "rejected", "completion"})

    @property
    def points(self) -> int:
        """Every measurement samples answers to 256 prompts."""
        return 10

    @property
    def steps(self) -> int:
        """Twelve times through the records."""
        return 100

    @cached_property
    def task(self) -> Task:
        """What is asked and judged."""
        return self.make()

    @cached_property
    def asked(self) -> Sequence[str]:
        """The prompts that are trained on, and after them those that are not."""
        return prompts(self.task, RECORDS + TESTS, self.seed)

    @cached_property
    def start(self) -> tuple[Any, Any]:
        """The base model and its tokenizer."""
        folder = str(base_folder(self.make))
        return load_model(folder), load_owner(folder)

    @cached_property
    def policy(self) -> AutoregressivePolicy:
        """Scores copies of the base model, too: they take its attention along."""
        return build_policy(*self.start)

    @cached_property
    def lists(self) -> Sequence[Preference]:
        """The base model's distinct samples for each prompt, ranked by noisy scores."""
        model, owner = self.start
        asked = [_prompt(text, number) for number, text in enumerate(self.asked[:RECORDS])]
        draws = LocalSampler(model, owner, max_new_tokens=LONGEST, seed=self.seed, batch_size=640, progress=False)
        noise = Random(self.seed)

        def reward(cases: Sequence[Case]) -> list[float]:
            return [self.task.reward(case.context[-1].text, case.text) + noise.gauss(0, JUDGE_NOISE) for case in cases]

        ranked = (sample(draws, n=SAMPLES) >> judge(Reward((RewardTerm("true with noise", reward),))))(
            asked
        ).preferences
        return [each for each in ranked if len(each.cases) > 1]

    def walk(
        self, objective: Objective, seed: int, steps: int, rate: float, wanted: Collection[int]
    ) -> Iterator[Measured]:
        """AdamW on batches of 16 records in an order drawn from the seed; lists, or pairs of the best and the worst.

        Args:
            objective: what is minimised.
            seed: of the order.
            steps: updates.
            rate: of AdamW.
            wanted: updates after which new samples are drawn and judged.
        """
        policy, records = self.policy, self._records(objective)
        start, model = frozen_copy(self.start[0]), frozen_copy(self.start[0]).model.requires_grad_(True)
        encoded = [policy.encode(narrowed(each, objective.needs)) for each in records]
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
        state, order = objective.initial_state(), Random(seed)
        yield 0, self.measure(model, start.model)
        for number in range(1, steps + 1):
            batch = policy.collate(order.sample(encoded, min(BATCH, len(encoded))))
            reference = start if objective.needs.reference else None
            outcome = objective(policy.score(model, batch, extras=objective.needs.extras, reference=reference), state)
            state = outcome.state
            reduce_loss(outcome.loss_P, batch.cases).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if number in wanted:
                yield number, self.measure(model, start.model)

    def _records(self, objective: Objective) -> list[Preference]:
        needs = objective.needs
        if needs.lists or needs.groups:
            records = list(self.lists)
        else:
            records = [_with_completion(one) for each in self.lists for one in to_pairs(each, "best_vs_worst")]
        for each in records:
            check_needs(needs, each)
        return records

    @torch.no_grad()
    def measure(self, model: nn.Module, start: nn.Module) -> Mapping[str, float]:
        """Sample answers to prompts that were not trained on, and judge them.

        Gives `reward`, every aspect of the task, and `kl`, the mean log-ratio of the samples to the start, in nats.

        Args:
            model: what is sampled.
            start: where training began.
        """
        owner = self.start[1]
        asked = self.asked[RECORDS:]
        records = [_prompt(text, number) for number, text in enumerate(asked)]
        draws = LocalSampler(model, owner, max_new_tokens=LONGEST, seed=1, batch_size=TESTS, progress=False)
        answers = [texts[0] for texts in draws([next(iter(r.cases.values())).context for r in records], n=1)]
        judged = [self.task.judge(prompt, answer) for prompt, answer in zip(asked, answers, strict=True)]
        found = {aspect: sum(each[aspect] for each in judged) / len(judged) for aspect in judged[0]}
        rewards = [self.task.reward(prompt, answer) for prompt, answer in zip(asked, answers, strict=True)]
        return {
            "reward": sum(rewards) / len(rewards),
            **found,
            "kl": _divergence(model, start, self.policy, records, answers),
        }


def _prompt(text: str, number: int) -> Preference:
    return Preference({"completion": Case.raw(f"{text} ", "")}, record=number)


def _with_completion(pair: Preference) -> Preference:
    return replace(pair, cases={**pair.cases, "completion": pair.cases["chosen"]})


def _divergence(
    model: nn.Module,
    start: nn.Module,
    policy: AutoregressivePolicy,
    records: Sequence[Preference],
    answers: Sequence[str],
) -> float:
    said = [
        replace(record, cases={"completion": Case.raw(next(iter(record.cases.values())).context[-1].text, answer)})
        for record, answer in zip(records, answers, strict=True)
        if answer.strip()
    ]
    batch = policy.collate([policy.encode(each) for each in said])
    own, first = (torch.where(s.mask, s.logp, 0.0).sum(1) for s in (policy.score(m, batch) for m in (model, start)))
    return (own - first).mean().item()


def dialogue(seed: int) -> TextWorld:
    """Say what is true of two topics, briefly and politely.

    Args:
        seed: of prompts, samples and noise.
    """
    return TextWorld(tasks.dialogue, seed)


def arithmetic(seed: int) -> TextWorld:
    """Add five digits one by one.

    Args:
        seed: of prompts, samples and noise.
    """
    return TextWorld(tasks.arithmetic, seed)
