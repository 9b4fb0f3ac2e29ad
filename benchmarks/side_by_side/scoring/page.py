"""The result as a page: the targets, then a table per question with a sentence of what it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from side_by_side.scoring import targets
from side_by_side.scoring.bench import NAMES
from side_by_side.scoring.clock import line, ratio, spread
from side_by_side.scoring.shapes import SHAPES

Question = Mapping[str, Any]


def page(result: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    parts = [_about(result), _targets(result)]
    for name, question in result["questions"].items():
        body = _sweep(question) if question["axis"] else _sides(question, result["memory"].get(name, {}))
        parts.append([f"## {question['title']}", "", *body])
    return "\n".join("\n".join([*part, ""]) for part in [*parts, _memory(result), _notes(result)] if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def quartiles(found: Mapping[str, Any], form: str = "{:.2f}") -> str:
    """`median (lower quartile to upper)`."""
    return f"{form.format(found['median'])} ({form.format(found['low'])} to {form.format(found['high'])})"


def _about(result: Mapping[str, Any]) -> list[str]:
    settings, facts = result["settings"], result["machine"]
    device = facts.get("device") or f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} thread(s)"
    commits = sorted({question["commit"] for question in result["questions"].values()})
    return [
        "# Exact preference scoring, side by side",
        "",
        f"What one step costs: the policy's forward and backward pass with a frozen reference model, no optimiser "
        f"step. Random weights, {settings['dtype']}: {SHAPES[settings['shape']].said}. The sides take turns in one "
        f"process, {settings['rounds']} rounds after a warm-up; numbers are medians, with quartiles in brackets; a "
        "ratio is taken within each round.",
        "",
        f"{device}; commit: {', '.join(commits) or 'none'}; {facts['versions']}, TRL {facts['trl']}. "
        f"`{facts['command']}`",
    ]


def _targets(result: Mapping[str, Any]) -> list[str]:
    said = {True: "reached", False: "not reached", None: "not measured"}
    rows = [
        [
            one["what"],
            f"{'≥' if one['at_least'] else '≤'} {one['bound']:g}",
            "" if one["value"] is None else f"{one['value']:.2f}",
            said[one["reached"]],
        ]
        for one in result["targets"]
    ]
    known = [one["reached"] for one in result["targets"] if one["reached"] is not None]
    return [
        "## What was asked for",
        "",
        "Asked of 6 layers, 512 wide, float32, 2 threads on a CPU; at other sizes the same quantities are shown.",
        "",
        *table(["", "asked", "measured", ""], rows),
        "",
        f"{sum(known)} of {len(known)} measured targets are reached.",
    ]


def _sides(question: Question, memory: Mapping[str, Any]) -> list[str]:
    if not question["points"]:
        return ["Not measured: no time was left."]
    point = question["points"][0]
    cells = [_side(point, memory, side) for side in question["sides"]]
    columns = [name for name in COLUMNS if any(name in cell for cell in cells)]
    rows = [[cell.get(name, "") for name in columns] for cell in cells]
    return [*_sample(point), "", *table(columns, rows), "", *_sentence(question, point)]


def _sample(point: Mapping[str, Any]) -> list[str]:
    facts, tokens = point["facts"], point["distinct"]["tokens"] / point["preferences"]
    text = f"{point['label']} a round; {tokens:.0f} distinct tokens a preference"
    if "characters_per_token" in facts:
        text += (
            f"; mean prompt {facts['mean_prompt']:.0f} and response {facts['mean_response']:.0f} tokens of a BPE of "
            f"{facts['vocabulary']:,} trained on the file ({facts['characters_per_token']:.1f} characters a token), "
            f"cases up to {facts['max_length']}, in shuffled order"
        )
    return [text + "."]


COLUMNS = (
    "side",
    "seconds",
    "× our forest",
    "tokens a preference",
    "token-count limit",
    "reached of it",
    "FLOP limit",
    "reached of that",
    "MFU, distinct tokens",
    "MFU, padded rows",
    "peak memory, MiB",
    "of the loop's",
)


def _side(point: Mapping[str, Any], memory: Mapping[str, Any], side: str) -> dict[str, str]:
    cell = {"side": NAMES[side]}
    if side in memory:
        cell["peak memory, MiB"] = f"{memory[side]['rise_mib']:.0f}"
        if "loop" in memory:
            cell["of the loop's"] = f"{memory[side]['rise_mib'] / memory['loop']['rise_mib']:.2f}"
    if not point["seconds"].get(side):
        return cell | {"seconds": point["failed"].get(side, "not measured")}
    cell["seconds"] = quartiles(spread(point["seconds"][side]), _seconds(point))
    cell["tokens a preference"] = f"{point['pushed'][side] / point['preferences']:.0f}"
    if found := targets.utilisation(point, side):
        cell["MFU, distinct tokens"] = f"{found[0]:.1%}"
        if side == "loop":
            cell["MFU, padded rows"] = f"{found[1]:.1%}"
    if not point["seconds"].get("forest"):
        return cell
    relation = ratio(point["seconds"], side, "forest")
    cell["× our forest"] = quartiles(relation)
    cell["token-count limit"] = f"{targets.limit(point, side):.2f}"
    cell["reached of it"] = f"{relation['median'] / targets.limit(point, side):.0%}"
    if side == "loop":
        flops = point["flops"]["padded"] / point["flops"]["distinct"]
        cell |= {"FLOP limit": f"{flops:.2f}", "reached of that": f"{relation['median'] / flops:.0%}"}
    return cell


def _seconds(point: Mapping[str, Any]) -> str:
    """Three decimals where steps take less than a second."""
    return "{:.2f}" if max(map(max, point["seconds"].values())) > 1 else "{:.3f}"


def _sentence(question: Question, point: Mapping[str, Any]) -> list[str]:
    seconds, said = point["seconds"], []
    if not seconds.get("forest"):
        return ["Our forest was not measured."]
    for side in ("trl", "loop", "rows"):
        if seconds.get(side):
            said.append(f"{ratio(seconds, side, 'forest')['median']:.2f} × the speed of {NAMES[side]}")
    text = f"The forest runs at {', '.join(said)}." if said else ""
    if seconds.get("loop"):
        text += (
            f" Token counts allow {targets.limit(point, 'loop'):.2f} × over the loop; "
            f"{targets.share(point):.0%} of that is reached."
        )
    if seconds.get("sequence"):
        text += (
            f" It costs {ratio(seconds, 'forest', 'sequence')['median']:.2f} × what as many tokens cost in a plain "
            "sequence with as many scored places."
        )
    if seconds.get("forest_cached"):
        further = ratio(seconds, "forest", "forest_cached")["median"]
        text += f" With cached reference scores a step is a further {further:.2f} × as fast."
    text += f" Losses of the sides differ by at most {point['loss_gap']:.0e}."
    return [text.strip(), *(f"{NAMES[side]}: {why}." for side, why in question["missing"].items())]


def _sweep(question: Question) -> list[str]:
    points = [point for point in question["points"] if point["seconds"].get("forest")]
    if len(points) < 2:
        return ["Not measured: no time was left."]
    against = bool(points[0]["seconds"].get("loop"))
    head = [question["axis"], "forest, seconds"]
    if against:
        head = [*head, "loop, seconds", "loop × forest", "token-count limit", "reached of it", "FLOP limit"]
    rows = [_sweep_row(point, against) for point in points]
    summary = _linear if question["linear"] else _range
    return [*table(head, rows), "", *summary(points, against)]


def _sweep_row(point: Mapping[str, Any], against: bool) -> list[str]:
    seconds, form = point["seconds"], _seconds(point)
    row = [point["label"], quartiles(spread(seconds["forest"]), form)]
    if not against:
        return row
    flops = point["flops"]["padded"] / point["flops"]["distinct"]
    return [
        *row,
        quartiles(spread(seconds["loop"]), form),
        quartiles(ratio(seconds, "loop", "forest")),
        f"{targets.limit(point, 'loop'):.2f}",
        f"{targets.share(point):.0%}",
        f"{flops:.2f}",
    ]


def _range(points: Sequence[Mapping[str, Any]], against: bool) -> list[str]:
    if not against:
        return []
    found = [ratio(point["seconds"], "loop", "forest")["median"] for point in points]
    shares = [targets.share(point) for point in points]
    return [
        f"From {points[0]['label']} to {points[-1]['label']} the forest runs at {found[0]:.2f} to {found[-1]:.2f} × "
        f"the loop's speed; it reaches {min(shares):.0%} to {max(shares):.0%} of what token counts allow."
    ]


def linearity(points: Sequence[Mapping[str, Any]], side: str) -> dict[str, float]:
    """How linear a side's cost is in the quantity of a sweep, from the least seconds of each point.

    The least are what the machine takes when nothing else holds it up.
    """
    return line([point["x"] for point in points], [min(point["seconds"][side]) for point in points])


def _linear(points: Sequence[Mapping[str, Any]], against: bool) -> list[str]:
    said = []
    for side in ("forest", "loop")[: 1 + against]:
        found = linearity(points, side)
        said.append(
            f"{NAMES[side]}: {found['start']:.3f} s and {found['slope']:.3f} s for each, at most "
            f"{found['deviation']:.0%} off that line, growing with the power {found['exponent']:.2f}"
        )
    return [f"A straight line through the least seconds of each size: {'; '.join(said)}. Linear is the power 1."]


def _memory(result: Mapping[str, Any]) -> list[str]:
    if not result["memory"]:
        return []
    sides = list(dict.fromkeys(side for found in result["memory"].values() for side in found))
    rows = [
        [name, *(_rise(found[side]) if side in found else "" for side in sides), _over_loop(result, name)]
        for name, found in result["memory"].items()
    ]
    return [
        "## Peak memory",
        "",
        *table(["", *(NAMES[side] for side in sides), "forest over loop"], rows),
        "",
        "MiB above the state before the step (both models loaded, batch laid out); in brackets without the gradients "
        "of the weights, which are the same for every side. On a CPU it is the peak of resident memory of a process "
        "of its own for each number, on a GPU that of the allocator.",
    ]


def _rise(found: Mapping[str, float]) -> str:
    return f"{found['rise_mib']:.0f} ({found['rise_mib'] - found['gradients_mib']:.0f})"


def _over_loop(result: Mapping[str, Any], name: str) -> str:
    value = targets.memory_ratio(result, name)
    return "" if value is None else f"{value:.2f}"


def _notes(result: Mapping[str, Any]) -> list[str]:
    facts, most = result["machine"], result["settings"]["max_batch_tokens"]
    parts = f"in parts of at most {most} tokens" if most else "each batch as a whole"
    loads = [question["load_before"] for question in result["questions"].values()]
    return [
        "## How to read it",
        "",
        "- **Token-count limit**: tokens that a side pushes through the layers, padding included, over the distinct "
        "tokens of the preferences' trees. **FLOP limit**: the same with attention and the head weighed in, and "
        "with the last layer's feed-forward part where a state is read, as our forest computes it; the attention of a "
        "padded row counts as causal. Shares above 100 % of the token-count limit come from that part.",
        "- **Hand-written loop**: chosen and rejected rows in one right-padded batch, the stock model's layers, the "
        "head at scored places only, float32 log-softmax; no attention mask where nothing is padded, so that "
        "attention runs as causal. Steps of one path share a row.",
        f"- **TRL** {facts['trl']}: `DPOTrainer`'s own collator, `compute_loss` (with its metrics) and backward on "
        "the same token ids. Without Triton, as on a CPU, it runs its head over every place, prompts and padding "
        "included, as its source says.",
        "- **omnipref**: `PreferenceTrainer.training_step` (with its metrics) on the layout and attention that "
        f"`omnipref train` chooses, {parts}.",
        "- Batches are laid out before the clock starts. Both models stay in memory; dropout is 0. What encodes "
        "pictures is frozen, equal in both models, and runs within the step; pictures are other ones in every round, "
        "so that no features are kept from an earlier one. Other weights of the reference are drawn from another "
        "seed, so that losses differ from log 2 and can be compared.",
        f"- Load of the machine before the questions: {min(loads, default=0):.2f} to {max(loads, default=0):.2f}. "
        "Beside the measured work, anything near 1 or more disturbs seconds, and ratios less.",
    ]
