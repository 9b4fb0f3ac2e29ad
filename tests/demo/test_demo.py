"""The main job at a small size: it runs on public pieces, keeps finished parts, and says only what its numbers say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from omnipref.config import DemoConfig
from omnipref.demo import arms, run, run_arm
from omnipref.demo.document import demo_report
from omnipref.demo.measure import METRICS, Measured
from omnipref.errors import ConfigError
from omnipref.preferences import read
from omnipref.worlds import test_pictures as fresh_pictures


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    config = DemoConfig(output_dir=str(folder), size=0.03, arms=["text", "text+visual"], workers=1)
    run(config)
    return folder, config


def test_it_writes_a_page_with_every_arm_and_models_that_load(finished):
    folder, _ = finished
    report = json.loads((folder / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["Before", "Text DPO", "Text + visual"]
    assert {metric.key for metric in METRICS} == set(report["rows"][0]["metrics"])
    assert (folder / "report.html").stat().st_size > 20_000
    assert (folder / "summary.png").exists()
    assert (folder / "text" / "model.safetensors").exists()


def test_preferences_are_records_that_any_command_reads(finished):
    folder, _ = finished
    preferences = list(read(folder / "preferences.jsonl"))
    assert len(preferences) > 5
    first = preferences[0]
    assert {"chosen", "rejected", "chosen@negative_image"} <= set(first.roles)
    assert first.columns["score/chosen"] > first.columns["score/rejected"]


def test_a_second_run_keeps_what_is_finished(finished, capsys):
    folder, config = finished
    written = (folder / "text" / "model.safetensors").stat().st_mtime_ns
    page = (folder / "report.html").read_text()
    run(config)
    assert "kept from before" in capsys.readouterr().out
    assert (folder / "text" / "model.safetensors").stat().st_mtime_ns == written
    assert (folder / "report.html").read_text() == page


def test_two_workers_give_the_numbers_of_one(finished, tmp_path):
    folder, _ = finished
    words = ["demo", "--output-dir", str(tmp_path), "--size", "0.03", "--arms", "text", "text+visual", "--workers", "2"]
    subprocess.run([sys.executable, "-m", "omnipref", *words], check=True, capture_output=True, timeout=300)
    for arm in ("base", "text", "text+visual"):
        one, two = (json.loads((path / arm / "measured.json").read_text()) for path in (folder, tmp_path))
        assert one["captions"] == two["captions"]
        for name, values in one["columns"].items():
            assert two["columns"][name] == pytest.approx(values, abs=1e-4), name


def test_an_arm_of_a_claim_depends_on_its_seed_only():
    one, again, other = (run_arm("text", seed, size=0.02) for seed in (1, 1, 2))
    assert one == again and one != other
    assert set(one) == {metric.key for metric in METRICS}


def test_an_unknown_arm_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"text\+visual"):
        run(DemoConfig(arms=["text+visaul"]))


def measured(chair: float, sensitivity: float) -> Measured:
    columns = {
        "one": [1.0] * 40,
        "hallucinated": [chair] * 40,
        "any_hallucinated": [float(chair > 0)] * 40,
        "mentioned": [3.0] * 40,
        "found": [2.0] * 40,
        "present": [3.0] * 40,
        "malformed": [0.0] * 40,
        "words": [8.0] * 40,
        "right": [5.0] * 40,
        "yes": [3.0] * 40,
        "asked": [6.0] * 40,
        "nats_other": [sensitivity + 0.01 * k for k in range(40)],
        "nats_occluded": [4.0] * 40,
    }
    return Measured(("a cup",) * 40, columns)


@pytest.mark.parametrize(
    ("anchor", "said"),
    [
        (5.0, "`picture sensitivity` is due to the pictures"),
        (9.0, "`picture sensitivity` comes with a control"),
    ],
)
def test_the_summary_credits_the_pictures_only_for_what_no_control_gives(anchor, said):
    values = {"base": 5.0, "text": 5.0, "text+visual": 8.0, "text+anchor": anchor, "text+flipped": 5.0}
    found = {key: measured(0.0 if key != "base" else 1.0, value) for key, value in values.items()}
    shown = [arm for arm in arms.ARMS if arm.key in found]
    report = demo_report(shown, found, {}, fresh_pictures(40, 0), "omnipref demo", 0)
    assert said.lower() in report.summary.lower()
