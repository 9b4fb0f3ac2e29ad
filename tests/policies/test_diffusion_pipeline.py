"""The diffusion policy on a Stable Diffusion 1.5 pipeline that real classes saved and loaded."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusion_factories import picture, picture_pairs, save_pipeline
from peft import LoraConfig, get_peft_model
from torch import Tensor

from omnipref.errors import CapabilityError, DataError
from omnipref.objectives import dpo
from omnipref.policies.diffusion import draw_all, generate, initial_noise, load_diffusion_policy
from omnipref.policies.reference import AdapterOff, frozen_copy
from omnipref.preferences import Part, pair

torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"), request.param)


def test_records_become_scores(folder: Path):
    unet, policy = load_diffusion_policy(folder)
    assert policy.codec.latent_shape == (4, 8, 8)
    batch = policy.collate([policy.encode(preference) for preference in picture_pairs(3)])
    scores = policy.score(unet, batch)
    assert scores.logp.shape == (6, 1)
    scores.logp.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters())
    assert not any(p.requires_grad for p in (*policy.codec.vae.parameters(), *policy.conditioner.encoder.parameters()))


def test_frozen_encoders_run_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    unet, policy = load_diffusion_policy(folder)
    data = [policy.encode(preference) for preference in picture_pairs(3)]
    first = policy.score(unet, policy.collate(data)).logp
    for frozen in (policy.codec.vae, policy.conditioner.encoder):
        monkeypatch.setattr(type(frozen), "forward", None)
        monkeypatch.setattr(frozen, "encode", None, raising=False)
    torch.testing.assert_close(policy.score(unet, policy.collate(data)).logp, first, rtol=0, atol=0)


def test_a_record_alone_scores_as_in_a_batch(folder: Path):
    unet, policy = load_diffusion_policy(folder, caption_dropout=0.5, timesteps_per_record=2)
    data = [policy.encode(preference) for preference in picture_pairs(3)]
    together = policy.score(unet, policy.collate(data), seed=2).logp
    _, fresh = load_diffusion_policy(folder, caption_dropout=0.5, timesteps_per_record=2)
    alone = torch.cat([fresh.score(unet, fresh.collate([one]), seed=2).logp for one in data])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-6)


def released_loss(
    unet: UNet2DConditionModel,
    reference: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    states: Tensor,
    beta: float,
) -> Tensor:
    """The loss of DiffusionDPO's train.py, written from the paper's card: winners first, then losers."""
    noisy = scheduler.add_noise(latents, noise, timesteps)
    velocity = scheduler.config["prediction_type"] == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    losses = (unet(noisy, timesteps, states).sample - target).pow(2).mean(dim=[1, 2, 3])
    model_w, model_l = losses.chunk(2)
    with torch.no_grad():
        losses = (reference(noisy, timesteps, states).sample - target).pow(2).mean(dim=[1, 2, 3])
        ref_w, ref_l = losses.chunk(2)
    scale = -0.5 * beta
    return -1 * F.logsigmoid(scale * ((model_w - model_l) - (ref_w - ref_l))).mean()


def test_parity_with_the_released_loss(folder: Path):
    unet, policy = load_diffusion_policy(folder)
    reference = frozen_copy(unet)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    batch = policy.collate([policy.encode(preference) for preference in picture_pairs(3)])
    ours = dpo(beta=100 / 2)(
        policy.score(unet, batch, seed=1).with_reference(policy.score(reference.model, batch, seed=1).logp)
    ).loss_P.mean()
    ours.backward()
    gradient = unet.conv_in.weight.grad.clone()
    unet.zero_grad()

    order = torch.cat([batch.cases.rows["chosen"], batch.cases.rows["rejected"]])
    draws = draw_all(batch.cases, (4, 8, 8), 1, torch.arange(1000), units=1, dropout=0.0, share_noise=True)
    latents = policy.codec.latents(batch.inputs["media"], batch.inputs["keys"])
    prompts = [batch.inputs["prompts"][i] for i in order.tolist()]
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    states = pipeline.encode_prompt(prompts, "cpu", 1, False)[0]
    inputs = (latents[order], draws.noise_NS[order, 0], draws.timestep_NS[order, 0], states.detach(), 100)
    theirs = released_loss(unet, reference.model, policy.scheduler, *inputs)
    theirs.backward()
    assert abs(theirs.item() - 0.6931) > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, unet.conv_in.weight.grad, rtol=1e-4, atol=1e-5)


def test_latents_are_the_vaes(folder: Path):
    """Encoded as by diffusers' own image processor and VAE, and sampled within the posterior."""
    _, policy = load_diffusion_policy(folder)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    image = picture(0, (16, 16))
    pixels = pipeline.image_processor.preprocess(image)
    posterior = pipeline.vae.encode(pixels).latent_dist
    loaded = policy.codec.load(Part("image", image)).unsqueeze(0)
    latent = policy.codec.latents(loaded, ["0123456789"]) / pipeline.vae.config.scaling_factor
    standard = (latent - posterior.mean) / posterior.std
    assert 0.7 < standard.std() < 1.3
    assert abs(standard.mean()) < 0.3
    torch.testing.assert_close(
        policy.codec.latents(loaded, ["0123456789"]) / pipeline.vae.config.scaling_factor, latent
    )


