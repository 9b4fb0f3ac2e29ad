"""TRL's own loss code on the same log-probabilities of tiny random Llamas gives the same losses and metrics.

DPO's and KTO's losses live inside the trainers, so the trainers are built and asked for the loss of one of their
batches; ORPO's and CPO's are methods that read two attributes of the trainer.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import factories
import pytest
import torch
from objectives.examples import likes, pairs, scored, with_mismatched
from torch import Tensor

from omnipref.objectives import (
    Objective,
    alphapo,
    aot,
    aot_unpaired,
    apo_down,
    apo_zero,
    bco,
    cpo,
    dft,
    discopop,
    dpo,
    exo_pair,
    f_dpo,
    hinge,
    ipo,
    kto,
    ld_dpo,
    log_likelihood,
    log_odds,
    mean,
    nca_pair,
    orpo,
    preference_metrics,
    robust_dpo,
    sft,
    simpo,
    slic,
    sppo,
    wpo,
)
from omnipref.policies.cases import align
from omnipref.scores import Scores, pair_scores

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
pytest.importorskip("trl", reason="the peer to compare with is in the extra `bench`")
# TRL's and its dependencies' own warnings are theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS = ["Describe the picture. ", "What is one plus one? ", "Human: hello, how are you? ", "yes or no? "]
GOOD = ["A red cube is left of a blue ball;", "The answer is two.", "I am fine, thank you.", "yes"]
BAD = ["no", "First add the numbers, then write the sum down. The answer is a tree.", "a fork", "no, a spoon"]
CLOSE = {"rel": 2e-5, "abs": 2e-6}


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": len(PROMPTS),
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": True,
        **changes,
    }


@pytest.fixture(scope="module")
def dpo_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = factories.llama(seed=1)
    data = Dataset.from_dict({"prompt": PROMPTS, "chosen": GOOD, "rejected": BAD})
    config = DPOConfig(**arguments(tmp_path_factory.mktemp("dpo")))
    return DPOTrainer(model, factories.llama(seed=2)[0], args=config, train_dataset=data, processing_class=tokenizer)


@pytest.fixture(scope="module")
def weighting_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = factories.llama(seed=1)
    data = Dataset.from_dict({"prompt": PROMPTS, "chosen": GOOD, "rejected": BAD})
    config = DPOConfig(**arguments(tmp_path_factory.mktemp("wpo"), use_weighting=True))
    return DPOTrainer(model, factories.llama(seed=2)[0], args=config, train_dataset=data, processing_class=tokenizer)


@pytest.fixture(scope="module")
def kto_trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    model, tokenizer = factories.llama(seed=2)
    data = Dataset.from_dict({"prompt": PROMPTS, "completion": GOOD, "label": [True, False, True, True]})
    config = KTOConfig(**arguments(tmp_path_factory.mktemp("kto")))
    return KTOTrainer(model, factories.llama(seed=1)[0], args=config, train_dataset=data, processing_class=tokenizer)


@torch.no_grad()
def token_logps(model: torch.nn.Module, batch: dict[str, Tensor], prefix: str = "") -> tuple[Tensor, Tensor]:
    """Log-probability of every token of the completions and their mask, `[N, U]`, by a plain forward pass."""
    ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"][:, 1:].bool()
    logits = model(input_ids=ids, attention_mask=batch[f"{prefix}attention_mask"]).logits[:, :-1]
    logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return logp * mask, mask


def first_batch(trainer: Any) -> dict[str, Tensor]:
    return next(iter(trainer.get_train_dataloader()))


def pair_batch(trainer: Any) -> tuple[dict[str, Tensor], Scores]:
    batch = first_batch(trainer)
    logp, mask = token_logps(trainer.model, batch)
    ref, _ = token_logps(trainer.ref_model, batch)
    return batch, pair_scores(*logp.chunk(2), *ref.chunk(2), *mask.chunk(2))


PAIRED: list[tuple[str, dict[str, Any], Objective]] = [
    ("sigmoid", {"beta": 0.1}, dpo(beta=0.1)),
    ("sigmoid", {"beta": 0.7}, dpo(beta=0.7)),
    ("sigmoid_norm", {"beta": 5.0}, dpo(beta=5.0, reduce="mean")),
    ("ipo", {"beta": 0.1}, ipo(beta=0.1)),
    ("hinge", {"beta": 0.05}, hinge(beta=0.05)),
    ("bco_pair", {"beta": 0.1}, bco(beta=0.1, shift=False)),
    ("aot", {"beta": 0.1}, aot(beta=0.1)),
    ("aot_unpaired", {"beta": 0.1}, aot_unpaired(beta=0.1)),
    ("aot", {"beta": 0.1, "label_smoothing": 0.2}, aot(beta=0.1, label_smoothing=0.2)),
    ("aot_unpaired", {"beta": 0.1, "label_smoothing": 0.2}, aot_unpaired(beta=0.1, label_smoothing=0.2)),
    ("robust", {"beta": 0.1, "label_smoothing": 0.2}, robust_dpo(beta=0.1, flip_rate=0.2)),
    ("exo_pair", {"beta": 0.1, "label_smoothing": 0.01}, exo_pair(beta=0.1, label_smoothing=0.01)),
    ("nca_pair", {"beta": 0.1}, nca_pair(beta=0.1)),
    ("sppo_hard", {"beta": 0.1}, sppo(beta=0.1)),
    ("apo_zero", {"beta": 0.1}, apo_zero(beta=0.1)),
    ("apo_down", {"beta": 0.1}, apo_down(beta=0.1)),
    ("discopop", {"beta": 0.1}, discopop(beta=0.1, temperature=0.05)),
    ("sigmoid", {"beta": 0.1, "f_divergence_type": "reverse_kl"}, f_dpo(beta=0.1)),
    ("sigmoid", {"beta": 0.1, "f_divergence_type": "forward_kl"}, f_dpo(divergence="forward_kl", beta=0.1)),
    ("sigmoid", {"beta": 0.1, "f_divergence_type": "js_divergence"}, f_dpo(divergence="js", beta=0.1)),
    *[
        (
            "sigmoid",
            {"beta": 0.1, "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": alpha},
            f_dpo(divergence="alpha", alpha=alpha, beta=0.1),
        )
        for alpha in (0.5, 1.0, 1.5)
    ],
    *[("sigmoid", {"beta": 0.1, "ld_alpha": alpha}, ld_dpo(beta=0.1, alpha=alpha)) for alpha in (0.0, 0.5, 1.0)],
]

NEUTRAL = {"label_smoothing": 0.0, "f_divergence_type": "reverse_kl", "ld_alpha": None}


def trl_loss(trainer: Any, batch: dict[str, Tensor], names: list[str], weights: list[float], **settings: Any) -> Any:
    trainer.loss_types, trainer.loss_weights = names, weights
    for name, value in {**NEUTRAL, **settings}.items():
        setattr(trainer, name, value)
    trainer._metrics["train"].clear()
    trainer.model.train()
    return trainer._compute_loss(trainer.model, batch, False).item()


@pytest.mark.parametrize(("name", "settings", "objective"), PAIRED, ids=lambda value: str(value))
def test_paired_losses(dpo_trainer: Any, name: str, settings: dict[str, Any], objective: Objective):
    batch, scores = pair_batch(dpo_trainer)
    loss_P = objective(scores).loss_P
    assert loss_P.std() > 1e-3  # the models differ enough for the comparison to mean something
    assert trl_loss(dpo_trainer, batch, [name], [1.0], **settings) == pytest.approx(loss_P.mean().item(), **CLOSE)


def test_weighted_sum_of_losses(dpo_trainer: Any):
    batch, scores = pair_batch(dpo_trainer)
    objective = 0.8 * dpo(beta=0.1) + 0.2 * bco(beta=0.1, shift=False)
    expected = trl_loss(dpo_trainer, batch, ["sigmoid", "bco_pair"], [0.8, 0.2], beta=0.1)
    assert objective(scores).loss_P.mean().item() == pytest.approx(expected, **CLOSE)


def test_fine_tuning_agrees_up_to_the_weight_of_lengths(dpo_trainer: Any):
    batch, scores = pair_batch(dpo_trainer)
    length = scores.at("chosen", scores.mask.sum(1))
    by_token = (sft()(scores).loss_P * length).sum() / length.sum()
    assert by_token.item() == pytest.approx(trl_loss(dpo_trainer, batch, ["sft"], [1.0]), **CLOSE)


def test_dynamic_fine_tuning_agrees_up_to_the_weight_of_lengths(tmp_path: Path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = factories.llama(seed=1)
    data = Dataset.from_dict({"prompt": PROMPTS, "completion": GOOD})
    settings = arguments(tmp_path, loss_type="dft")
    del settings["disable_dropout"]
    config = SFTConfig(**settings)
    trainer = SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
    batch = first_batch(trainer)
    theirs = trainer.compute_loss(trainer.model, batch).item()
    with torch.no_grad():
        logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    logp = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    mask = labels >= 0
    scores = pair_scores(logp, logp, mask_chosen=mask, mask_rejected=mask)
    length = mask.sum(1)
    assert length.min() < length.max()
    assert ((dft()(scores).loss_P * length).sum() / length.sum()).item() == pytest.approx(theirs, **CLOSE)
    assert theirs < 0.5 * sft()(scores).loss_P.mean()  # the two losses are not one


def test_paired_metrics(dpo_trainer: Any):
    batch, scores = pair_batch(dpo_trainer)
    trl_loss(dpo_trainer, batch, ["sigmoid"], [1.0], beta=0.1)
    theirs = {name: values[-1] for name, values in dpo_trainer._metrics["train"].items()}
    ours = {name: value.item() for name, value in preference_metrics(scores, dpo(beta=0.1)(scores)).items()}
    kinds = ("rewards/", "logps/")
    shared = {name for name in theirs if name.startswith(kinds)}
    assert shared == {name for name in ours if name.startswith(kinds)}
    assert {name: ours[name] for name in shared} == pytest.approx({name: theirs[name] for name in shared}, **CLOSE)


def test_weighted_preference_optimisation(weighting_trainer: Any):
    batch, scores = pair_batch(weighting_trainer)
    with torch.no_grad():
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = weighting_trainer.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    scores = replace(scores, extras={"square_sum": logits.softmax(-1).square().sum(-1) * scores.mask})
    outcome = wpo(beta=0.1)(scores)
    assert 0 < outcome.metrics["wpo/weight"] < 0.9  # not at weights of 1, where nothing would be compared
    assert trl_loss(weighting_trainer, batch, ["sigmoid"], [1.0], beta=0.1) == pytest.approx(
        outcome.loss_P.mean().item(), **CLOSE
    )


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.6)])
def test_kto(kto_trainer: Any, weights: tuple[float, float]):
    batch = first_batch(kto_trainer)
    kto_trainer.desirable_weight, kto_trainer.undesirable_weight = weights
    kto_trainer._metrics["train"].clear()
    kto_trainer.model.train()
    theirs = kto_trainer._compute_loss(kto_trainer.model, batch, False).item()
    own, other = ([token_logps(m, batch, p) for m in (kto_trainer.model, kto_trainer.ref_model)] for p in ("", "KL_"))
    scores = interleaved(own, other, batch["label"].bool().tolist())
    outcome = kto(beta=kto_trainer.beta, desirable_weight=weights[0], undesirable_weight=weights[1])(scores)
    assert outcome.loss_P.mean().item() == pytest.approx(theirs, **CLOSE)
    metrics = {name: value.item() for name, value in preference_metrics(scores, outcome).items()}
    assert metrics["kto/kl"] > 0.1  # not at the clamp, where the baseline would not be compared
    assert metrics["kto/kl"] == pytest.approx(kto_trainer._metrics["train"]["kl"][-1], **CLOSE)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert metrics[name] == pytest.approx(kto_trainer._metrics["train"][name][-1], **CLOSE)


def test_apo_zero_on_single_cases(kto_trainer: Any, monkeypatch: pytest.MonkeyPatch):
    batch = first_batch(kto_trainer)
    settings = {"loss_type": "apo_zero_unpaired", "desirable_weight": 1.3, "undesirable_weight": 0.6}
    for name, value in settings.items():
        monkeypatch.setattr(kto_trainer, name, value)
    kto_trainer.model.train()
    theirs = kto_trainer._compute_loss(kto_trainer.model, batch, False).item()
    (logp, mask), (ref, _) = (token_logps(m, batch) for m in (kto_trainer.model, kto_trainer.ref_model))
    cases = align(likes(*batch["label"].bool().tolist()))
    objective = kto(beta=kto_trainer.beta, desirable_weight=1.3, undesirable_weight=0.6, baseline="zero")
    assert not objective.needs.batch
    assert objective(Scores(logp, mask, cases, ref)).loss_P.mean().item() == pytest.approx(theirs, **CLOSE)


def interleaved(own: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]], labels: list[bool]) -> Scores:
    """Completion and mismatched completion of each record in turn, as `align` lays them out."""
    width = max(own[0][0].shape[1], other[0][0].shape[1])

    def merge(one: Tensor, two: Tensor) -> Tensor:
        padded = [torch.nn.functional.pad(value, (0, width - value.shape[1])) for value in (one, two)]
        return torch.stack(padded, dim=1).flatten(0, 1)

    cases = align(with_mismatched(likes(*labels)))
    return Scores(merge(own[0][0], other[0][0]), merge(own[0][1], other[0][1]), cases, merge(own[1][0], other[1][0]))


def stand_in(**settings: Any) -> Any:
    """What TRL's loss methods read of their trainer."""
    return SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **settings)


