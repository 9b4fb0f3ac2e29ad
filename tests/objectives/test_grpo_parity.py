"""TRL's GRPO and RLOO trainers, on completions that they sampled themselves, give the same losses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from torch import Tensor

from omnipref.objectives import Objective, grpo
from omnipref.scores import Cases, Scores

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
pytest.importorskip("trl", reason="the peer to compare with is in the extra `bench`")
# TRL's and its dependencies' own warnings are theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS = ["Describe the picture. ", "What is one plus one? "]
GROUP, LONGEST = 4, 12
CLOSE = {"rel": 2e-4, "abs": 1e-6}


def letters(completions: list[str], **_: Any) -> list[float]:
    """A reward that sampled gibberish differs in."""
    return [float(sum(letter in "aeiou" for letter in text)) for text in completions]


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": GROUP * len(PROMPTS),
        "num_generations": GROUP,
        "max_completion_length": LONGEST,
        "beta": 0.04,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": True,
        "seed": 3,
    }


def trained(make: Callable[..., Any], config: Callable[..., Any], folder: Path) -> Any:
    """A trainer whose model and reference differ."""
    from datasets import Dataset

    model, tokenizer = factories.llama(seed=1)
    # The trainers load their reference by the model's name.
    model.config._name_or_path = str(factories.save(*factories.llama(seed=2), folder / "reference"))
    data = Dataset.from_dict({"prompt": PROMPTS})
    return make(model, letters, args=config(**settings(folder)), train_dataset=data, processing_class=tokenizer)


@pytest.fixture(scope="module")
def grpo_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    return trained(GRPOTrainer, GRPOConfig, tmp_path_factory.mktemp("grpo"))


@pytest.fixture(scope="module")
def rloo_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl import RLOOConfig, RLOOTrainer

    return trained(RLOOTrainer, RLOOConfig, tmp_path_factory.mktemp("rloo"))


def sampled(trainer: Any, lengths: list[int] | None = None) -> dict[str, Any]:
    """Completions, their rewards and advantages, cut to lengths that differ; all are of the longest otherwise."""
    torch.manual_seed(5)
    trainer.model.load_state_dict(factories.llama(seed=1)[0].state_dict())
    trainer.model.eval()
    batch = trainer._generate_and_score_completions([{"prompt": text} for text in PROMPTS for _ in range(GROUP)])
    texts = trainer.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    batch["rewards"] = torch.tensor(letters(texts))
    if lengths:
        batch["completion_mask"] = (torch.arange(LONGEST) < torch.tensor(lengths)[:, None]).long()
        batch["num_items_in_batch"] = batch["completion_mask"].sum()
    return batch


@torch.no_grad()
def token_logps(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """By a plain forward pass, `[N, U]`."""
    ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -LONGEST - 1 : -1]
    return logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]


def scores_of(trainer: Any, batch: dict[str, Any], drawn: Tensor) -> Scores:
    count = len(PROMPTS)
    owner, nothing = torch.arange(count).repeat_interleave(GROUP), torch.zeros(count * GROUP, dtype=torch.long)
    cases = Cases(torch.arange(count), {}, owner, nothing - 1, nothing, {"score": batch["rewards"]})
    logp, ref = token_logps(trainer.model, batch), token_logps(trainer.ref_model, batch)
    return Scores(logp, batch["completion_mask"].bool(), cases, ref, extras={"drawn": drawn})


def moved(model: torch.nn.Module) -> None:
    """Away from where the completions were sampled, so that some ratios are out of bounds."""
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))


SEQUENCE = {"importance_sampling_level": "sequence"}
NEUTRAL: dict[str, Any] = {
    "importance_sampling_level": "token",
    "scale_rewards": "group",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
}
NEUTRAL |= {"beta": 0.04, "corrected": True}
THEIRS: list[tuple[str, dict[str, Any], Objective]] = [
    ("grpo", {}, grpo(old="drawn")),
    ("grpo", {"corrected": False}, grpo(penalty="loss", old="drawn")),
    ("grpo", {"beta": 0.0}, grpo(beta=0, old="drawn")),
    ("grpo", {"epsilon_low": 0.02, "epsilon_high": 0.1}, grpo(clip=0.02, clip_high=0.1, old="drawn")),
    ("grpo", {"scale_rewards": "batch"}, grpo(advantage="batch", old="drawn")),
    ("bnpo", {}, grpo(normalise="batch", old="drawn")),
    ("dapo", {"epsilon_high": 0.28, "beta": 0.0}, grpo(clip_high=0.28, normalise="batch", beta=0, old="drawn")),
    (
        "dr_grpo",
        {"scale_rewards": "none"},
        (1 / LONGEST) * grpo(advantage="centred", normalise="total", old="drawn"),
    ),
    ("cispo", {"epsilon_high": 1.05}, grpo(clip_high=0.05, surrogate="weighted", normalise="batch", old="drawn")),
    (
        "grpo",
        {**SEQUENCE, "epsilon_low": 0.02, "epsilon_high": 0.03},
        grpo(ratio="mean", clip=0.02, clip_high=0.03, old="drawn"),
    ),
    ("luspo", SEQUENCE, grpo(ratio="mean", normalise="total", old="drawn")),
]


def their_gradient(trainer: Any, batch: dict[str, Any]) -> tuple[float, Tensor]:
    """The loss, and its gradient in the weights of the head."""
    loss = trainer._compute_loss(trainer.model, batch)
    (slope,) = torch.autograd.grad(loss, trainer.model.lm_head.weight)
    return loss.item(), slope


def our_gradient(trainer: Any, batch: dict[str, Any], scores: Scores, objective: Objective) -> tuple[float, Tensor]:
    logp = scores.logp.clone().requires_grad_()
    loss = objective(replace(scores, logp=logp)).loss_P.mean()
    (slope,) = torch.autograd.grad(loss, logp)
    found = token_logps.__wrapped__(trainer.model, batch)
    (weights,) = torch.autograd.grad((found * slope).sum(), trainer.model.lm_head.weight)
    return loss.item(), weights


@pytest.mark.parametrize(("name", "changes", "objective"), THEIRS, ids=lambda value: str(value))
def test_losses_and_gradients(
    grpo_trainer: Any, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any], objective: Objective
):
    changes = {"loss_type": name, **NEUTRAL, **changes}
    monkeypatch.setattr(grpo_trainer.args, "use_bias_correction_kl", changes.pop("corrected"))
    for setting, value in changes.items():
        monkeypatch.setattr(grpo_trainer, setting, value)
    batch = sampled(grpo_trainer, [12, 3, 7, 5, 9, 12, 1, 6])
    drawn = token_logps(grpo_trainer.model, batch)
    moved(grpo_trainer.model)
    scores = scores_of(grpo_trainer, batch, drawn)
    theirs, their_slope = their_gradient(grpo_trainer, {**batch, "old_per_token_logps": drawn})
    ours, our_slope = our_gradient(grpo_trainer, batch, scores, objective)
    assert ours == pytest.approx(theirs, **CLOSE)
    torch.testing.assert_close(our_slope, their_slope, rtol=1e-3, atol=1e-6)
    term = objective.terms[0].name
    assert 0 < objective(scores).metrics[f"{term}/outside"] < 1  # bounds that do nothing would compare nothing


def test_on_policy(grpo_trainer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grpo_trainer, "loss_type", "grpo")
    batch = sampled(grpo_trainer, [12, 3, 7, 5, 9, 12, 1, 6])
    scores = scores_of(grpo_trainer, batch, torch.zeros(()))
    theirs, their_slope = their_gradient(grpo_trainer, batch)
    ours, our_slope = our_gradient(grpo_trainer, batch, scores, grpo())
    assert ours == pytest.approx(theirs, **CLOSE)
    torch.testing.assert_close(our_slope, their_slope, rtol=1e-3, atol=1e-6)


def test_leave_one_out(rloo_trainer: Any):
    batch = sampled(rloo_trainer)
    drawn = token_logps(rloo_trainer.model, batch)
    moved(rloo_trainer.model)
    scores = scores_of(rloo_trainer, batch, drawn)
    objective = grpo(beta=0.04, advantage="leave_one_out", ratio="total", penalty="reward", old="drawn")
    theirs, their_slope = their_gradient(rloo_trainer, batch)
    ours, our_slope = our_gradient(rloo_trainer, batch, scores, objective)
    assert ours == pytest.approx(theirs, **CLOSE)
    torch.testing.assert_close(our_slope, their_slope, rtol=1e-3, atol=1e-6)
