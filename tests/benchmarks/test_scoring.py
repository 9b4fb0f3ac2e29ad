"""The benchmark of exact scoring: its sides compute the same, its counts and targets are right, its command resumes."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scoring
from side_by_side.scoring import clock, costs, memory, page, run, shapes, targets
from side_by_side.scoring.bench import Bench, Settings
from side_by_side.scoring.samples import Sample

from omnipref.errors import OmniprefError
from omnipref.policies.autoregressive.encode import encode_prompt
from omnipref.preferences import RAW, Message, Part

# TRL's and its dependencies' own warnings are theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore")
needs_trl = pytest.mark.skipif(not importlib.util.find_spec("trl"), reason="the peer is in the extra `bench`")
DATA = Path(__file__).parents[2] / "../shared/data/hh-rlhf-harmless/pairs.jsonl.gz"
QWEN_TEXT = {
    **shapes.QWEN_TEXT,
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}
QWEN_VISION = {
    **shapes.QWEN_VISION,
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
}


def silent(_: str) -> None:
    pass


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded() -> Bench:
    return Bench(Settings(shape="tiny", threads=1, rounds=1, data=str(DATA)))


@pytest.fixture
def bench(loaded: Bench) -> Bench:
    loaded.load("text")
    return loaded


@needs_trl
@pytest.mark.parametrize(
    ("name", "pushed", "distinct"),
    [
        # prompt 30, responses 3, two pairs: 2 · 2 · 33 against 2 · 36
        ("text_pairs", {"trl": 132, "loop": 132, "rows": 132, "forest": 72, "forest_cached": 72}, 72),
        # one list of 8: 8 · 33 against 30 + 24
        ("list_8", {"loop": 264, "rows": 264, "forest": 54, "forest_cached": 54}, 54),
        # prompt 15, steps of 3: 5 paths of at most 3 steps, 8 cases, and 15 + 8 · 3 tokens in all
        ("tree", {"sequence": 39, "loop": 120, "rows": 192, "forest": 39, "forest_cached": 39}, 39),
        # 16 image tokens, 3 of text, responses 5: two pairs
        ("vision_pairs", {"trl": 96, "loop": 96, "rows": 96, "forest": 58, "forest_cached": 58}, 58),
        # the same over two pictures: 3 · 24 against 2 · 19 + 3 · 5
        ("two_images", {"loop": 72, "rows": 72, "forest": 53, "forest_cached": 53}, 53),
    ],
)
def test_sides_compute_the_same_from_the_tokens_they_should_push(bench, name, pushed, distinct):
    found = run.question(bench, name, clock.Deadline(), silent)
    (point,) = found["points"]
    assert point["pushed"] == pushed and point["distinct"]["tokens"] == distinct
    assert max(point["loss_gap"], point["gradient_gap"]) < 1e-5
    assert point["losses"]["loop"][0] != pytest.approx(np.log(2), abs=1e-3)  # the reference is another model
    assert {side: len(seconds) for side, seconds in point["seconds"].items()} == dict.fromkeys(pushed, 1)


@needs_trl
def test_sides_agree_on_qwens_pictures(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torchvision", reason="Qwen's processor holds one for videos, which needs it")
    made = shapes.Shape(
        text=lambda: hf.Qwen2Config(**QWEN_TEXT),
        vision=shapes.qwen_vl(QWEN_TEXT, QWEN_VISION, [1, 1, 2]),
        processor=shapes.qwen_processor,
        picture=84,
        shrink=0.05,
    )
    monkeypatch.setitem(shapes.SHAPES, "tiny-qwen", made)  # type: ignore[arg-type]
    found = run.question(
        Bench(Settings(shape="tiny-qwen", threads=1, rounds=1)), "vision_pairs", clock.Deadline(), silent
    )
    (point,) = found["points"]
    # 84 pixels are 3 × 3 tokens; with 3 of text and responses of 5: 4 rows of 17
    assert point["pushed"]["loop"] == point["pushed"]["trl"] == 4 * 17 and point["loss_gap"] < 1e-5


def test_the_sizes_for_gpus_are_those_of_the_public_models():
    with torch.device("meta"):
        llama = hf.AutoModelForCausalLM.from_config(shapes.SHAPES["llama-7b"].text())
        vision = shapes.SHAPES["qwen2.5-vl-3b"].vision
        assert vision is not None
        qwen = hf.AutoModelForImageTextToText.from_config(vision())
    assert sum(p.numel() for p in llama.parameters()) == 6_738_415_616  # Llama-2 7B
    assert sum(p.numel() for p in qwen.parameters()) == 3_754_622_976  # Qwen2.5-VL 3B


def test_pictures_of_the_measured_size_have_576_tokens(bench):
    shape = shapes.SHAPES["6x512"]
    owner: Any = shape.owner("vision")
    picture = Part("image", np.zeros((shape.picture, shape.picture, 3), dtype=np.uint8))
    prompt = encode_prompt(owner, (Message.of(RAW, picture, " w20 w21 w22"),))
    assert (prompt.token_type > 0).sum() == 576 and len(prompt.ids) == 579
    assert prompt.ids[-3:].tolist() == [20, 21, 22]


def test_the_loop_scores_what_the_stock_logits_say(bench):
    loop = bench.loop(lambda rewards: -rewards.sum(1))
    samples = [bench.draw().pair(200, 100, 60), bench.draw().pair(80, 40, 100)]
    batch = loop.prepare(samples)
    found = loop.logps(bench.reference, batch)
    expected = []
    for case in (case for sample in samples for case in sample.encoded.cases):
        log_softmax = bench.reference(torch.from_numpy(case.ids)[None]).logits[0].log_softmax(-1)
        start = len(case.prompt.ids)
        expected.append(float(sum(log_softmax[place - 1, case.ids[place]] for place in range(start, case.length))))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert batch.mask is not None and batch.ids.shape == (4, 15)


def test_work_is_counted_token_by_token(bench):
    sample = bench.draw().tree(300, 64)
    found = costs.distinct([sample])
    paths = {tuple(case.ids[: k + 1]) for case in sample.encoded.cases for k in range(case.length)}
    scored = {
        tuple(case.ids[: k + 1]) for case in sample.encoded.cases for k in range(len(case.prompt.ids), case.length)
    }
    assert found == costs.Work(len(paths), sum(map(len, paths)), len(scored), 0, len(scored))
    ids, count = costs.unrolled(sample.encoded)
    assert len(ids) == found.tokens and count == found.scored
    rows = costs.padded([[sample]])
    # five paths, the longest of 15 + 3 · 3 tokens
    assert (rows.tokens, rows.pairs, rows.scored, rows.last) == (5 * 24, 5 * 24 * 25 // 2, 8 * 3, 5 * 24)


def test_flops_are_those_of_the_matrix_products(bench):
    meter, tokens = bench.meter(), 40
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bench.reference(torch.arange(tokens)[None] + 20)
    products = sum(flops for name, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(name))
    assert products == tokens * (meter.token + meter.last + meter.place)
    work = costs.Work(tokens=10, pairs=55, scored=3, pictures=0, last=4)
    assert meter.step(work) == 4 * (10 * meter.token + 4 * meter.last + 55 * 4 * 32 * 2 + 3 * meter.place)
    assert meter.step(work, reference=False) * 4 == meter.step(work) * 3


def test_equal_pictures_are_encoded_once_where_models_share_features():
    meter = costs.Meter(1, 1, 1, 100)
    work = costs.Work(pictures=2)
    assert [meter.step(work), meter.step(work, shared=True), meter.step(work, reference=False)] == [400, 200, 200]


class Noted:
    """A side that writes its name down and pulls one weight."""

    def __init__(self, name: str, weight: torch.nn.Linear, notes: list[str], scale: float = 1.0):
        self.name, self.weight, self.notes, self.scale = name, weight, notes, scale

    def ready(self) -> None:
        self.notes.append(f"ready {self.name}")

    def prepare(self, samples: Any) -> Any:
        return samples

    def pushed(self, batch: Any) -> int:
        return batch

    def step(self, batch: int) -> torch.Tensor:
        self.notes.append(f"{self.name}{batch}")
        loss = self.scale * self.weight(torch.ones(1, 1)).sum()
        loss.backward()
        return loss.detach()


def test_sides_take_turns_and_batches_change_with_the_round():
    notes: list[str] = []
    model = torch.nn.Linear(1, 1)
    sides: Any = {name: Noted(name, model, notes) for name in "ab"}
    draws = {"a": [[1, 2], [3], [4]], "b": [[5]]}
    found = clock.alternate(sides, draws, model, "cpu", 3, clock.Deadline())
    steps = [note for note in notes if "ready" not in note]
    assert steps == ["a1", "a2", "b5", "a3", "b5", "a4", "b5", "a1", "a2", "b5"]
    assert len(notes) == 2 * len(steps)
    assert found.pushed == {"a": 3, "b": 5} and all(len(values) == 3 for values in found.seconds.values())
    assert model.weight.grad is None


def test_no_round_starts_after_the_deadline_but_two_are_made():
    times = iter([0.0, *[10.0] * 99])
    deadline = clock.Deadline(5.0, lambda: next(times))
    model = torch.nn.Linear(1, 1)
    sides: Any = {"a": Noted("a", model, [])}
    assert len(clock.alternate(sides, {"a": [[1]]}, model, "cpu", 9, deadline).seconds["a"]) == 2


def test_sides_that_differ_are_refused():
    model = torch.nn.Linear(1, 1)
    sides: Any = {"a": Noted("a", model, []), "b": Noted("b", model, [], scale=1.01)}
    timed = clock.alternate(sides, {"a": [[1]], "b": [[1]]}, model, "cpu", 1, clock.Deadline())
    with pytest.raises(OmniprefError, match="compute different things"):
        clock.check_equal(timed, 1e-4)
    assert clock.check_equal(timed, 1e-4, apart=["b"]) == {"loss_gap": 0, "gradient_gap": 0}


def test_ratios_are_of_one_round_and_lines_tell_what_is_linear():
    seconds = {"a": [2.0, 6.0, 4.0], "b": [1.0, 2.0, 4.0]}
    assert clock.ratio(seconds, "a", "b") == {"median": 2.0, "low": 1.5, "high": 2.5, "n": 3}
    assert clock.line([1, 2, 4, 8], [1, 4, 16, 64])["exponent"] == pytest.approx(2)
    assert clock.line([1, 2, 4, 8], [1, 4, 16, 64])["deviation"] > 0.2
    assert clock.line([1, 2, 4, 8], [3, 5, 9, 17])["deviation"] == pytest.approx(0)


def result(**changes: Any) -> dict[str, Any]:
    point = {
        "seconds": {
            "trl": [8.0, 9.0, 8.0],
            "loop": [4.0, 3.0, 3.2],
            "forest": [2.0, 2.0, 2.0],
            "forest_cached": [1.6] * 3,
        },
        "pushed": {"trl": 2656, "loop": 2656, "forest": 1456, "forest_cached": 1456},
        "distinct": {"tokens": 1456},
        "flops": {"distinct": 100.0, "distinct_cached": 75.0, "padded": 170.0},
        "peak_flops": 200.0,
    }
    measured = {"forest": {"rise_mib": 60.0}, "loop": {"rise_mib": 100.0}}
    return {"questions": {"text_pairs": {"axis": "", "points": [point | changes]}}, "memory": {"text_pairs": measured}}


def test_targets_are_computed_and_judged():
    found = {one["what"].split(":")[0] + f" {one['bound']:g}": one for one in targets.judged(result())}
    assert (found["text pairs 4"]["value"], found["text pairs 4"]["reached"]) == (4.0, True)
    assert (found["text pairs 1.6"]["value"], found["text pairs 1.6"]["reached"]) == (1.6, True)
    assert found["HH-RLHF pairs 1.8"]["value"] is None and found["HH-RLHF pairs 1.8"]["reached"] is None
    assert found["reference scores cached 1.25"]["value"] == 1.25
    assert (found["peak memory over the hand-written loop's, most of all cases 0.7"]["value"]) == 0.6
    share = found["share of the token-count limit that is reached, least of all cases 0.8"]
    assert share["value"] == pytest.approx(1.6 / (2656 / 1456)) and share["reached"]
    slower = {one["what"]: one for one in targets.judged(result(seconds={"loop": [3.0], "forest": [2.0]}))}
    assert slower["text pairs: times the hand-written loop's speed"]["reached"] is False
    assert slower["text pairs: times TRL's speed"]["reached"] is None


def test_a_limit_from_above_is_reached_from_below():
    tree = {"axis": "", "points": [{"seconds": {"forest": [2.0], "sequence": [1.6]}}]}
    cheap = {"questions": {"tree": tree}, "memory": {}}
    (found,) = [one for one in targets.judged(cheap) if one["what"].startswith("tree")]
    assert found["value"] == 1.25 and found["reached"]
    tree["points"][0]["seconds"]["sequence"] = [1.5]  # type: ignore[index]
    assert [one["reached"] for one in targets.judged(cheap) if one["what"].startswith("tree")] == [False]


def test_utilisation_is_flops_done_over_flops_possible():
    point = result()["questions"]["text_pairs"]["points"][0]
    assert targets.utilisation(point, "forest") == (100 / 2 / 200, 170 / 2 / 200)
    assert targets.utilisation(point, "forest_cached") == (75 / 1.6 / 200, 170 / 1.6 / 200)
    assert targets.utilisation(point | {"peak_flops": None}, "forest") is None
    assert costs.peak_flops("cpu", torch.bfloat16) is None


def test_resident_memory_is_watched_from_here_on():
    block = np.ones(2**24)  # 128 MiB, before
    del block
    found = memory._watch_process(lambda: np.ones(2**23).sum())
    assert 56 < found["rise_mib"] < 100


def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path):
    found = memory.in_a_process(Settings(shape="tiny", threads=1), "list_4", "loop", tmp_path)
    weights = sum(p.numel() for p in hf.AutoModelForCausalLM.from_config(shapes.TINY()).parameters())
    assert found["gradients_mib"] == pytest.approx(weights * 4 / 2**20)
    assert 0 <= found["rise_mib"] < 100 < found["before_mib"] and not list(tmp_path.iterdir())
    with pytest.raises(OmniprefError, match="could not be measured"):
        memory.in_a_process(Settings(shape="tiny", threads=1), "list_4", "sequence", tmp_path)


def test_the_command_writes_pages_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture):
    words = ["--quick", "--threads", "1", "--work", str(tmp_path / "work"), "--output", str(tmp_path), "--cases"]
    scoring.main([*words, "list_4"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.json")}
    path = scoring.main([*words, "list_4,ratios,data_size"])
    assert "list_4: measured before" in capsys.readouterr().err
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    found = json.loads((tmp_path / "scoring.json").read_text())
    assert list(found["questions"]) == ["list_4", "ratios", "data_size"]
    assert {"commit", "versions", "cpu", "cores", "threads", "command", "trl"} <= set(found["machine"])
    assert "/" not in found["settings"]["data"]
    assert [point["x"] for point in found["questions"]["ratios"]["points"]] == [0.4, 1, 2, 4, 8, 12]
    sizes = [len(point["seconds"]["forest"]) for point in found["questions"]["data_size"]["points"]]
    assert sizes == [1, 1, 1]
    text = path.read_text()
    point = found["questions"]["list_4"]["points"][0]
    times = clock.ratio(point["seconds"], "loop", "forest")["median"]
    assert f"{times:.2f} × the speed of a hand-written padded loop" in text
    assert "Linear is the power 1" in text and "## Prompt : response" in text


def test_what_cannot_be_asked_here_is_said(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        scoring.arguments(["--cases", "text_pairs,texts"])
    assert "found the cases texts; expected some of text_pairs" in capsys.readouterr().err
    assert scoring.why_not("vision_pairs", Settings(shape="llama-7b")) == "llama-7b reads no pictures"
    assert scoring.why_not("hh", Settings(data="nowhere")) == "no file nowhere"
    assert scoring.why_not("data_size", Settings()) == ""
    assert Settings().key != replace(Settings(), max_batch_tokens=512).key


def test_trl_on_other_ids_is_noticed(bench):
    from side_by_side.scoring.trl_side import Trl

    draw = bench.draw()
    one, other = draw.pair(100, 60, 60), draw.pair(100, 60, 60)
    swapped = Sample(one.encoded, other.peer)
    collate = SimpleNamespace(
        data_collator=lambda examples: {
            "input_ids": torch.tensor(
                [e["prompt_ids"] + e[k] for k in ("chosen_ids", "rejected_ids") for e in examples]
            ),
            "attention_mask": torch.ones(2, 8),
        }
    )
    with pytest.raises(ValueError, match="other token ids"):
        Trl(collate, bench.reference).prepare([swapped])


@needs_trl
@pytest.mark.skipif(not DATA.exists(), reason="shared/data is not beside the checkout")
def test_real_pairs_are_scored_alike(bench):
    found = run.question(bench, "hh", clock.Deadline(), silent)
    (point,) = found["points"]
    assert point["preferences"] == 4 and point["facts"]["vocabulary"] == 300
    assert max(point["loss_gap"], point["gradient_gap"]) < 1e-4
    assert not (DATA.parent / "pairs.quarantine.jsonl").exists()
    assert "tokens of a BPE of 300" in "\n".join(page._sample(point))