def mean_logps(scores: Scores) -> tuple[Tensor, Tensor]:
    logp_N = mean(scores.logp, scores.mask)
    return scores.at("chosen", logp_N), scores.at("rejected", logp_N)


def test_simpo():
    from trl.experimental.cpo import CPOTrainer

    scores = scored(pairs(20), seed=12)
    trainer = stand_in(beta=2.5, simpo_gamma=0.8, loss_type="simpo", label_smoothing=0.0, alpha=0.0)
    losses, chosen, rejected = CPOTrainer.cpo_loss(trainer, *mean_logps(scores))
    outcome = simpo(beta=2.5, gamma=0.8)(scores)
    torch.testing.assert_close(outcome.loss_P, losses)
    assert outcome.reward_N is not None
    torch.testing.assert_close(scores.at("chosen", outcome.reward_N), chosen)
    torch.testing.assert_close(scores.at("rejected", outcome.reward_N), rejected)


def sums(scores: Scores) -> tuple[Tensor, Tensor]:
    logp_N = log_likelihood(scores)
    return scores.at("chosen", logp_N), scores.at("rejected", logp_N)


UNSURE = {"label_smoothing": 0.2}
SMOOTH_ALPHAPO = alphapo(beta=2.5, gamma=0.8, alpha=0.25, label_smoothing=0.2)


