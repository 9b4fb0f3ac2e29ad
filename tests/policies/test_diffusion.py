"""The diffusion policy on the denoising world: the card's numbers, what is shared, what does not matter."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from objectives.examples import with_columns
from torch import Tensor, nn

from omnipref.errors import CapabilityError, ConfigError, DataError
from omnipref.objectives import constructors, dpo, reduce_loss
from omnipref.policies.diffusion import DiffusionPolicy, Draws, Noising, TensorCache, draw_all, generate_latents
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import Case, Comparison, Message, Part, Preference, pair, ranked
from omnipref.scores import Cases, Scores, pair_scores
from omnipref.worlds.denoising import PROMPTS, VectorCodec, build_model, build_policy

torch.set_num_threads(1)


def vector(seed: int) -> Part:
    return Part("vector", torch.randn(8, generator=torch.Generator().manual_seed(seed)))


def records(n: int = 3) -> list[Preference]:
    return [pair(PROMPTS[i % 6], vector(2 * i), vector(2 * i + 1), record=5 + i) for i in range(n)]


def score(policy: DiffusionPolicy, model: nn.Module, preferences: list[Preference], seed: int = 0) -> Scores:
    return policy.score(model, policy.collate([policy.encode(preference) for preference in preferences]), seed=seed)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(0).eval()


@pytest.fixture(scope="module")
def other() -> nn.Module:
    return build_model(1).eval()


class Predicts(nn.Module):
    """A model that answers with given predictions, to check numbers written by hand."""

    def __init__(self, prediction: Tensor):
        super().__init__()
        self.prediction = nn.Parameter(prediction)

    def forward(self, noisy: Tensor, timestep: Tensor) -> SimpleNamespace:
        del noisy, timestep
        return SimpleNamespace(sample=self.prediction)


# --- the card's numbers


def test_example_1_of_the_card():
    values = [torch.tensor([-x], dtype=torch.float64) for x in (0.1000, 0.1200, 0.1004, 0.1197)]
    chosen = values[0].requires_grad_()
    outcome = dpo(beta=2000 / 2)(pair_scores(chosen, *values[1:]))
    outcome.loss_P.sum().backward()
    torch.testing.assert_close(outcome.loss_P.item(), 0.403186, atol=1e-5, rtol=0)
    assert chosen.grad is not None
    torch.testing.assert_close(-chosen.grad.item(), 331.812228, atol=2e-2, rtol=0)


def test_example_2_of_the_card_through_the_policy(monkeypatch: pytest.MonkeyPatch):
    noise = torch.tensor([1, -1, 0.5, 0])
    predictions = {
        "policy": torch.tensor([[0.9, -0.8, 0.5, 0.1], [0.7, -0.6, 0.4, 0.2]]),
        "reference": torch.tensor([[0.8, -0.9, 0.6, 0], [0.9, -0.9, 0.5, 0.1]]),
    }
    given = Draws(
        torch.full((2, 1), 500), noise.expand(2, 1, 4).reshape(2, 1, 4, 1, 1), torch.zeros(2, dtype=torch.bool)
    )
    monkeypatch.setattr("omnipref.policies.diffusion.policy.draw_all", lambda *_, **__: given)
    policy = DiffusionPolicy(DDPMScheduler(), VectorCodec(latent_shape=(4, 1, 1)))
    preference = pair("", Part("vector", torch.randn(4)), Part("vector", torch.randn(4)))
    both = {
        name: score(policy, Predicts(value.reshape(2, 4, 1, 1)), [preference]) for name, value in predictions.items()
    }
    torch.testing.assert_close(both["policy"].logp.flatten(), torch.tensor([-0.015, -0.075]))
    torch.testing.assert_close(both["reference"].logp.flatten(), torch.tensor([-0.015, -0.0075]))
    loss = dpo(beta=50)(both["policy"].with_reference(both["reference"].logp)).loss_P
    torch.testing.assert_close(loss.item(), 0.033646, atol=1e-6, rtol=0)


def test_the_mean_is_taken_outside_the_logarithm():
    zero = torch.zeros(2)
    scores = pair_scores(torch.tensor([0.7, -1.5]), zero, zero, zero)
    loss = reduce_loss(dpo(beta=1.0)(scores).loss_P, scores.cases)
    torch.testing.assert_close(loss.item(), 1.052300, atol=1e-5, rtol=0)


def test_starts_at_log_2_and_learns(model: nn.Module):
    scores = score(build_policy(), model, records())
    outcome = dpo(beta=250.0)(scores.with_reference(scores.logp))
    torch.testing.assert_close(outcome.loss_P, torch.full((3,), 2.0).log())
    (grad,) = torch.autograd.grad(outcome.loss_P.mean(), [next(model.parameters())])
    assert grad.abs().sum() > 0


def test_swapping_flips_the_margin(model: nn.Module, other: nn.Module):
    policy = build_policy()
    straight = records()
    swapped = [replace(p, cases={"chosen": p.cases["rejected"], "rejected": p.cases["chosen"]}) for p in straight]
    losses = []
    for data in (straight, swapped):
        scores = score(policy, model, data)
        losses.append(dpo(beta=2.0)(scores.with_reference(score(policy, other, data).logp)).loss_P)
    scores = score(policy, model, straight)
    rho = scores.logp.sum(1) - score(policy, other, straight).logp.sum(1)
    inside = 2.0 * (scores.at("chosen", rho) - scores.at("rejected", rho))
    torch.testing.assert_close(losses[0] - losses[1], -inside, atol=1e-6, rtol=1e-5)


def test_equal_images_give_no_gradient(model: nn.Module, other: nn.Module):
    policy = build_policy(timesteps_per_record=2)
    same = [pair(PROMPTS[0], vector(3), vector(3))]
    scores = score(policy, model, same)
    loss = dpo(beta=100.0)(scores.with_reference(score(policy, other, same).logp)).loss_P.sum()
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in grads if g is not None) < 1e-5


# --- what is shared, and what does not matter


def test_cases_of_a_record_share_timestep_noise_and_dropout():
    policy = build_policy()
    cases = policy.collate([policy.encode(ranked(PROMPTS[0], [vector(i) for i in range(4)], record=9))]).cases
    draws = draw_all(cases, (8, 1, 1), 3, torch.arange(1000), units=5, dropout=0.5, share_noise=True)
    for value in (draws.timestep_NS, draws.noise_NS, draws.uncaptioned_N):
        assert (value == value[:1]).all()
    assert len(draws.timestep_NS[0].unique()) > 1
    apart = draw_all(cases, (8, 1, 1), 3, torch.arange(1000), units=5, dropout=0.5, share_noise=False)
    assert (apart.timestep_NS == draws.timestep_NS).all()
    assert len(apart.noise_NS.flatten(1).unique(dim=0)) == 4


def test_policy_and_reference_see_the_same(model: nn.Module):
    policy = build_policy(caption_dropout=0.5)
    with frozen_copy(model)(model) as reference:
        torch.testing.assert_close(
            score(policy, model, records(), seed=4).logp,
            score(policy, reference, records(), seed=4).logp,
            rtol=0,
            atol=0,
        )


def test_batch_layout_does_not_matter(model: nn.Module):
    policy = build_policy(timesteps_per_record=3, caption_dropout=0.3)
    data = records(5)
    together = score(policy, model, data, seed=1).logp
    alone = torch.cat([score(policy, model, [one], seed=1).logp for one in data])
    reverse = torch.cat([score(policy, model, data[::-1], seed=1).logp[2 * i : 2 * i + 2] for i in range(4, -1, -1)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)
    torch.testing.assert_close(reverse, together, atol=1e-6, rtol=0)


def test_seeds_and_records_draw_apart():
    policy = build_policy()
    cases = policy.collate([policy.encode(one) for one in records(40)]).cases
    draw = {"units": 1, "dropout": 0.0, "share_noise": True}
    first, second = (draw_all(cases, (8, 1, 1), seed, torch.arange(1000), **draw).timestep_NS[::2] for seed in (0, 1))
    assert len(first.unique()) > 30
    assert (first == second).float().mean() < 0.1


def test_draws_are_uniform_normal_and_as_often_uncaptioned_as_asked():
    n = 2000
    number = torch.arange(n)
    cases = Cases(number, {"completion": number}, number, number, number)
    draws = draw_all(cases, (8,), 0, torch.tensor([7, 9]), units=1, dropout=0.2, share_noise=True)
    assert set(draws.timestep_NS.unique().tolist()) == {7, 9}
    assert abs((draws.timestep_NS == 7).float().mean() - 0.5) < 0.04
    assert abs(draws.uncaptioned_N.float().mean() - 0.2) < 0.03
    assert abs(draws.noise_NS.mean()) < 0.03
    assert abs(draws.noise_NS.std() - 1) < 0.03


def test_dropped_captions_are_the_empty_caption(model: nn.Module):
    dropped = score(build_policy(caption_dropout=1.0), model, records())
    empty = score(build_policy(), model, [pair("", vector(2 * i), vector(2 * i + 1), record=5 + i) for i in range(3)])
    torch.testing.assert_close(dropped.logp, empty.logp)
    assert (dropped.logp - score(build_policy(), model, records()).logp).abs().max() > 1e-5


def test_weights_multiply_the_errors(model: nn.Module):
    plain = score(build_policy(timesteps=(100, 700)), model, records())
    weighted = score(build_policy(timesteps=(100, 700), weight=lambda t: t / 100), model, records())
    ratio = (weighted.logp / plain.logp).flatten().round()
    assert set(ratio.tolist()) <= {1.0, 7.0}
    torch.testing.assert_close(weighted.logp, plain.logp * ratio.unsqueeze(1))


def test_units_are_the_timesteps_of_a_record(model: nn.Module):
    scores = score(build_policy(timesteps_per_record=4), model, records())
    assert scores.logp.shape == (6, 4)
    assert scores.mask.all()
    assert (scores.logp < 0).all()


# --- prediction types


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
def test_noising_is_the_schedulers(scheduler: Any):
    schedule = scheduler(prediction_type="v_prediction", beta_schedule="scaled_linear")
    x0, noise, t = torch.randn(4, 3, 2, 2), torch.randn(4, 1, 3, 2, 2), torch.tensor([[0], [10], [500], [999]])
    noisy, target = Noising(schedule)(x0, Draws(t, noise, torch.zeros(4, dtype=torch.bool)))
    torch.testing.assert_close(noisy[:, 0], schedule.add_noise(x0, noise[:, 0], t[:, 0]))
    torch.testing.assert_close(target[:, 0], schedule.get_velocity(x0, noise[:, 0], t[:, 0]))


def test_prediction_types_measure_one_error():
    """A perfect model has no error in any type, and one wrong by δ in x0 errs by the factor of that type."""
    x0, noise = torch.randn(2, 8, 1, 1, dtype=torch.float64), torch.randn(2, 1, 8, 1, 1, dtype=torch.float64)
    draws = Draws(torch.tensor([[200], [800]]), noise, torch.zeros(2, dtype=torch.bool))
    guess = x0 + 0.1 * torch.randn_like(x0)
    alpha = DDPMScheduler().alphas_cumprod.double()[draws.timestep_NS].reshape(2, 1, 1, 1)
    errors = {}
    for kind in ("epsilon", "v_prediction", "sample"):
        noisy, target = Noising(DDPMScheduler(prediction_type=kind))(x0, draws)
        implied = (noisy[:, 0] - alpha.sqrt() * guess) / (1 - alpha).sqrt()
        answers = {
            "epsilon": implied,
            "v_prediction": alpha.sqrt() * implied - (1 - alpha).sqrt() * guess,
            "sample": guess,
        }
        errors[kind] = (answers[kind] - target[:, 0]).square().flatten(1).mean(1)
    signal, noise_share = alpha.flatten(), 1 - alpha.flatten()
    torch.testing.assert_close(errors["epsilon"], errors["sample"] * signal / noise_share, rtol=1e-4, atol=0)
    torch.testing.assert_close(errors["v_prediction"], errors["sample"] / noise_share, rtol=1e-4, atol=0)


# --- any objective, any denoiser


def both_kinds_of_record(i: int) -> Preference:
    """A record with every role and column that a default objective asks for."""
    prompt = PROMPTS[i % 6]
    more = ("mismatched", "completion", "reference_sample", "sample_0", "sample_1")
    more += ("rationale", "chosen@instructed", "rejected@instructed")
    cases = {role: Case.raw(prompt, vector(7 * i + k)) for k, role in enumerate(("chosen", "rejected", *more))}
    return with_columns([Preference(cases, (Comparison("chosen", "rejected"),), record=i)])[0]


WITH_EXTRAS = {name for name, make in constructors().items() if make().needs.extras}


@pytest.mark.parametrize("name", sorted(WITH_EXTRAS))
def test_an_objective_over_a_vocabulary_is_refused(name: str, model: nn.Module):
    policy = build_policy()
    batch = policy.collate([policy.encode(both_kinds_of_record(0))])
    extras = constructors()[name]().needs.extras
    with pytest.raises(CapabilityError, match=rf"`{sorted(extras)[0]}`.*a distribution over a vocabulary"):
        policy.score(model, batch, extras=extras)


@pytest.mark.parametrize("name", sorted(set(constructors()) - WITH_EXTRAS))
def test_every_objective_trains_a_denoiser(name: str, model: nn.Module, other: nn.Module):
    objective = constructors()[name]()
    policy = build_policy()
    data = [both_kinds_of_record(i) for i in range(3)]
    scores = score(policy, model, data)
    outcome = objective(scores.with_reference(score(policy, other, data).logp))
    assert outcome.loss_P.shape == (3,)
    assert outcome.loss_P.isfinite().all()
    parameters = list(model.parameters())
    grads = [g for g in torch.autograd.grad(outcome.loss_P.mean(), parameters, allow_unused=True) if g is not None]
    assert all(g.isfinite().all() for g in grads)
    assert sum(float(g.abs().sum()) for g in grads) > 0


def test_a_denoiser_without_prompts():
    unet = UNet2DModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    )
    policy = DiffusionPolicy(DDPMScheduler(), VectorCodec(latent_shape=(2, 4, 4)))
    data = [pair("", Part("vector", torch.randn(32)), Part("vector", torch.randn(32)))]
    assert score(policy, unet, data).logp.isfinite().all()
    assert generate_latents(unet, policy, ["", ""], steps=2).shape == (2, 2, 4, 4)


def test_samples_do_not_depend_on_the_batch(model: nn.Module):
    policy = build_policy()
    whole = generate_latents(model, policy, PROMPTS, steps=3, guidance=2.0, seed=5)
    parts = generate_latents(model, policy, PROMPTS, steps=3, guidance=2.0, seed=5, batch_size=4)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert (generate_latents(model, policy, PROMPTS, steps=3, seed=6) - whole).abs().max() > 0.1


# --- bad input


def test_bad_records_are_named():
    policy = build_policy()
    turns = (Message.of("user", "red"), Message.of("assistant", "blue"))
    bad = {
        "chosen.response": pair("small red", "text", vector(0), record=4),
        "chosen.context": pair(turns, vector(0), vector(1), record=4),
    }
    bad["rejected.response"] = Preference(
        {"chosen": Case.raw("", vector(0)), "rejected": Case((), (Message("raw", (vector(0), vector(1))),))}, record=4
    )
    for field, preference in bad.items():
        with pytest.raises(DataError) as caught:
            policy.encode(preference)
        assert (caught.value.record, caught.value.field) == (4, field)
    picture = Preference(
        {"chosen": Case((Message("raw", (Part("image", "a.png"),)),), (Message("raw", (vector(0),)),))}
    )
    with pytest.raises(DataError, match="editing"):
        policy.encode(picture)


def test_refusals(model: nn.Module):
    with pytest.raises(CapabilityError, match="alphas_cumprod"):
        Noising(FlowMatchEulerDiscreteScheduler())
    with pytest.raises(CapabilityError, match="epsilon"):
        Noising(SimpleNamespace(alphas_cumprod=torch.ones(3), config=SimpleNamespace(prediction_type="epsilno")))
    with pytest.raises(ConfigError, match="1000"):
        score(build_policy(timesteps=(5, 1000)), model, records())
    policy = build_policy()
    with pytest.raises(CapabilityError, match="entropy"):
        policy.score(model, policy.collate([policy.encode(records(1)[0])]), extras=frozenset({"entropy"}))


def test_the_cache_keeps_within_its_capacity():
    calls: list[list[str]] = []
    cache = TensorCache(capacity=2 * 4 * 8)

    def look_up(keys: list[str]) -> Tensor:
        def compute(new: list[int]) -> Tensor:
            calls.append([keys[i] for i in new])
            return torch.stack([torch.full((8,), float(ord(keys[i]))) for i in new])

        return cache.gather(keys, compute)

    assert look_up(["a", "b", "a"])[:, 0].tolist() == [97, 98, 97]
    look_up(["a"])
    look_up(["c"])
    assert len(cache) == 2
    look_up(["a", "b"])
    assert calls == [["a", "b"], ["c"], ["b"]]
