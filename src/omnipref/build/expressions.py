"""Builders from text, as `omnipref build` takes them: calls of public functions with plain values, nothing else.

`similar_image(upper=0.95)`, `best_vs_worst(reward=-count('fork'), n=4) >> occlude(share=0.5)`, `mismatched`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

from omnipref.build.builder import Builder
from omnipref.errors import ConfigError, nearest
from omnipref.rewards import Reward

Supplied = Mapping[str, Callable[[], Any]]
"""What fills parameters that the text leaves out, by the parameter's name; called when it is needed."""

_ROOMS = ("omnipref.build", "omnipref.rewards")
_HELPERS = {"Server": "omnipref.policies.server", "ServerSampler": "omnipref.policies.server"}
_OPERATORS: Mapping[type, Callable[..., Any]] = {
    ast.RShift: operator.rshift,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.USub: operator.neg,
}


def builders() -> dict[str, Callable[..., Builder]]:
    """Every builder by name: the public functions of `omnipref.build` that give a `Builder`.

    Example:
        >>> sorted(builders())[:3]
        ['best_vs_worst', 'best_worst_of_n', 'crop']
    """
    module = importlib.import_module("omnipref.build")
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in found.items()
        if inspect.isfunction(value) and value.__annotations__.get("return") == "Builder" and name not in _NOT_BY_NAME
    }


_NOT_BY_NAME = {"each", "builder_of"}


def builder_of(text: str, supplied: Supplied | None = None) -> Builder:
    """The builder that a text names.

    Args:
        text: a call, a name alone, or several joined with `>>`.
        supplied: values of parameters left out, such as `sampler`, `features` and `seed`.

    Raises:
        ConfigError: broken syntax, an unknown name or option, a missing value, or anything that is not plain.

    Example:
        >>> builder_of("random_image(seed=3) >> mismatched").name
        'random_image >> mismatched'
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"found builder {text!r} ({error.msg}); expected such as `random_image(seed=1)`") from None
    made = _Reader(text, dict(supplied or {})).value(tree)
    if inspect.isfunction(made):
        made = _Reader(text, dict(supplied or {})).call(made, (), {})
    if not isinstance(made, Builder):
        raise ConfigError(f"found {text!r}, which is no builder; {nearest(text, builders())}")
    return made


class _Reader:
    """Turns a parsed text into values."""

    def __init__(self, text: str, supplied: Supplied):
        self.text, self.supplied = text, supplied

    def value(self, node: ast.expr) -> Any:
        """The value of a node, by its kind."""
        read = _NODES.get(type(node))
        if read is None:
            raise ConfigError(
                f"found `{ast.unparse(node)}` in builder {self.text!r}; expected calls, numbers, texts and lists"
            )
        return read(self, node)

    def name(self, node: ast.Name) -> Any:
        """A public function by its name."""
        known = _names()
        if node.id not in known:
            raise ConfigError(f"found no builder `{node.id}`; {nearest(node.id, known)}")
        return known[node.id]

    def called(self, node: ast.Call) -> Any:
        """The result of a call."""
        function = self.value(node.func)
        if any(keyword.arg is None for keyword in node.keywords):
            raise ConfigError(f"found `**` in builder {self.text!r}; expected options by name")
        named = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        return self.call(function, [self.value(argument) for argument in node.args], named)

    def call(self, function: Any, positional: Any, named: dict[str, Any]) -> Any:
        """Call with the supplied values for what is left out."""
        signature = inspect.signature(function)
        unknown = [name for name in named if name not in signature.parameters]
        if unknown:
            raise ConfigError(
                f"found no option `{unknown[0]}` of `{function.__name__}`; {nearest(unknown[0], signature.parameters)}"
            )
        try:
            bound = signature.bind_partial(*positional, **named)
        except TypeError as error:
            raise ConfigError(f"found {self.text!r}: {error}; expected {function.__name__}{signature}") from None
        for name, parameter in signature.parameters.items():
            if name in bound.arguments:
                _check_kind(function.__name__, name, bound.arguments[name], str(parameter.annotation))
                continue
            if name in self.supplied:
                bound.arguments[name] = self.supplied[name]()
            elif parameter.default is parameter.empty:
                raise ConfigError(f"found no `{name}` in `{ast.unparse(ast.parse(self.text))}`; expected {name}=...")
        try:
            return function(*bound.args, **bound.kwargs)
        except TypeError as error:
            raise ConfigError(f"found {self.text!r}: {error}; expected {function.__name__}{signature}") from error


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text in quotes"),
    "bool": ((bool,), "True or False"),
    "Reward": ((Reward,), "a reward such as -count('cat')"),
}


def _check_kind(function: str, name: str, value: Any, annotation: str) -> None:
    """Refuse a value of another type than the parameter's, before a model is loaded for it."""
    kinds, expected = _KINDS.get(annotation, ((object,), ""))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
        raise ConfigError(f"found {name}={value!r} in `{function}`; expected {expected}")


_NODES: Mapping[type, Callable[[_Reader, Any], Any]] = {
    ast.Constant: lambda reader, node: node.value,
    ast.List: lambda reader, node: [reader.value(item) for item in node.elts],
    ast.Tuple: lambda reader, node: tuple(reader.value(item) for item in node.elts),
    ast.Dict: lambda reader, node: {
        reader.value(key): reader.value(value) for key, value in zip(node.keys, node.values, strict=True)
    },
    ast.Name: lambda reader, node: reader.name(node),
    ast.Call: lambda reader, node: reader.called(node),
    ast.UnaryOp: lambda reader, node: _operator(reader, node)(reader.value(node.operand)),
    ast.BinOp: lambda reader, node: _operator(reader, node)(_made(reader, node.left), _made(reader, node.right)),
}


def _made(reader: _Reader, node: ast.expr) -> Any:
    """A value; a bare name between operators is called, so that `a() >> b` reads as `a() >> b()`."""
    value = reader.value(node)
    return reader.call(value, (), {}) if isinstance(node, ast.Name) else value


def _operator(reader: _Reader, node: Any) -> Callable[..., Any]:
    if type(node.op) not in _OPERATORS:
        raise ConfigError(f"found `{ast.unparse(node)}` in builder {reader.text!r}; expected one of >> + - *")
    return _OPERATORS[type(node.op)]


def _names() -> dict[str, Any]:
    """Public functions of the rooms, and the helpers that name a server."""
    found: dict[str, Any] = {}
    for room in _ROOMS:
        module = importlib.import_module(room)
        found |= {name: getattr(module, name) for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    for name, module in _HELPERS.items():
        found[name] = getattr(importlib.import_module(module), name)
    return {name: value for name, value in found.items() if name not in ("run", *_NOT_BY_NAME)}
