"""Ranked and scored lists of responses, and trees of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omnipref.errors import DataError
from omnipref.preferences.content import Media, prompt_context, response
from omnipref.preferences.fields import Row, described, finite
from omnipref.preferences.formats.assemble import Messages, leftover, ranked_by, same_length, scored
from omnipref.preferences.formats.format import Format, columns_match
from omnipref.preferences.records import RAW, Message, Part, Preference

_LISTS = ("responses", "completions", "scores", "ranks", "prompt", "image", "images")


def _listed(row: Row) -> Iterable[Preference]:
    context = prompt_context(row, "prompt", Media.of(row))
    key = "responses" if row.has("responses") else "completions"
    by = "scores" if row.has("scores") else "ranks"
    values, numbers = same_length(row, key, by)
    answers = [response(value, f"{key}[{k}]", context) for k, value in enumerate(values)]
    numbers = [finite(number, f"{by}[{k}]") for k, number in enumerate(numbers)]
    yield {"scores": scored, "ranks": ranked_by}[by](context, answers, numbers, meta=leftover(row, *_LISTS))


def _stepped(row: Row) -> Iterable[Preference]:
    """Rows whose responses are objects `{"steps": [...], "score": ...}`."""
    context = prompt_context(row, "prompt", Media.of(row))
    items = row.rows("responses")
    answers = [
        _steps([_step(step, item.name(f"steps[{i}]")) for i, step in enumerate(item.items("steps"))], context)
        for item in items
    ]
    yield scored(context, answers, [item.number("score") for item in items], meta=leftover(row, *_LISTS))


def _tree(row: Row) -> Iterable[Preference]:
    context = prompt_context(row, "prompt", Media.of(row))
    roots = row.rows("tree") if isinstance(row.get("tree"), (list, tuple)) else [row.child("tree")]
    paths = [path for root in roots for path in _paths(root, ())]
    answers = [_steps([text for text, _ in path], context) for path in paths]
    values = {f"response_{k}": [value for _, value in path] for k, path in enumerate(paths)}
    meta = {**leftover(row, *_LISTS, "tree"), "step_values": values}
    ends = [_last_value(path, k) for k, path in enumerate(paths)]
    yield scored(context, answers, ends, meta=meta)


def _paths(node: Row, before: tuple[tuple[str, float | None], ...]) -> Iterator[tuple[tuple[str, float | None], ...]]:
    text = next((node.text(key) for key in ("text", "step") if node.has(key)), "")
    value = next((node.number(key) for key in ("value", "score", "reward") if node.has(key)), None)
    path = (*before, (text, value)) if text else before
    if node.get("children"):
        for child in node.rows("children"):
            yield from _paths(child, path)
    elif not text:
        raise DataError("a leaf without text", "a step", cure="drop the leaf", field=node.name("text"))
    else:
        yield path


def _last_value(path: tuple[tuple[str, float | None], ...], k: int) -> float:
    value = path[-1][1]
    if value is None:
        raise DataError(f"a leaf without value (path {k})", "a value at every leaf", cure="score it", field="tree")
    return value


def _steps(steps: list[str], context: Messages) -> Messages:
    role = RAW if any(message.role == RAW for message in context) else "assistant"
    return (Message(role, tuple(Part("text", step) for step in steps)),)


def _step(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(described(value), "a step's text", cure="mend or drop the record", field=field)
    return value


def _has_steps(columns: frozenset[str], row: Mapping[str, Any]) -> bool:
    responses = row.get("responses")
    return "prompt" in columns and isinstance(responses, list) and bool(responses) and _is_stepped(responses[0])


def _is_stepped(value: Any) -> bool:
    return isinstance(value, Mapping) and "steps" in value


FORMATS = (
    Format(
        "list",
        columns_match(
            "prompt",
            any_of=("scores", "ranks"),
            none_of=("tree", "answers", "labels"),
            responses=list,
            completions=list,
        ),
        _listed,
        "Higher scores or lower ranks are better, equal ones tie. Scores are kept as score/<role>.",
    ),
    Format(
        "step_list",
        _has_steps,
        _stepped,
        "One case per response; its steps are its segments; higher scores are better.",
    ),
    Format(
        "tree",
        columns_match("prompt", "tree"),
        _tree,
        "One case per path from root to leaf; steps are its segments; the leaf's value is its score. Values of all "
        "steps are kept in meta as step_values.",
    ),
)
