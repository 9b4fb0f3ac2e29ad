"""The same objective object trains a language model, a vision-language model and a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import factories
import pytest
import torch
from diffusion_factories import picture_pairs, save_pipeline

from omnipref.objectives import Objective, constructors, reduce_loss
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.diffusion import load_diffusion_policy
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import Comparison, Message, Part, Preference, pair

SEED = 5


def _with_mismatched(preferences: list[Preference]) -> list[Preference]:
    """Each record with another record's chosen response, as KTO's baseline wants it."""
    others = preferences[1:] + preferences[:1]
    return [
        one.with_case("mismatched", type(case)(case.context, other.cases["chosen"].response))
        for one, other in zip(preferences, others, strict=True)
        for case in [one.cases["chosen"]]
    ]


def language() -> tuple[Any, Any, list[Preference]]:
    model, owner = factories.llama()
    return model, build_policy(model, owner), [pair(f"What is {i}? ", f"two {i}", "a fork", record=i) for i in range(4)]


def vision_language() -> tuple[Any, Any, list[Preference]]:
    model, owner = factories.llava()
    contexts = [(Message.of("user", Part("image", factories.picture(i)), "Describe."),) for i in range(3)]
    data = [pair(context, "a red cube", "a blue ball", record=i) for i, context in enumerate(contexts)]
    return model, build_policy(model, owner), data


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> dict[str, Callable[[], tuple[Any, Any, list[Preference]]]]:
    folder = save_pipeline(tmp_path_factory.mktemp("pipeline"), "epsilon")

    def diffusion() -> tuple[Any, Any, list[Preference]]:
        unet, policy = load_diffusion_policy(folder)
        return unet, policy, picture_pairs(3)

    return {"language": language, "vision-language": vision_language, "diffusion": diffusion}


@pytest.mark.parametrize("kind", ["language", "vision-language", "diffusion"])
@pytest.mark.parametrize("name", constructors())
def test_a_step_against_the_gradient_lowers_the_loss(name: str, kind: str, policies):
    objective: Objective = constructors()[name]()
    model, policy, preferences = policies[kind]()
    batch = policy.collate([policy.encode(preference) for preference in _with_mismatched(preferences)])
    reference = frozen_copy(model)
    with torch.no_grad():
        # Away from the reference, where some objectives have no gradient.
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))

    def loss() -> torch.Tensor:
        with torch.no_grad(), reference(model) as frozen:
            ref_logp = policy.score(frozen, batch, seed=SEED).logp
        scores = policy.score(model, batch, seed=SEED).with_reference(ref_logp)
        return reduce_loss(objective(scores).loss_P, scores.cases)

    before = loss()
    start = before.detach()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(before, parameters, allow_unused=True)
    norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    assert torch.isfinite(start) and norm > 0
    step = 1e-2 / norm
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(step * gradient)
    fall = float(start - loss().detach())
    # To first order the loss falls by step * norm^2.
    assert fall == pytest.approx(float(step * norm**2), rel=0.3)


def test_comparisons_of_the_helper_are_those_of_a_pair():
    assert _with_mismatched(language()[2])[0].comparisons == (Comparison("chosen", "rejected"),)
