"""What every method must do, on any policy's scores; a method joins by existing and declares its own exceptions."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from factories import llama
from torch import Tensor

from omnipref.build import builder_of
from omnipref.config import TrainConfig
from omnipref.config.load import check_values
from omnipref.method import Claim, Method
from omnipref.objectives import Needs, Outcome, preference_metrics, reduce_loss
from omnipref.policies.autoregressive.policy import AutoregressivePolicy
from omnipref.preferences import Case, Comparison, Part, Preference
from omnipref.registry import Card, discover, load_claim, load_method, load_module
from omnipref.scores import Cases, Scores
from omnipref.worlds import denoising

CARDS = [card for card in discover() if not card.error]
P, U = 6, 5
EMBEDDINGS = {"hidden": 3}
"""Extras with several numbers for each unit."""


@pytest.fixture(params=CARDS, ids=lambda card: card.slug)
def card(request: pytest.FixtureRequest) -> Card:
    return request.param


@pytest.fixture
def method(card: Card) -> Method:
    return load_method(card.slug)


def roles_of(needs: Needs) -> list[str]:
    return sorted(needs.roles | {"chosen", "rejected"})


def synthetic(needs: Needs, units: int = U, seed: int = 0, dtype: torch.dtype = torch.float64) -> Scores:
    """Random scores close to their reference, where no objective is saturated, whatever its beta.

    `units` = 1 is what a denoising step gives.
    """
    draw = torch.Generator().manual_seed(seed)
    roles = roles_of(needs)
    n = P * len(roles)
    number = torch.arange(P)
    rows = {role: number + P * i for i, role in enumerate(roles)}
    rank = torch.full((n,), -1)
    label = torch.zeros(n, dtype=torch.long)
    rank[rows["chosen"]], rank[rows["rejected"]] = 0, 1
    label[rows["chosen"]], label[rows["rejected"]] = 1, -1
    mask = torch.arange(units) < torch.randint(1, units + 1, (n, 1), generator=draw)

    def random() -> Tensor:
        return -torch.rand(n, units, generator=draw, dtype=torch.float64).to(dtype) * 3 * mask

    columns = {name: torch.rand(P, generator=draw) for name in sorted(needs.columns)}
    if "score" in columns:  # of each case, not of each preference
        columns["score"] = label + 0.5 * torch.rand(n, generator=draw)
    cases = Cases(number + 100, rows, number.repeat(len(roles)), rank, label, columns)
    extras = {name: random().abs() for name in sorted(needs.extras)}
    reference = random()
    logp = (reference + 1e-4 * random()).requires_grad_()
    for name in sorted(needs.extras & EMBEDDINGS.keys()):
        extras[name] = torch.randn(n, units, EMBEDDINGS[name], generator=draw, dtype=dtype)
    segment = (torch.arange(units) // 2).expand(n, -1)
    return Scores(logp, mask, cases, reference, segment, extras=extras)


def gradient(method: Method, scores: Scores) -> tuple[Outcome, Tensor]:
    outcome = method.objective(scores)
    (grad,) = torch.autograd.grad(outcome.loss_P.sum(), scores.logp)
    return outcome, grad


@pytest.mark.parametrize("units", [1, U])
def test_losses_and_gradients_are_finite(method: Method, units: int):
    scores = synthetic(method.needs, units, dtype=torch.float32)
    outcome, grad = gradient(method, scores)
    assert outcome.loss_P.shape == (P,)
    assert outcome.loss_P.dtype == torch.float32
    assert outcome.loss_P.isfinite().all()
    assert grad.isfinite().all()
    for role in method.needs.roles:
        assert grad[scores.cases.rows[role]].abs().sum() > 0, f"`{role}` is asked for and not learned from"
    assert (grad[~scores.mask] == 0).all()


def test_far_scores_stay_finite(method: Method):
    scores = synthetic(method.needs)
    far = replace(scores, logp=(scores.logp.detach() * 1e4).requires_grad_())
    outcome, grad = gradient(method, far)
    assert outcome.loss_P.isfinite().all()
    assert grad.isfinite().all()


def test_raising_the_chosen_lowers_the_loss(method: Method):
    scores = synthetic(method.needs)
    _, grad = gradient(method, scores)
    pulls = bool((grad[scores.cases.rows["chosen"]].sum(1) < 0).all())
    assert pulls != bool(method.not_pulling_because), method.not_pulling_because or "the chosen is not pulled up"


def swapped(scores: Scores) -> Scores:
    rows = dict(scores.cases.rows)
    rows["chosen"], rows["rejected"] = rows["rejected"], rows["chosen"]
    rank, label = scores.cases.rank_N.clone(), -scores.cases.label_N
    rank[rows["chosen"]], rank[rows["rejected"]] = 0, 1
    columns = dict(scores.cases.columns)
    if "score" in columns:
        both = torch.cat([rows["chosen"], rows["rejected"]])
        columns["score"] = columns["score"].index_copy(0, both, columns["score"][both.roll(P)])
    return replace(scores, cases=replace(scores.cases, rows=rows, rank_N=rank, label_N=label, columns=columns))


def test_swapping_flips_the_margin(method: Method):
    scores = synthetic(method.needs)
    margins = []
    for some in (scores, swapped(scores)):
        metrics = preference_metrics(some, method.objective(some))
        margins.append(metrics["rewards/margins"])
    symmetric = torch.allclose(margins[0], -margins[1], atol=0)
    assert margins[0] != 0
    assert symmetric != bool(method.not_symmetric_because), method.not_symmetric_because or margins


def test_padding_does_not_matter(method: Method):
    scores = synthetic(method.needs)

    def padded(value: Tensor) -> Tensor:
        return torch.nn.functional.pad(value, [0, 0] * (value.dim() - 2) + [0, 3], value=99)

    assert scores.segment is not None
    longer = replace(
        scores,
        logp=padded(scores.logp),
        ref_logp=padded(scores.ref_logp) if scores.ref_logp is not None else None,
        mask=torch.nn.functional.pad(scores.mask, (0, 3), value=False),
        segment=padded(scores.segment),
        extras={name: padded(value) for name, value in scores.extras.items()},
    )
    torch.testing.assert_close(method.objective(longer).loss_P, method.objective(scores).loss_P)


def test_the_order_of_cases_and_preferences_does_not_matter(method: Method):
    scores = synthetic(method.needs)
    draw = torch.Generator().manual_seed(1)
    place = torch.randperm(len(scores.logp), generator=draw)
    order = torch.randperm(P, generator=draw)
    where, renumbered = place.argsort(), order.argsort()
    cases = Cases(
        scores.cases.record_P[order],
        {role: where[index[order]] for role, index in scores.cases.rows.items()},
        renumbered[scores.cases.preference_N[place]],
        scores.cases.rank_N[place],
        scores.cases.label_N[place],
        {name: value[place] if len(value) > P else value[order] for name, value in scores.cases.columns.items()},
    )
    moved = Scores(
        scores.logp[place],
        scores.mask[place],
        cases,
        scores.ref_logp[place] if scores.ref_logp is not None else None,
        scores.segment[place] if scores.segment is not None else None,
        extras={name: value[place] for name, value in scores.extras.items()},
    )
    before, after = method.objective(scores), method.objective(moved)
    torch.testing.assert_close(after.loss_P, before.loss_P[order])


def cases_for(needs: Needs, record: int, response: Any) -> Preference:
    """A preference with every role that is needed; a role behind `@` differs in the prompt."""
    roles = roles_of(needs)
    prompts = {
        role: denoising.PROMPTS[(record + role.count("@") * (i + 1)) % len(denoising.PROMPTS)]
        for i, role in enumerate(roles)
    }
    cases = {
        role: Case.raw(prompts[role], response(record, "chosen" if role.startswith("chosen") else role))
        for role in roles
    }
    columns = dict.fromkeys(needs.columns - {"score"}, 0.5)
    if "score" in needs.columns:
        columns |= {f"score/{role}": 1.0 if role == "chosen" else 0.5 for role in roles}
    return Preference(cases, (Comparison("chosen", "rejected"),), columns=columns, record=record)


def text(record: int, role: str) -> str:
    return f"the answer {role} of {record}"


def vector(record: int, role: str) -> Part:
    draw = torch.Generator().manual_seed(record * 31 + len(role))
    return Part("vector", torch.randn(8, generator=draw))


def autoregressive() -> tuple[Any, Any, Any]:
    model, owner = llama()
    return AutoregressivePolicy(owner), model, text


def diffusion() -> tuple[Any, Any, Any]:
    return denoising.build_policy(), denoising.build_model(0), vector


@pytest.mark.parametrize("kind", [autoregressive, diffusion])
def test_both_kinds_of_policy_learn(method: Method, kind: Any):
    if method.needs.extras:
        pytest.skip(f"the policies here compute no {', '.join(sorted(method.needs.extras))} for both kinds")
    torch.set_num_threads(1)
    policy, model, response = kind()
    batch = policy.collate([policy.encode(cases_for(method.needs, i, response)) for i in range(3)])
    scores = policy.score(model, batch)
    outcome = method.objective(scores.with_reference(scores.logp.detach() - 1e-4 * scores.mask))
    reduce_loss(outcome.loss_P, batch.cases).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert outcome.loss_P.isfinite().all()
    assert grads
    assert all(grad.isfinite().all() for grad in grads)
    assert sum(float(grad.abs().sum()) for grad in grads) > 0


def test_arguments_are_named_and_have_defaults(card: Card):
    function = getattr(load_module(card), card.function)
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty
        assert parameter.annotation is not inspect.Parameter.empty


def test_the_papers_defaults_are_fields_of_the_training_configuration(method: Method):
    assert check_values(TrainConfig, method.defaults, source="defaults")


def test_needs_beyond_pairs_have_a_builder(method: Method):
    beyond = method.needs.roles - {"chosen", "rejected", "completion"}
    assert not beyond or method.builders, f"nothing says how to make {sorted(beyond)}"
    anything = {"seed": lambda: 0, "sampler": object, "features": object, "reward": object}
    assert all(builder_of(text, anything) for text in method.builders)


def test_claims_are_whole(card: Card):
    if not card.has_claim:
        pytest.skip("makes no claim")
    claim = load_claim(card.slug)
    assert isinstance(claim, Claim)
    assert claim.seeds >= 3, "an interval over seeds needs several"
    assert claim.controls, "a claim without a control shows little"
    assert claim.method not in (claim.baseline, *claim.controls)
    assert all(getattr(claim, f.name) for f in fields(Claim) if f.name in {"statement", "world", "metric", "run"})
    assert claim.expected_here or claim.note, "say why it is not expected here"
