"""Objectives side by side: equal starts, equal divergence, resumption, and what a world cannot give."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from omnipref.cli.main import main
from omnipref.comparing import Job, Trace, board, run_job, trace
from omnipref.comparing.page import markdown, note, sentence
from omnipref.comparing.trace import measured_steps
from omnipref.errors import ConfigError, NeedsError
from omnipref.objectives import parse_objective
from omnipref.worlds.bandits.compared import coverage
from omnipref.worlds.bandits.policies import divergence
from omnipref.worlds.comparable import WORLDS, find_world


def path_of(*points: tuple[float, float], broke: int | None = None) -> Trace:
    """A path from (kl, reward) at steps 0, 1, 2 ..."""
    far, reward = map(tuple, zip(*points, strict=True))
    return Trace(tuple(range(len(points))), {"kl": far, "reward": reward}, broke)


def job(folder: Path, *objectives: str, **changes) -> Job:
    quiet = Job(objectives=objectives, world="coverage", seeds=2, steps=12, folder=folder, say=lambda line: None)
    return replace(quiet, **changes)


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_starts_at_its_reference_and_measures_what_is_compared(name):
    world = find_world(name)(3)
    (zero, found), (one, after) = world.walk(parse_objective("dpo(beta=0.1)"), 0, 1, world.rate, {1})
    assert (zero, one) == (0, 1) and after != found
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert {"reward", "kl"} <= found.keys() and {"chosen", "rejected"} <= world.roles
    again = next(iter(world.walk(parse_objective("sft()"), 1, 1, world.rate, {1})))
    assert again == (0, found), "every policy starts from the same place"
    assert world.steps > 0 and world.points > 0


def test_a_path_is_the_policys_own_and_the_same_every_time():
    world, objective = coverage(1), parse_objective("dpo(beta=0.1)")
    found = trace(world, objective, 1, 20, 0.03)
    assert found == trace(coverage(1), objective, 1, 20, 0.03)
    assert found.steps[:3] == (0, 1, 2) and found.steps[-1] == 20
    assert found.values["kl"][0] == pytest.approx(0, abs=1e-12) and found.values["kl"][-1] > 0.01
    # The same by hand: Adam on the mean of -log sigma(beta (rho_w - rho_l)).
    policy, choices = world.world.policy(), world.world.choices
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.03)
    for _ in range(20):
        rho = policy() - policy.reference_XA
        better, worse = (rho[choices.prompt_P, choices.actions[role]] for role in ("chosen", "rejected"))
        optimizer.zero_grad()
        (-torch.nn.functional.logsigmoid(0.1 * (better - worse)).mean()).backward()
        optimizer.step()
    assert found.values["kl"][-1] == pytest.approx(divergence(policy().detach(), policy.reference_XA), rel=1e-4)


def test_steps_are_measured_closer_together_at_the_start():
    steps = sorted(measured_steps(1500))
    assert steps[0] == 1 and steps[-1] == 1500 and len(steps) < 101
    gaps = [b - a for a, b in pairwise(steps)]
    assert gaps == sorted(gaps) or max(gaps[:10]) < min(gaps[-10:])


def test_reward_at_a_divergence_is_that_of_the_first_crossing():
    path = path_of((0.0, 0.0), (1.0, 2.0), (3.0, 1.0), (2.0, 9.0))
    assert path.at_kl(0.5) == pytest.approx(1.0)
    assert path.at_kl(2.0) == pytest.approx(1.5)
    assert path.at_kl(0.0) == 0.0 and path.at_kl(3.1) is None and path.furthest == 3.0


def test_equal_steps_and_equal_divergence_can_disagree():
    """One goes far at a poor price, the other stays near at a good one."""
    far = [path_of((0, 0), (1, 0.2 + s), (4, 0.9 + s)) for s in (0.0, 0.01, 0.02)]
    near = [path_of((0, 0), (0.5, 0.3 + s), (1, 0.5 + s)) for s in (0.0, 0.01, 0.02)]
    found = board({"far": far, "near": near})
    assert (found.kl, found.limited_by) == (1, "near")
    first, second = found.standings
    assert first.objective == "near" and first.at_kl.value == pytest.approx(0.51)
    assert first.end.value < second.end.value
    assert second.behind.value == pytest.approx(-0.3) and second.behind.high < 0
    assert first.behind is None and second.behind_end is None
    assert first.behind_end.value == pytest.approx(-0.4)
    # Paired by seed: the seeds' common offset is no scatter of the difference.
    assert second.behind.high - second.behind.low < first.at_kl.high - first.at_kl.low


def test_an_asked_divergence_that_is_not_reached_has_a_dash_and_a_reason(tmp_path):
    paths = {"far": [path_of((0, 0), (4, 1))] * 2, "near": [path_of((0, 0), (1, 2))] * 2}
    found = board(paths, 2.0)
    assert [row.objective for row in found.standings] == ["far", "near"]
    assert found.standings[1].at_kl is None and note(found.standings[1], found) == "reaches only 1"
    assert "| – |" in markdown(job(tmp_path, "far", "near"), found, {})
    nowhere = board(paths, 9.0)
    assert "No objective gets that far" in sentence(job(tmp_path), nowhere)


def test_a_path_that_breaks_is_said_and_not_ranked(tmp_path):
    whole, broken = path_of((0, 0), (1, 1)), path_of((0, 0), (1, 5), broke=2)
    found = board({"broken": [whole, broken], "whole": [whole, whole]})
    row = next(row for row in found.standings if row.objective == "broken")
    assert row.end is None and row.broke == 1 and "not finite on 1 seeds" in note(row, found)


def test_a_rate_that_is_too_high_ends_the_path():
    found = trace(coverage(0), parse_objective("ipo(beta=0.01)"), 0, 30, float("inf"))
    assert found.broke is not None and len(found.steps) < 30
    assert all(value == value for value in found.values["reward"])


def test_an_interrupted_comparison_goes_on_with_what_is_missing(tmp_path):
    lines: list[str] = []
    whole = run_job(job(tmp_path / "whole", "dpo()", "ipo()"))

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job(tmp_path / "cut", "dpo()", "ipo()", say=stop))
    lines.clear()
    again = run_job(job(tmp_path / "cut", "dpo()", "ipo()", say=lines.append))
    assert ["kept from before" in line for line in lines] == [True, True, True, False]
    assert again == whole
    lines.clear()
    run_job(job(tmp_path / "cut", "dpo()", "ipo()", steps=13, say=lines.append))
    assert not any("kept" in line for line in lines), "another length is another path"


def test_the_command_writes_table_page_and_picture(tmp_path, capsys):
    words = ["dpo(beta=0.1)", "ipo()", "simpo()", "--world", "coverage", "--seeds", "3", "--steps", "40"]
    assert main(["compare", *words, "--output-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "compare.json").read_text())
    page = (tmp_path / "compare.md").read_text()
    names = [row["objective"] for row in data["standings"]]
    assert sorted(names) == ["dpo()", "ipo()", "simpo()"]
    assert all(f"| `{name}` |" in page for name in names) and "compare.png" in page
    assert all(name in shown for name in names) and "equal KL is" in shown
    for row in data["standings"]:
        assert row["at_kl"]["n"] == row["end"]["n"] == 3
        ends = [path["values"]["reward"][-1] for path in data["paths"][row["objective"]]]
        assert row["end"]["value"] == pytest.approx(sum(ends) / 3)
    assert data["kl"] == pytest.approx(
        min(max(path["values"]["kl"]) for paths in data["paths"].values() for path in paths)
    )
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.width > 1000
    start = {(path["values"]["reward"][0]) for paths in data["paths"].values() for path in paths[:1]}
    assert len(start) == 1, "all start from the same policy"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dpo()", "--world", "coverige"], "did you mean `coverage`"),
        (["simpoo()"], "did you mean `simpo`"),
        (["dpo()", "dpo(beta=0.1)"], "twice"),
        (["dpo(rejected='chosen@negative_image')"], "chosen@negative_image, which this world does not draw"),
        (["odpo()"], "column"),
        (["dpo()", "--seeds", "1"], "`seeds`"),
    ],
)
def test_bad_input_is_refused_by_name_before_anything_runs(words, message, tmp_path, capsys):
    assert main(["compare", *words, "--output-dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_extra_that_a_world_lacks_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no world"):
        run_job(job(tmp_path, "dpo()", world="nowhere"))
    objective = next(text for text in EXTRAS if parse_objective(text).needs.extras)
    with pytest.raises(NeedsError, match="cannot be trained in this world"):
        run_job(job(tmp_path, objective))


EXTRAS = ("sparse_po(mask='half')",)
