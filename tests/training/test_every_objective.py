"""The same objective object trains a language model, a vision-language model and a diffusion model, or says why not."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from diffusion_factories import picture, picture_pairs, save_pipeline
from objectives.examples import with_columns
from transformers import TrainingArguments

from omnipref.errors import CapabilityError
from omnipref.objectives import Objective, constructors, reduce_loss
from omnipref.objectives.objective import Needs
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.diffusion import load_diffusion_policy
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import Comparison, Message, Part, Preference, pair, ranked
from omnipref.training import PreferenceTrainer, prepare

SEED = 5
NO_VOCABULARY = "a distribution over a vocabulary; a denoiser predicts"
REFUSED = {
    ("tdpo1", "diffusion"): NO_VOCABULARY,
    ("tdpo2", "diffusion"): NO_VOCABULARY,
    ("wpo", "diffusion"): NO_VOCABULARY,
    ("mallows_dpo", "diffusion"): NO_VOCABULARY,
    ("mallows_ipo", "diffusion"): NO_VOCABULARY,
    ("epsilon_dpo", "diffusion"): NO_VOCABULARY,
    ("sparse_po", "diffusion"): NO_VOCABULARY,
}
"""Constructors that cannot run on a kind of policy, with the reason in the error; all others do."""

SURROGATES = {
    "nash_md": "its value means nothing",
    "grpo": "its value means nothing",
    "sampled_kl": "its gradient is that of an expectation over samples, not of its value",
    "beta_dpo": "a step changes which pairs are kept",
    "kto_pair": "its reference points are held constant",
    "wpo": "its weights are held constant",
    "dft": "its weights are held constant",
}
"""Objectives whose gradient is not the slope of their value, which a step therefore need not lower."""


def _complete(preferences: list[Preference]) -> list[Preference]:
    """Each record with every case and column that a default objective reads, from another record's responses."""
    made = []
    for one, other in zip(preferences, preferences[1:] + preferences[:1], strict=True):
        context, (first, second) = next(iter(one.cases.values())).context, list(other.cases.values())[:2]
        more = {"mismatched": first, "completion": second, "reference_sample": first, "sample_0": first}
        more |= {"sample_1": second, "rationale": first, "chosen@instructed": second, "rejected@instructed": first}
        cases = {role: type(case)(context, case.response) for role, case in more.items()}
        made.append(replace(one, cases={**one.cases, **cases}))
    return with_columns(made)


def language() -> tuple[Any, Any, list[Preference], list[Preference]]:
    model, owner = factories.llama()
    pairs = [pair(f"What is {i}? ", f"two {i}", "a fork", record=i) for i in range(4)]
    answers = ["two", "a red cube", "a fork", "no"]
    return model, build_policy(model, owner), pairs, [ranked("What? ", answers[: 4 - i], record=i) for i in range(3)]


def vision_language() -> tuple[Any, Any, list[Preference], list[Preference]]:
    model, owner = factories.llava()
    contexts = [(Message.of("user", Part("image", factories.picture(i)), "Describe."),) for i in range(3)]
    pairs = [pair(context, "a red cube", "a blue ball", record=i) for i, context in enumerate(contexts)]
    answers = ["a red cube", "a blue ball", "a fork", "no"]
    lists = [ranked(context, answers[: 4 - i], record=i) for i, context in enumerate(contexts)]
    return model, build_policy(model, owner), pairs, lists


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> dict[str, Callable[[], tuple[Any, Any, list[Preference], list[Preference]]]]:
    unet, policy = load_diffusion_policy(save_pipeline(tmp_path_factory.mktemp("pipeline"), "epsilon"))
    pictures = [Part("image", picture(k)) for k in range(4)]
    lists = [ranked("a cube", pictures[: 4 - i], record=i) for i in range(3)]

    def diffusion() -> tuple[Any, Any, list[Preference], list[Preference]]:
        return copy.deepcopy(unet), policy, picture_pairs(3), lists

    return {"language": language, "vision-language": vision_language, "diffusion": diffusion}


@pytest.fixture(scope="module", autouse=True)
def quick_collection():
    """Every trainer collects garbage; what the imports left need not be looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _data(needs: Needs, pairs: list[Preference], lists: list[Preference]) -> list[Preference]:
    """Lists of different lengths where lists are read; one tie where ties are understood."""
    if needs.lists:
        return with_columns(lists)
    if needs.ties and len(needs.roles) > 1:
        pairs = [replace(pairs[0], comparisons=(Comparison("chosen", "rejected", tie=True),)), *pairs[1:]]
    return _complete(pairs)


def _moved(model: torch.nn.Module) -> torch.nn.Module:
    """Away from the reference, where some objectives have no gradient."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def _trainer(name: str, kind: str, policies: Any, folder: Path) -> PreferenceTrainer:
    objective = constructors()[name]()
    model, policy, *data = policies[kind]()
    records = _data(objective.needs, *data)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=len(records),
        max_steps=1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=SEED,
    )
    reference = frozen_copy(model) if objective.needs.reference else None
    return PreferenceTrainer(
        model=_moved(model),
        args=arguments,
        policy=policy,
        objective=objective,
        reference=reference,
        train_dataset=prepare(policy, records, objective.needs, folder / "aside.jsonl", progress=False),
    )


@pytest.mark.parametrize("kind", ["language", "diffusion"])
@pytest.mark.parametrize("name", constructors())
def test_the_trainer_takes_a_step_or_says_why_not(name: str, kind: str, policies, tmp_path):
    trainer = _trainer(name, kind, policies, tmp_path)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    if (name, kind) in REFUSED:
        with pytest.raises(CapabilityError, match=REFUSED[name, kind]):
            trainer.train()
        return
    trainer.train()
    logged = trainer.state.log_history[0]
    assert torch.isfinite(torch.tensor([logged["loss"], logged[f"{name}/loss"]])).all()
    assert 0 < logged["grad_norm"] < float("inf")
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.objective_state.keys() == trainer.objective.initial_state().keys()
    assert not (tmp_path / "aside.jsonl").exists()


def test_what_is_refused_is_what_asks_for_a_vocabulary():
    asking = {name for name, make in constructors().items() if make().needs.extras}
    assert set(REFUSED) == {(name, "diffusion") for name in asking}


@pytest.mark.parametrize("kind", ["language", "vision-language", "diffusion"])
@pytest.mark.parametrize("name", [name for name in constructors() if name not in SURROGATES])
def test_a_step_against_the_gradient_lowers_the_loss(name: str, kind: str, policies):
    if (name, kind) in REFUSED:
        return  # refused, as the test above shows
    objective: Objective = constructors()[name]()
    model, policy, *data = policies[kind]()
    batch = policy.collate([policy.encode(preference) for preference in _data(objective.needs, *data)])
    reference = frozen_copy(model)
    _moved(model)

    def loss() -> torch.Tensor:
        scores = policy.score(model, batch, extras=objective.needs.extras, seed=SEED, reference=reference)
        return reduce_loss(objective(scores).loss_P, scores.cases)

    start = loss()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(start, parameters, allow_unused=True)
    norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    assert torch.isfinite(start) and norm > 0
    step, ends = 5e-3 / norm, []
    for move in (-step, 2 * step):
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(move * gradient)
            ends.append(loss())
    # From one step up to one step down the loss falls by 2 * step * norm^2, but for third order.
    assert float(ends[0] - ends[1]) == pytest.approx(float(2 * step * norm**2), rel=0.3)


def test_comparisons_of_the_helper_are_those_of_a_pair():
    assert _complete(language()[2])[0].comparisons == (Comparison("chosen", "rejected"),)