@pytest.mark.parametrize(
    ("settings", "reduced", "objective"),
    [
        ({"loss_type": "sigmoid", "beta": 0.3}, sums, cpo(beta=0.3, alpha=0.0)),
        ({"loss_type": "hinge", "beta": 1.0}, sums, slic(delta=1.0, regularization=0.0)),
        ({"loss_type": "simpo", "beta": 2.5, "alpha": 0.25}, mean_logps, alphapo(beta=2.5, gamma=0.8, alpha=0.25)),
        ({"loss_type": "simpo", "beta": 2.5, "alpha": -0.1}, mean_logps, alphapo(beta=2.5, gamma=0.8, alpha=-0.1)),
        ({"loss_type": "ipo", "beta": 0.3}, mean_logps, ipo(beta=0.3, reference=False)),
        ({"loss_type": "sigmoid", "beta": 0.3, **UNSURE}, sums, cpo(beta=0.3, alpha=0.0, label_smoothing=0.2)),
        ({"loss_type": "simpo", "beta": 2.5, **UNSURE}, mean_logps, simpo(beta=2.5, gamma=0.8, label_smoothing=0.2)),
        ({"loss_type": "simpo", "beta": 2.5, "alpha": 0.25, **UNSURE}, mean_logps, SMOOTH_ALPHAPO),
    ],
    ids=["cpo", "slic", "alphapo", "alphapo-negative", "ipo", "cpo-smooth", "simpo-smooth", "alphapo-smooth"],
)
def test_contrastive(settings: dict[str, Any], reduced: Any, objective: Objective):
    from trl.experimental.cpo import CPOTrainer

    scores = scored(pairs(20), seed=14)
    trainer = stand_in(**{"simpo_gamma": 0.8, "label_smoothing": 0.0, "alpha": 0.0, **settings})
    losses, chosen, rejected = CPOTrainer.cpo_loss(trainer, *reduced(scores))
    outcome = objective(scores)
    assert losses.std() > 1e-3
    torch.testing.assert_close(outcome.loss_P, losses)
    assert outcome.reward_N is not None
    torch.testing.assert_close(scores.at("chosen", outcome.reward_N), chosen)
    torch.testing.assert_close(scores.at("rejected", outcome.reward_N), rejected)


def test_orpo():
    from trl.experimental.orpo import ORPOTrainer

    scores = scored(pairs(20), seed=13)
    chosen, rejected = mean_logps(scores)
    losses, *rewards, _, log_odds_chosen = ORPOTrainer.odds_ratio_loss(stand_in(beta=0.3), chosen, rejected)
    outcome = orpo(beta=0.3)(scores)
    torch.testing.assert_close(outcome.loss_P.float(), -chosen.float() - losses)
    assert (log_odds(chosen) - log_odds(rejected)).mean().item() == pytest.approx(log_odds_chosen.item(), rel=1e-5)
    assert outcome.reward_N is not None
    torch.testing.assert_close(scores.at("chosen", outcome.reward_N).float(), rewards[0])
    assert math.isfinite(outcome.loss_P.sum().item())
