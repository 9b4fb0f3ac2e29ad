"""Objectives from text, their text, and what is refused."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objectives.examples import complete, pairs, scored

from omnipref.errors import ConfigError
from omnipref.objectives import Objective, anchor, bco, constructors, dpo, gpo, kto, parse_objective, sft, simpo

SCORES = scored(complete(pairs(3)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dpo()", dpo()),
        ("0.8*dpo(beta=0.2) + 0.2 * bco() + sft()", 0.8 * dpo(beta=0.2) + 0.2 * bco() + sft()),
        ("  (dpo() + sft('rejected')) * 3\n", 3 * (dpo() + sft("rejected"))),
        (
            "2 * 0.25 * dpo(rejected='mismatched', label_smoothing=1e-1)",
            0.5 * dpo(rejected="mismatched", label_smoothing=0.1),
        ),
        ("dpo() + 0.5*anchor('chosen', shift=-0.1)", dpo() + 0.5 * anchor("chosen", shift=-0.1)),
        ("bco(shift=False, momentum=None)", bco(shift=False)),
        ("-1 * sft()", -1.0 * sft()),
    ],
)
def test_text_means_what_python_means(text: str, expected: Objective):
    parsed = parse_objective(text)
    assert str(parsed) == str(expected)
    assert parsed.needs == expected.needs
    torch.testing.assert_close(parsed(SCORES).loss_P, expected(SCORES).loss_P)


@pytest.mark.parametrize("name", sorted(constructors()))
def test_every_constructor_round_trips(name: str):
    assert str(parse_objective(f"{name}()")) == f"{name}()"


@given(st.floats(1e-6, 1e6), st.floats(0, 0.49), st.floats(-10, 10))
def test_settings_round_trip_exactly(beta: float, smoothing: float, weight: float):
    objective = weight * dpo(beta=beta, label_smoothing=smoothing) + simpo(beta=beta) + gpo(link="savage") + sft("a'b")
    assert str(parse_objective(str(objective))) == str(objective)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plackett_luc()", "did you mean `plackett_luce`?"),
        ("hinge(label_smoothing=0.1)", "hinge(): found argument `label_smoothing`"),
        ("apo_zero(label_smoothing=0.1)", "apo_zero(): found argument `label_smoothing`"),
        ("robust_dpo(label_smoothing=0.1)", "robust_dpo(): found argument `label_smoothing`"),
        ("robust_dpo(flip_rate=0.5)", "robust_dpo(): found flip_rate=0.5; expected a number in [0, 0.5)"),
        ("dpo(bta=0.1)", "dpo(): found argument `bta`; did you mean `beta`?"),
        ("dpo(0.1)", "dpo(): too many positional arguments; arguments: beta, label_smoothing"),
        ("dpo(beta=0)", "dpo(): found beta=0; expected a number in (0, inf)"),
        ("sft(reduce=[1])", "sft(): found an argument of another type (unhashable type: 'list'); expected sft(role"),
        ("gpo(link='logstic')", "gpo(): found link='logstic'; did you mean `logistic`?"),
        ("dpo(beta=1e999)", "found beta=inf"),
        ("dpo", "found `dpo`; expected a finite number or a call such as dpo()"),
        ("0.5", "found a mere number"),
        ("dpo() + 1", "objectives add to objectives"),
        ("dpo() * sft()", "objectives add to objectives"),
        ("dpo() - sft()", "objectives add to objectives"),
        ("dpo() / 2", "objectives add to objectives"),
        ("1e999 * dpo()", "expected a finite number"),
        ("True * dpo()", "expected a finite number"),
        ("dpo(**{'beta': 1})", "expected named arguments"),
        ("dpo(beta=open('x'))", "expected a number or a quoted text"),
        ("__import__('os').system('true')", "found constructor `__import__('os').system`"),
        ("dpo().terms", "expected a finite number or a call such as dpo()"),
        ("dpo(); sft()", "expected a sum such as"),
        ("dpo(", "expected a sum such as"),
        ("", "expected a sum such as"),
        ("(" * 10_000, "expected a sum such as"),
        ("sft()" + " + sft()" * 20_000, "expected a sum such as"),
    ],
    ids=lambda value: value[:30],
)
def test_refusals(text: str, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_objective(text)


BETA = [name for name, make in constructors().items() if "beta" in inspect.signature(make).parameters]
TWO_ROLES = [name for name, make in constructors().items() if "rejected" in inspect.signature(make).parameters]
SMOOTHED = ("dpo", "alphapo", "aot", "aot_unpaired", "cpo", "simpo")
BAD: list[tuple[str, dict[str, Any]]] = [
    *[(name, {"beta": bad}) for name in BETA for bad in (-0.1, float("nan"), "0.1", True)],
    *[(name, {"beta": 0}) for name in BETA if name != "grpo"],  # which then needs no reference
    *[("grpo", {name: "median"}) for name in ("advantage", "ratio", "surrogate", "normalise", "penalty")],
    *[("grpo", {"clip": bad}) for bad in (-0.1, 1.0)],
    ("grpo", {"clip_high": -0.1}),
    ("grpo", {"old": ""}),
    *[(name, {"label_smoothing": bad}) for name in SMOOTHED for bad in (-0.1, 0.5, 0.9)],
    ("dpo", {"reduce": "sum"}),
    ("ipo", {"reduce": "avg"}),
    ("gpo", {"link": "sigmoid"}),
    ("simpo", {"gamma": -1.0}),
    ("kto", {"desirable_weight": -1.0}),
    ("kto", {"undesirable_weight": float("inf")}),
    ("kto", {"baseline": ""}),
    ("bco", {"momentum": 1.0}),
    ("bco", {"momentum": -0.1}),
    ("anchor", {"shift": float("nan")}),
    *[(name, {"role": 3}) for name in ("sft", "dft")],
    ("dft", {"reduce": "sum"}),
    *[("robust_dpo", {"flip_rate": bad}) for bad in (-0.1, 0.5, 0.9)],
    *[("exo_pair", {"label_smoothing": bad}) for bad in (0.0, 0.5)],
    ("discopop", {"temperature": 0.0}),
    ("f_dpo", {"divergence": "forward"}),
    ("f_dpo", {"alpha": float("inf")}),
    ("chi_po", {"clip": 0.0}),
    ("length_dpo", {"alpha": -0.1}),
    *[("ld_dpo", {"alpha": bad}) for bad in (-0.1, 1.1)],
    *[(name, {"gamma": bad}) for name in ("decayed_dpo", "ns_dpo") for bad in (0.0, 1.1)],
    ("dpop", {"penalty": -1.0}),
    ("cal_dpo", {"calibration": -1.0}),
    ("cpo", {"alpha": -1.0}),
    ("slic", {"delta": -1.0}),
    ("slic", {"regularization": -1.0}),
    ("slic", {"target": ""}),
    ("alphapo", {"alpha": float("nan")}),
    ("alphapo", {"gamma": -1.0}),
    ("soft_spo", {"alpha": 0.0}),
    ("npo", {"role": ""}),
    ("simnpo", {"gamma": -1.0}),
    ("odpo", {"alpha": -1.0}),
    ("gdpo_geometric", {"column": ""}),
    ("modpo", {"weight": 0.0}),
    ("modpo", {"weights": (0.5, 0.5)}),
    ("modpo", {"weights": (float("nan"),)}),
    ("modpo", {"link": "sigmoid"}),
    ("reward_distillation", {"columns": ()}),
    ("flex_dpo", {"beta_chosen": 0.0}),
    ("flex_dpo", {"beta_rejected": -0.1}),
    ("pro", {"weight": -0.1}),
    ("pro", {"reduce": "sum"}),
    ("lipo", {"weights": 3}),
    ("lipo", {"embedding": 3}),
    ("lipo", {"embedding": "hidden", "weights": "step_weight"}),
    ("lipo", {"centred": True}),
    ("sparse_po", {"mask": ""}),
    ("sparse_po", {"sparsity": -1.0}),
    ("sparse_po", {"divergence_sparsity": -1.0}),
    *[("ranklist", {"skips": bad}) for bad in ((), (0,), (1.5,))],
    ("ranklist", {"margin": -1.0}),
    ("ranklist", {"form": "log"}),
    ("ranklist", {"weights": (1.0,)}),
    ("rationale", {"gamma": -1.0}),
    ("rationale", {"form": "sigmoid"}),
    ("rationale", {"reduce": "sum"}),
    *[("choice", {"wrong": bad}) for bad in ((), ("chosen",), ("a", "a"))],
    ("wider_margin", {"condition": ""}),
    *[(name, {"chosen": "rejected"}) for name in TWO_ROLES],
]


@pytest.mark.parametrize(("name", "arguments"), BAD, ids=str)
def test_bad_arguments_are_refused_by_name(name: str, arguments: dict[str, Any]):
    with pytest.raises(ConfigError, match=f"found .*{next(iter(arguments))}"):
        constructors()[name](**arguments)


def test_mixing_with_other_things_is_a_type_error():
    for wrong in (lambda: dpo() + 1, lambda: dpo() * dpo(), lambda: dpo() * "2"):
        with pytest.raises(TypeError):
            wrong()  # type: ignore[operator]


def test_needs_are_the_union_of_terms():
    needs = (dpo(rejected="chosen@negative_image") + kto() + sft("completion")).needs
    assert needs.roles == {"chosen", "chosen@negative_image", "mismatched", "completion"}
    assert needs.reference and needs.labels and not needs.lists
    assert not simpo().needs.reference
