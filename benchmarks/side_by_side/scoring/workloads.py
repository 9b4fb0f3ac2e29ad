"""What is measured: pairs, lists, trees, pictures, and sweeps over lengths and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from omnipref.objectives import Objective, dpo, plackett_luce
from side_by_side.scoring.bench import Bench, Point, Workload
from side_by_side.scoring.peers import pairs, ranking
from side_by_side.scoring.samples import NEGATIVE, TREE, Draw, Sample, lengths, real_pairs
from side_by_side.scoring.shapes import VISION

PROMPT, RESPONSE = 600, 64
PICTURE_PROMPT, PICTURE_RESPONSE = 64, 96
STEP, TREE_PROMPT = 64, 300
HH_BATCH, HH_BATCHES, HH_MAX_LENGTH, HH_VOCABULARY = 4, 2, 512, 8000
RATIOS = (0.4, 1, 2, 4, 8, 12)
CASE_TOKENS = 512
SPREADS = (0.0, 0.25, 0.5, 0.75, 1.0)
SPREAD_PROMPT, SPREAD_RESPONSE, SPREAD_BATCH = 160, 64, 4
SIZES = (1, 2, 4, 8)
SIZE_PROMPT, SIZE_RESPONSE = 192, 48
OURS = ("loop", "rows", "forest", "forest_cached")
PAIR = ((0, 1),)


def tree_objective() -> Objective:
    """DPO on every pair of sibling steps."""
    terms = [dpo(chosen=f"{step}/chosen", rejected=f"{step}/rejected") for step in TREE]
    return sum(terms[1:], terms[0])


def picture_objective() -> Objective:
    """DPO on the responses, and on the pictures."""
    return dpo() + dpo(rejected=NEGATIVE)


def _drawn(
    count: float, make: Callable[[Draw], Sample], label: str, *, anew: bool = False
) -> Callable[[Bench], list[Point]]:
    """One batch of samples; lists and trees take fewer preferences than pairs for as many tokens.

    Args:
        count: preferences over those of a step of pairs.
        make: draws one.
        label: what it is called.
        anew: draw others for every round, such as pictures, whose features could be kept from an earlier round.
    """

    def points(bench: Bench) -> list[Point]:
        draw, size = bench.draw(), max(1, math.ceil(bench.batch * count))
        rounds = bench.settings.rounds + 1 if anew else 1
        draws = [[[make(draw) for _ in range(size)]] for _ in range(rounds)]
        return [Point(f"{size} × {label}", draws, lengths(draws[0][0]))]

    return points


def _real(bench: Bench) -> list[Point]:
    batch, vocabulary = HH_BATCH if bench.shape.shrink == 1 else 2, min(HH_VOCABULARY, bench.shape.vocabulary)
    source, aside = Path(bench.settings.data), bench.folder / "bad.jsonl"
    found = real_pairs(source, batch * HH_BATCHES, HH_MAX_LENGTH, vocabulary, aside, bench.settings.seed)
    batches = [found.samples[start : start + batch] for start in range(0, len(found.samples), batch)]
    return [Point(f"{HH_BATCHES} steps of {batch} pairs", [batches], found.facts)]


def _ratios(bench: Bench) -> list[Point]:
    draw, points = bench.draw(), []
    for ratio in RATIOS:
        response = CASE_TOKENS / (1 + ratio)
        samples = [draw.pair(CASE_TOKENS - response, response, response) for _ in range(bench.batch)]
        points.append(Point(f"{ratio:g}", [[samples]], lengths(samples), ratio))
    return points


def _spreads(bench: Bench) -> list[Point]:
    """Lengths drawn evenly from mean × (1 ± spread), the same draws stretched for every spread."""
    places = np.random.default_rng(bench.settings.seed).uniform(-1, 1, (SPREAD_BATCH, 3))
    places -= places.mean(0)
    draw, points = bench.draw(), []
    for spread in SPREADS:
        factors = 1 + spread * places / np.abs(places).max()
        sizes = factors * (SPREAD_PROMPT, SPREAD_RESPONSE, SPREAD_RESPONSE)
        samples = [draw.pair(*(float(size) for size in row)) for row in sizes]
        points.append(Point(f"{spread:g}", [[samples]], lengths(samples), spread))
    return points


def _sizes(bench: Bench) -> list[Point]:
    draw = bench.draw()
    return [
        Point(f"{size}", [[[draw.pair(SIZE_PROMPT, SIZE_RESPONSE, SIZE_RESPONSE) for _ in range(size)]]], x=size)
        for size in SIZES
    ]


WORKLOADS: Mapping[str, Workload] = {
    "text_pairs": Workload(
        title=f"Text pairs: prompt {PROMPT}, responses {RESPONSE}",
        sides=("trl", *OURS),
        objective=dpo,
        loss=pairs(*PAIR),
        points=_drawn(1, lambda draw: draw.pair(PROMPT, RESPONSE, RESPONSE), "pair"),
    ),
    "hh": Workload(
        title="Real pairs of HH-RLHF",
        sides=("trl", *OURS),
        objective=dpo,
        loss=pairs(*PAIR),
        points=_real,
        needs_data=True,
    ),
    "list_4": Workload(
        title=f"Lists of 4: prompt {PROMPT}, responses {RESPONSE}",
        sides=OURS,
        objective=plackett_luce,
        loss=ranking,
        points=_drawn(0.5, lambda draw: draw.list(PROMPT, RESPONSE, 4), "list"),
    ),
    "list_8": Workload(
        title=f"Lists of 8: prompt {PROMPT}, responses {RESPONSE}",
        sides=OURS,
        objective=plackett_luce,
        loss=ranking,
        points=_drawn(0.5, lambda draw: draw.list(PROMPT, RESPONSE, 8), "list"),
    ),
    "tree": Workload(
        title=f"A tree of 5 paths: prompt {TREE_PROMPT}, 8 steps of {STEP}, 4 pairs of siblings",
        sides=("sequence", *OURS),
        objective=tree_objective,
        loss=pairs(*((2 * k, 2 * k + 1) for k in range(len(TREE)))),
        points=_drawn(0.5, lambda draw: draw.tree(TREE_PROMPT, STEP), "tree"),
    ),
    "ratios": Workload(
        title=f"Prompt : response, cases of {CASE_TOKENS} tokens",
        sides=("loop", "forest"),
        objective=dpo,
        loss=pairs(*PAIR),
        points=_ratios,
        axis="prompt : response",
    ),
    "spread": Workload(
        title=f"Spread of lengths around {SPREAD_PROMPT} and {SPREAD_RESPONSE}, {SPREAD_BATCH} pairs",
        sides=("loop", "forest"),
        objective=dpo,
        loss=pairs(*PAIR),
        points=_spreads,
        axis="spread",
    ),
    "batch_size": Workload(
        title=f"Pairs in a step: prompt {SIZE_PROMPT}, responses {SIZE_RESPONSE}",
        sides=("loop", "forest"),
        objective=dpo,
        loss=pairs(*PAIR),
        points=_sizes,
        axis="pairs",
        linear=True,
    ),
    "vision_pairs": Workload(
        title=f"Vision-language pairs: 576 image tokens, {PICTURE_PROMPT} of text, responses {PICTURE_RESPONSE}",
        sides=("trl", *OURS),
        objective=dpo,
        loss=pairs(*PAIR),
        points=_drawn(1, lambda draw: draw.picture_pair(PICTURE_PROMPT, PICTURE_RESPONSE), "pair", anew=True),
        kind=VISION,
    ),
    "two_images": Workload(
        title=f"Three cases over two images: 576 image tokens each, {PICTURE_PROMPT} of text, "
        f"responses {PICTURE_RESPONSE}",
        sides=OURS,
        objective=picture_objective,
        loss=pairs((0, 1), (0, 2)),
        points=_drawn(0.5, lambda draw: draw.two_pictures(PICTURE_PROMPT, PICTURE_RESPONSE), "preference", anew=True),
        kind=VISION,
    ),
}
"""Text first: each kind of model is built once."""
MAIN: Sequence[str] = tuple(name for name, workload in WORKLOADS.items() if not workload.axis)
