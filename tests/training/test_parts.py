"""Batches in parts of limited size: the same losses, gradients and weights, whatever the objective and the layout."""

from __future__ import annotations

import json
from dataclasses import replace

import factories
import numpy as np
import pytest
import torch
from transformers import TrainingArguments, set_seed

from omnipref.errors import CapabilityError, DataError
from omnipref.objectives import bco, dpo, kto, parse_objective, plackett_luce, reduce_loss
from omnipref.objectives.objective import Needs
from omnipref.policies.autoregressive.layouts import ONE_ROW, Forest, Rows
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.diffusion import DiffusionPolicy
from omnipref.policies.reference import FrozenCopy, frozen_copy
from omnipref.preferences import pair, ranked
from omnipref.training import PreferenceTrainer, prepare
from omnipref.training.data import collator
from omnipref.training.parts import divide, join

LENGTHS = (1, 9, 3, 30, 2, 14, 5, 4)
PAIRS = [pair(f"What is {i}? " + "cup " * (i % 3), "two " * n, "a cup " * 2, record=i) for i, n in enumerate(LENGTHS)]


def make(folder, objective=None, limit=None, layout="forest", steps=3, **more):
    model, owner = factories.llama()
    set_seed(0)
    objective = objective or dpo()
    policy = build_policy(model, owner, layout)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        max_steps=steps,
        logging_steps=1,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        seed=3,
        **more,
    )
    return PreferenceTrainer(
        model=model,
        args=arguments,
        policy=policy,
        objective=objective,
        reference=frozen_copy(model),
        train_dataset=prepare(policy, PAIRS, objective.needs, folder / "aside.jsonl", progress=False),
        processing_class=owner,
        max_batch_tokens=limit,
    )


def losses(trainer):
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize(("limit", "most"), [(7, 7), (5, 5), (100, 14), (1, 5)])
def test_groups_hold_every_record_once_and_keep_the_limit(limit, most):
    sizes = [5, 3, 4, 2]
    groups = divide(sum, sizes, limit)
    assert sorted(i for group in groups for i in group) == [0, 1, 2, 3]
    assert max(sum(sizes[i] for i in group) for group in groups) == most
    assert groups == divide(sum, sizes, limit)


@pytest.mark.parametrize("layout", ["forest", "rows"])
def test_no_part_of_a_batch_is_over_the_limit(layout):
    model, owner = factories.llama()
    policy = build_policy(model, owner, layout)
    encoded = [policy.encode(record) for record in PAIRS]
    limit = max(policy.tokens([each]) for each in encoded) + 5
    parts = collator(policy, limit)(encoded)["parts"]
    assert len(parts) > 1
    assert all(part.inputs["ids_BT"].numel() <= limit for part in parts)
    assert sorted(torch.cat([part.cases.record_P for part in parts]).tolist()) == list(range(len(PAIRS)))
    assert policy.tokens(encoded) == collator(policy)(encoded)["parts"][0].inputs["ids_BT"].numel()


def test_one_row_holds_the_distinct_tokens_and_no_padding():
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    assert policy.layout == Forest(ONE_ROW, policy.layout.attention)
    encoded = [policy.encode(record) for record in PAIRS]
    batch = policy.collate(encoded)
    assert bool(batch.inputs["valid_BT"].all())
    assert batch.inputs["ids_BT"].shape == (1, sum(tree.size for tree in policy.layout.trees(encoded)))


def test_joined_scores_are_those_of_the_whole():
    model, owner = factories.llama()
    model = model.double()
    policy = build_policy(model, owner)
    records = [*PAIRS[:3], ranked("Say two: ", ["two", "cup cup", "a"], record=8)]
    encoded = [policy.encode(record) for record in records]
    whole = policy.score(model, policy.collate(encoded), extras=frozenset({"entropy"}))
    parts = [policy.score(model, policy.collate(p), extras=frozenset({"entropy"})) for p in (encoded[:1], encoded[1:])]
    joined = join(parts)
    for name in ("logp", "mask", "segment"):
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name), rtol=0, atol=1e-12)
    torch.testing.assert_close(joined.extras["entropy"], whole.extras["entropy"], rtol=0, atol=1e-12)
    for name in ("record_P", "preference_N", "rank_N", "label_N"):
        assert getattr(joined.cases, name).equal(getattr(whole.cases, name))
    assert {k: v.tolist() for k, v in joined.cases.rows.items()} == {k: v.tolist() for k, v in whole.cases.rows.items()}
    assert torch.equal(joined.cases.columns["weight"], whole.cases.columns["weight"])


OBJECTIVES = ["dpo()", "kto(baseline='batch')", "0.5*dpo() + bco() + sft()", "plackett_luce()"]