def test_lora_off_is_the_reference(folder: Path):
    unet, policy = load_diffusion_policy(folder)
    batch = policy.collate([policy.encode(preference) for preference in picture_pairs(2)])
    before = policy.score(unet, batch).logp.detach()
    lora = get_peft_model(unet, LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    scores = policy.score(lora, batch)
    assert (scores.logp - before).abs().max() > 1e-5
    with torch.no_grad(), AdapterOff()(lora) as reference:
        torch.testing.assert_close(policy.score(reference, batch).logp, before)
    dpo(beta=100.0)(scores.with_reference(before)).loss_P.sum().backward()
    trained = {name for name, p in lora.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


def test_half_precision_scores_in_float32(folder: Path):
    unet, policy = load_diffusion_policy(folder, dtype="bfloat16")
    scores = policy.score(unet, policy.collate([policy.encode(picture_pairs(1)[0])]))
    full_unet, full = load_diffusion_policy(folder)
    exact = full.score(full_unet, full.collate([full.encode(picture_pairs(1)[0])]))
    assert scores.logp.dtype == torch.float32
    torch.testing.assert_close(scores.logp, exact.logp, rtol=0.05, atol=0)


def test_samples_are_the_pipelines(folder: Path):
    unet, policy = load_diffusion_policy(folder)
    prompts = ["a red cube", "a big ball"]
    ours = generate(unet, policy, prompts, steps=4, guidance=3.0, seed=8)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(2, (4, 8, 8), 8)
    theirs = pipeline(prompts, num_inference_steps=4, guidance_scale=3.0, latents=noise, height=16, width=16).images
    for mine, other in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(mine, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


def test_a_long_prompt_is_cut_and_said(folder: Path, caplog: pytest.LogCaptureFixture):
    _, policy = load_diffusion_policy(folder)
    with caplog.at_level(logging.WARNING):
        states = policy.conditions(["a red cube " * 9], torch.device("cpu"))["encoder_hidden_states"]
    assert states.shape == (1, 8, 16)
    assert "cut to 8" in caplog.text


def test_bad_pictures_and_pipelines_are_refused(folder: Path, tmp_path: Path):
    _, policy = load_diffusion_policy(folder)
    broken = io.BytesIO()
    picture(0).save(broken, "PNG")
    record = pair(
        "a cube", Part("image", picture(1)), Part("image", broken.getvalue()[:60]), record=7, source="a.jsonl"
    )
    with pytest.raises(DataError, match=r"a\.jsonl, record 7, field `rejected\.response`"):
        policy.encode(record)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", "vae": ["a", "b"]}))
    with pytest.raises(CapabilityError, match="text_encoder"):
        load_diffusion_policy(tmp_path)
