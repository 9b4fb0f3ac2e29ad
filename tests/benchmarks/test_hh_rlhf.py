"""The comparison with TRL: its pieces on hand-made numbers, and the whole command on a slice of the real pairs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from side_by_side import data, measure, record
from side_by_side.base_model import BaseSettings, make_base
from side_by_side.sides import memory_mib
from transformers import AutoTokenizer

from omnipref.preferences import Message, pair
from omnipref.training.scoring import ScoredCase

ROOT = Path(__file__).parents[2]
DATA = ROOT / "../shared/data/hh-rlhf-harmless/pairs.jsonl.gz"
SMALL = {"vocabulary": 400, "width": 40, "layers": 1, "epochs": 1}
SHARED = [[Message.of("user", f"what is {i}?")] for i in range(30)]
PAIRS = [pair(context, f"it is {i}", "no " * (1 + i % 3), record=i) for i, context in enumerate(SHARED)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(PAIRS, BaseSettings(**SMALL, row_tokens=32), tmp_path_factory.mktemp("base"))


def scored(chosen: float, rejected: float) -> dict[str, ScoredCase]:
    return {
        "chosen": ScoredCase(0, "chosen", chosen, 3, -10.0),
        "rejected": ScoredCase(0, "rejected", rejected, 5, -10.0),
    }


def test_a_hit_is_a_greater_reward_and_a_tie_is_none():
    assert measure.hits([scored(-9, -10), scored(-10, -9), scored(-9, -9)]).tolist() == [1, 0, 0]


def test_the_difference_is_the_first_side_minus_the_second():
    first, second = [np.ones(50), np.ones(50)], [np.zeros(50), np.repeat([0.0, 1.0], 25)]
    found = measure.compare(first, second)
    # (1 - 0 + 1 - 1/2) / 2
    assert found["over_pairs"]["value"] == 0.75 and found["over_pairs"]["low"] > 0.6
    assert found["over_seeds"]["values"] == [1.0, 0.5]
    assert found["pairs_that_differ"] == 0.75


def test_one_seed_has_no_interval_and_costs_are_the_first_over_the_second():
    costs = [dict.fromkeys(measure.COST, 2.0)], [dict.fromkeys(measure.COST, 4.0)]
    assert measure.ratios(*costs)["train_s"] == {"value": 0.5, "low": None, "high": None, "n": 1} | {
        "values": [0.5],
        "least": 0.5,
        "most": 0.5,
    }
    assert record.with_interval(measure.over_seeds([0.5]), "{:.2f}") == "0.50"


def test_a_base_model_is_trained_once(base: Path):
    before = (base / "model.safetensors").stat().st_mtime_ns
    again = make_base(PAIRS, BaseSettings(**SMALL, row_tokens=32), base.parent)
    assert again == base and (base / "model.safetensors").stat().st_mtime_ns == before
    other = make_base(PAIRS[:20], BaseSettings(**SMALL, row_tokens=32), base.parent)
    assert other != base


def test_long_pairs_are_left_out_and_counted(base: Path):
    owner = AutoTokenizer.from_pretrained(base)
    prompt, chosen, rejected = data.lengths(owner, PAIRS[0])
    assert owner.decode(owner(PAIRS[0].cases["chosen"].text)["input_ids"]) == "<|begin|>it is 0"
    long = pair(SHARED[0], "word " * 200, "no")
    found = data.cut(data.Pairs([PAIRS[0], long], [PAIRS[1]], {"rows": 3}), owner, 100)
    assert found.training == [PAIRS[0]] and found.held_out == [PAIRS[1]]
    assert {"rows": 3, "training": 1, "training_too_long": 1, "held_out_too_long": 0}.items() <= found.facts.items()
    expected = (2 * prompt + chosen + rejected) / (prompt + chosen + rejected)
    assert found.facts["rows_over_forest_tokens"] == pytest.approx(expected) and expected > 1


def test_the_plain_form_is_the_transcript():
    found = data.plain(PAIRS[4])
    assert found.cases["chosen"].context[0].text == "\n\nHuman: what is 4?\n\nAssistant:"
    assert [case.text for case in found.cases.values()] == [" it is 4", " no no "]


def test_peak_memory_is_that_of_this_process():
    # A child, small at its start: where memory is short, a large process gives file pages back as it takes new ones.
    code = (
        "import numpy as np\nfrom side_by_side.sides import memory_mib\n"
        "before = memory_mib('VmHWM')\nblock = np.ones(2**25)\ndel block\n"
        "print(before, memory_mib('VmHWM'), memory_mib('VmRSS'))"
    )
    block, held = 256, np.ones(2**25)
    child = [sys.executable, "-c", code]
    done = subprocess.run(child, check=True, cwd=ROOT / "benchmarks", capture_output=True, text=True)
    before, peak, now = map(float, done.stdout.split())
    assert memory_mib("VmRSS") >= held.nbytes / 2**20 > before  # the parent's peak is not counted
    assert block <= peak <= before + block + 32
    assert now < block


@pytest.mark.skipif(not DATA.exists(), reason="shared/data is not beside the checkout")
def test_both_sides_train_on_a_slice_of_the_real_pairs(tmp_path: Path):
    flags = {
        "--limit": 40,
        "--seeds": 1,
        "--threads": 1,
        "--data": DATA,
        "--output": tmp_path,
        "--work": tmp_path / "work",
    }
    flags |= {f"--base-{name}": value for name, value in SMALL.items()}
    command = [
        sys.executable,
        str(ROOT / "benchmarks/hh_rlhf.py"),
        *(str(word) for item in flags.items() for word in item),
    ]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    found = json.loads((tmp_path / "hh_rlhf.json").read_text())
    assert {"commit", "versions", "cpu", "cores", "threads", "command", "trl"} <= set(found["machine"])
    assert found["commits_of_runs"]["omnipref"] == found["commits_of_runs"]["trl"] != ["not recorded"]
    assert found["seeds"] == [0] and found["base"]["parameters"] > 10_000
    data_facts = found["data"]
    assert sum(data_facts[name] for name in ("training", "held_out", "training_too_long", "held_out_too_long")) == 40
    for side in ("omnipref", "trl"):
        over_seeds = found["sides"][side]["over_seeds"]
        assert 0 <= over_seeds["accuracy"]["value"] <= 1 and over_seeds["train_s"]["value"] > 0
        assert over_seeds["peak_mib"]["value"] > 100
        # Weights moved: the reward of a model that is its own reference is 0.
        assert found["sides"][side]["by_seed"][0]["margin"]["value"] != 0
    same = found["same_training"][0]
    assert same["first_loss"] == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert same["steps"][0] == same["steps"][1] > 1
    for form in ("chat", "plain"):
        assert same["same_tokens"][form] == dict.fromkeys(("pairs", "identical"), data_facts["training"])
    assert same["first_chosen_logp"][0] == pytest.approx(same["first_chosen_logp"][1], rel=1e-5)
    assert same["largest_weight_gap"] < 1e-5
    assert found["omnipref_against_trl"]["ratio"]["train_s"]["value"] > 0
    assert found["without_sharing"]["train_s"] > 0 and found["without_sharing"]["largest_weight_gap"] < 1e-5
    assert "held-out reward accuracy" in (tmp_path / "hh_rlhf.md").read_text()
    assert not list(tmp_path.glob("*.tmp"))