@pytest.mark.parametrize("layout", ["forest", "rows"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_in_parts_has_the_losses_and_weights_of_the_whole(tmp_path, objective, layout):
    runs = []
    for name, limit in (("whole", None), ("parts", 80)):
        runs.append(make(tmp_path / name, parse_objective(objective), limit, layout))
        runs[-1].train()
    whole, parts = runs
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-6)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    metrics = ("rewards/margins", "rewards/accuracies", "logps/chosen")
    for one, other in zip(whole.state.log_history, parts.state.log_history, strict=True):
        assert [one.get(m) for m in metrics] == pytest.approx([other.get(m) for m in metrics], abs=1e-4)


@pytest.mark.parametrize("objective", [dpo(), kto(baseline="batch"), bco()])
def test_the_gradient_of_parts_is_the_gradient_of_the_whole(tmp_path, objective):
    trainer = make(tmp_path, objective, 80)
    assert isinstance(trainer.model, torch.nn.Module) and isinstance(trainer.reference, FrozenCopy)
    model = trainer.model.double()
    trainer.reference.model.double()
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # set when training starts
    encoded = [trainer.policy.encode(record) for record in PAIRS]
    # One step away from the reference, so that the loss is no longer symmetric.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    whole = collator(trainer.policy)(encoded)["parts"]
    scores = trainer.scores(model, whole[0])
    expected = torch.autograd.grad(reduce_loss(objective(scores).loss_P, scores.cases), list(model.parameters()))
    inputs = collator(trainer.policy, 80)(encoded)
    assert len(inputs["parts"]) > 2
    model.zero_grad()
    trainer.training_step(model, inputs)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-7)


def test_gradient_accumulation_counts_parts_of_a_batch_as_one_batch(tmp_path):
    whole = make(tmp_path / "whole", gradient_accumulation_steps=2)
    parts = make(tmp_path / "parts", limit=80, gradient_accumulation_steps=2)
    for trainer in (whole, parts):
        trainer.train()
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-6)


def test_evaluation_in_parts_gives_the_loss_of_the_whole(tmp_path):
    found = []
    for limit in (None, 80):
        trainer = make(tmp_path / str(limit), bco(), limit, steps=1)
        trainer.eval_dataset = trainer.train_dataset
        found.append(trainer.evaluate()["eval_loss"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_a_record_over_the_limit_is_set_aside_by_name_or_cut_as_asked(tmp_path):
    model, owner = factories.llama()
    unlimited = build_policy(model, owner)
    limit = unlimited.tokens([unlimited.encode(PAIRS[3])]) - 9
    policy = replace(unlimited, max_tokens=limit)
    said = f"record 3.*tokens in 2 cases, shared ones counted once.*at most {limit}.*truncate"
    with pytest.raises(DataError, match=said):
        policy.encode(PAIRS[3])
    kept = prepare(policy, PAIRS, Needs(), tmp_path / "aside.jsonl", progress=False)
    assert len(kept) == len(PAIRS) - 1
    assert [json.loads(line)["record"] for line in (tmp_path / "aside.jsonl").read_text().splitlines()] == [3]
    cutting = replace(policy, truncate=True)
    cut = cutting.encode(PAIRS[3])
    assert limit - 2 <= cutting.tokens([cut]) <= limit
    whole = unlimited.encode(PAIRS[3])
    for one, other in zip(cut.cases, whole.cases, strict=True):
        assert np.array_equal(one.ids, other.ids[: len(one.ids)]) and len(one.response) >= 1
        assert one.position.shape[1] == len(one.ids)
    with pytest.raises(DataError, match="at most 5"):
        replace(cutting, max_tokens=5).encode(PAIRS[3])


def test_a_denoiser_has_no_tokens():
    with pytest.raises(CapabilityError, match="max_batch_tokens"):
        DiffusionPolicy(scheduler=None, codec=None).tokens([])  # type: ignore[arg-type]


def test_lists_of_different_lengths_divide_too(tmp_path):
    model, owner = factories.llama()
    policy = build_policy(model, owner)
    records = [ranked("Say: ", ["two", "cup cup", "a"][: 2 + i % 2], record=i) for i in range(5)]
    encoded = [policy.encode(record) for record in records]
    objective = plackett_luce()
    reference = frozen_copy(model)
    found = []
    for limit in (None, 30):
        parts = collator(policy, limit)(encoded)["parts"]
        scores = join([policy.score(model, part, reference=reference) for part in parts])
        losses_P = objective(scores).loss_P
        found.append(dict(zip(scores.cases.record_P.tolist(), losses_P.tolist(), strict=True)))
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_rows_stay_rows():
    model, owner = factories.llama()
    assert isinstance(build_policy(model, owner, "rows").layout, Rows)
