"""Objectives from text, for command lines and configuration files: only the public constructors, `+` and `*`."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable

from omnipref.errors import ConfigError, nearest
from omnipref.objectives.adaptive import alpha_dpo, beta_dpo, dr_dpo
from omnipref.objectives.anchors import anchor, dft, sft
from omnipref.objectives.auxiliary import choice, rationale
from omnipref.objectives.calibrated import apo_down, apo_zero, cal_dpo, dpop, nca_pair, sppo
from omnipref.objectives.conditional import wider_margin
from omnipref.objectives.decoupled import flex_dpo
from omnipref.objectives.dispersion import mallows_dpo, mallows_ipo
from omnipref.objectives.divergences import chi_po, f_dpo
from omnipref.objectives.graded import gdpo_geometric, modpo, ns_dpo, odpo, reward_distillation
from omnipref.objectives.group_relative import grpo
from omnipref.objectives.imitation import f_sft, reinforce, rwr
from omnipref.objectives.lengths import decayed_dpo, ld_dpo, length_dpo, sampo
from omnipref.objectives.listwise import lipo, plackett_luce, rrhf
from omnipref.objectives.masked import sparse_po
from omnipref.objectives.noise_contrastive import info_nca, nca
from omnipref.objectives.noisy import discopop, exo_pair, robust_dpo
from omnipref.objectives.objective import Objective
from omnipref.objectives.pairwise import dpo, gpo, hinge, ipo, orpo, simpo
from omnipref.objectives.perturbation import epsilon_dpo
from omnipref.objectives.ranking import pro
from omnipref.objectives.reference_free import alphapo, cpo, simper, slic, soft_spo
from omnipref.objectives.sampled import nash_md, optimism, sampled_kl, xpo
from omnipref.objectives.skipwise import ranklist
from omnipref.objectives.sorting import aot, aot_unpaired
from omnipref.objectives.ties import davidson_dpo, rao_kupper_dpo
from omnipref.objectives.unlearning import npo, simnpo
from omnipref.objectives.unpaired import bco, kto, kto_pair
from omnipref.objectives.vocabulary import tdpo1, tdpo2, wpo

_CONSTRUCTORS = (
    alpha_dpo,
    alphapo,
    anchor,
    aot,
    aot_unpaired,
    apo_down,
    apo_zero,
    bco,
    beta_dpo,
    cal_dpo,
    chi_po,
    choice,
    cpo,
    davidson_dpo,
    decayed_dpo,
    dft,
    discopop,
    dpo,
    dpop,
    dr_dpo,
    epsilon_dpo,
    exo_pair,
    f_dpo,
    f_sft,
    flex_dpo,
    gdpo_geometric,
    gpo,
    grpo,
    hinge,
    info_nca,
    ipo,
    kto,
    kto_pair,
    ld_dpo,
    length_dpo,
    lipo,
    mallows_dpo,
    mallows_ipo,
    modpo,
    nash_md,
    nca,
    nca_pair,
    npo,
    ns_dpo,
    odpo,
    optimism,
    orpo,
    plackett_luce,
    pro,
    ranklist,
    rao_kupper_dpo,
    rationale,
    reinforce,
    reward_distillation,
    robust_dpo,
    rrhf,
    rwr,
    sampled_kl,
    sampo,
    sft,
    simnpo,
    simper,
    simpo,
    slic,
    soft_spo,
    sparse_po,
    sppo,
    tdpo1,
    tdpo2,
    wider_margin,
    wpo,
    xpo,
)
_GRAMMAR = "a sum such as 0.8*dpo(beta=0.1) + sft()"


def constructors() -> dict[str, Callable[..., Objective]]:
    """The public constructors by name.

    Example:
        >>> constructors()["dpo"](beta=0.2).terms[0].name
        'dpo'
    """
    return {function.__name__: function for function in _CONSTRUCTORS}


def parse_objective(text: str) -> Objective:
    """The objective that a text describes; nothing but the constructors is ever called.

    `str(objective)` gives a text that parses back to the same.

    Args:
        text: a sum of constructors' calls, each with an optional number as factor.

    Raises:
        ConfigError: not such a sum, or an unknown constructor or argument (proposes the nearest), or a bad value.

    Example:
        >>> print(parse_objective("0.8 * dpo(beta=0.2) + sft()"))
        0.8*dpo(beta=0.2) + sft()
    """
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except ConfigError as error:
        raise ConfigError(f"objective {text!r}: {error}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"objective {text!r}: {error}; expected {_GRAMMAR}") from None
    if not isinstance(value, Objective):
        raise ConfigError(f"objective {text!r}: found a mere number; expected {_GRAMMAR}")
    return value


def _value(node: ast.expr) -> Objective | float:
    if isinstance(node, ast.BinOp):
        return _combined(node)
    if isinstance(node, ast.Call):
        return _called(node)
    value = _constant(node) if isinstance(node, (ast.Constant, ast.UnaryOp)) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"found `{ast.unparse(node)}`; expected a finite number or a call such as dpo()")
    return value


def _combined(node: ast.BinOp) -> Objective | float:
    left, right = _value(node.left), _value(node.right)
    if isinstance(node.op, ast.Add) and isinstance(left, Objective) and isinstance(right, Objective):
        return left + right
    if isinstance(node.op, ast.Mult) and not isinstance(left, Objective):
        return left * right
    if isinstance(node.op, ast.Mult) and not isinstance(right, Objective):
        return left * right
    raise ConfigError(f"found {ast.unparse(node)!r}; objectives add to objectives and are multiplied by numbers")


def _called(node: ast.Call) -> Objective:
    known = constructors()
    name = ast.unparse(node.func)
    if name not in known:
        raise ConfigError(f"found constructor `{name}`; {nearest(name, known)}")
    if any(keyword.arg is None for keyword in node.keywords):
        raise ConfigError(f"found ** in {ast.unparse(node)!r}; expected named arguments")
    positional = [_constant(argument) for argument in node.args]
    named = {str(keyword.arg): _constant(keyword.value) for keyword in node.keywords}
    signature = inspect.signature(known[name])
    for argument in named:
        if argument not in signature.parameters:
            raise ConfigError(f"{name}(): found argument `{argument}`; {nearest(argument, signature.parameters)}")
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        raise ConfigError(f"{name}(): {error}; arguments: {', '.join(signature.parameters)}") from None
    try:
        return known[name](*positional, **named)
    except ConfigError as error:
        raise ConfigError(f"{name}(): {error}") from None
    except TypeError as error:
        raise ConfigError(
            f"{name}(): found an argument of another type ({error}); expected {name}{signature}"
        ) from None


def _constant(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ConfigError(f"found {ast.unparse(node)!r}; expected a number or a quoted text") from None
