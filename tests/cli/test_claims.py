"""The claim runner on a synthetic world: effects paired by seed, resumption, and honest words."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from omnipref import cli
from omnipref.claims import Run, commit, judge, run_arms, run_claim, with_options
from omnipref.cli import reproduce
from omnipref.config import ReproduceConfig
from omnipref.errors import ConfigError, DataError
from omnipref.method import Claim
from omnipref.registry import Card, load_claim

CALLS: Counter[tuple[str, int]] = Counter()
GAIN = {"method": 2.0, "baseline": 0.0, "control": 0.1, "half": 1.9}


STOP = {"after": 1000}


def world(arm: str, seed: int, *, scale: float = 1.0) -> dict[str, float]:
    """Scores with a large offset per seed, which only a paired comparison removes."""
    if sum(CALLS.values()) >= STOP["after"]:
        raise KeyboardInterrupt
    CALLS[arm, seed] += 1
    wiggle = 0.01 * ((seed * 7 + len(arm)) % 5)
    return {"score": 10.0 * seed + scale * GAIN[arm] + wiggle, "other": float(seed)}


def hollow(arm: str, seed: int) -> dict[str, float]:
    return {"scor": 1.0}


def not_a_number(arm: str, seed: int) -> dict[str, float]:
    return {"score": float("nan")}


def claim(run: Callable[..., dict[str, float]] = world, **changes: object) -> Claim:
    sys.modules["claim_world"] = sys.modules[__name__]
    base = Claim(
        statement="The method scores higher.",
        world="numbers",
        run=f"claim_world:{run.__name__}",
        metric="score",
        direction="up",
        method="method",
        baseline="baseline",
        controls=("control",),
        show=("other",) if run is world else (),
        seeds=4,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _fresh_calls() -> None:
    CALLS.clear()


def a_run(tmp_path: Path, some: Claim, **changes: object) -> Run:
    return replace(
        Run(slug="a-method", claim=some, folder=tmp_path, seeds=some.seeds, say=lambda line: None),
        **changes,  # type: ignore[arg-type]
    )


def test_effects_are_paired_by_seed_and_kept(tmp_path: Path):
    result = run_claim(a_run(tmp_path, claim(), commit="abc"), "omnipref reproduce a-method")
    kept = json.loads((tmp_path / "a-method.json").read_text())
    assert kept == json.loads(json.dumps(result))
    assert result["held"] is True
    assert result["effect"] == pytest.approx(2.0, abs=0.05)
    assert result["interval"][0] > 1.9, "the offsets of the seeds must cancel"
    assert set(result) >= {
        "slug", "claim", "effect", "interval", "seeds", "baseline", "control", "held", "arms", "machine", "commit",
        "command", "versions",
    }  # fmt: skip
    assert [numbers["score"] for numbers in result["arms"]["baseline"]] == [
        world("baseline", s)["score"] for s in range(4)
    ]
    assert (result["commit"], result["command"], result["seeds"]) == ("abc", "omnipref reproduce a-method", 4)


def test_an_interrupted_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = a_run(tmp_path, claim())
    monkeypatch.setitem(STOP, "after", 5)
    with pytest.raises(KeyboardInterrupt):
        run_arms(run)
    assert sum(CALLS.values()) == 5
    monkeypatch.setitem(STOP, "after", 1000)
    lines: list[str] = []
    numbers = run_arms(replace(run, say=lines.append))
    assert set(CALLS.values()) == {1}, "an arm that was finished is not run again"
    assert len(CALLS) == 12
    assert ["kept from before" in line for line in lines] == [True] * 5 + [False] * 7
    assert numbers == run_arms(replace(run, folder=tmp_path / "uninterrupted"))


def test_only_what_is_missing_is_run(tmp_path: Path):
    run = a_run(tmp_path, claim())
    whole = run_arms(run)
    run.cached("control", 2).unlink()
    CALLS.clear()
    assert run_arms(run) == whole
    assert CALLS == {("control", 2): 1}
    CALLS.clear()
    run_arms(replace(run, seeds=5))
    assert {(arm, 4): 1 for arm in ("method", "baseline", "control")} == CALLS
    CALLS.clear()
    run_arms(replace(run, fresh=True))
    assert sum(CALLS.values()) == 12
    CALLS.clear()
    run_arms(replace(run, commit="other"))
    assert sum(CALLS.values()) == 12, "numbers of other code are not mixed in"
    CALLS.clear()
    run_arms(a_run(tmp_path, claim(version=2)))
    assert sum(CALLS.values()) == 12, "numbers of another protocol are not mixed in"


@pytest.mark.parametrize(
    ("changes", "held", "word"),
    [
        ({}, True, "held"),
        ({"method": "baseline", "baseline": "method"}, False, "did not hold"),
        ({"method": "baseline", "baseline": "method", "controls": ("method",), "direction": "down"}, True, "held"),
        ({"controls": ("method_twin",)}, False, "did not hold"),
        ({"baseline": "close"}, False, "did not hold"),
        ({"controls": ("close",)}, False, "did not hold"),
        ({"method": "baseline", "baseline": "baseline_close", "direction": "down"}, False, "did not hold"),
        ({"expected_here": False, "note": "too small"}, True, "not expected at this scale"),
    ],
)
def test_verdicts(tmp_path: Path, changes: dict[str, object], held: bool, word: str):
    # The gaps of 0.005 lie within the spread of the seeds: their intervals hold zero.
    GAIN.update({"method_twin": 2.0, "close": 1.995, "baseline_close": 0.005})
    some = claim(**changes)
    verdict = judge(some, run_arms(a_run(tmp_path, some)))
    assert (verdict.held, verdict.word) == (held, word)


def test_did_not_hold_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    GAIN["method_twin"] = 2.0
    some = claim(controls=("method_twin",), note="Seen before.")
    result = run_claim(a_run(tmp_path, some), "")
    assert result["held"] is False
    shown = reproduce.sentence(some, result)
    assert shown.startswith("The claim did not hold.")
    assert "method_twin" in shown
    assert "+2" in shown
    assert shown.endswith("Seen before.")
    small = claim(expected_here=False, note="Too small.")
    shown = reproduce.sentence(small, run_claim(a_run(tmp_path, small), ""))
    assert shown.startswith("The effect is not expected at this scale. It was seen here.")


def test_other_options_are_not_the_claim(tmp_path: Path):
    changed = with_options(claim(), {"scale": 0.5})
    assert "Not the claim's protocol: scale=0.5" in changed.note
    assert run_claim(a_run(tmp_path, changed, trial=True), "")["effect"] == pytest.approx(1.0, abs=0.05)
    assert [path.name for path in tmp_path.glob("*.json")] == ["a-method.trial.json"]


@pytest.mark.parametrize(
    ("some", "error", "message"),
    [
        (claim(run=hollow), ConfigError, "did you mean `scor`"),
        (claim(run=not_a_number), DataError, "`score` is NaN"),
        (replace(claim(), run="claim_world:nothing"), ConfigError, "cannot be imported"),
        (replace(claim(), run="no_such_module:nothing"), ConfigError, "cannot be imported"),
    ],
)
def test_broken_arms_are_named(tmp_path: Path, some: Claim, error: type[Exception], message: str):
    with pytest.raises(error) as caught:
        run_claim(a_run(tmp_path, some), "")
    assert message in str(caught.value)
    assert not (tmp_path / "a-method.json").exists()


def test_the_command_runs_every_claim_and_reports_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    claims = {"re-align": claim(), "diffusion-dpo": claim(run=hollow)}
    monkeypatch.setattr(reproduce, "load_claim", claims.__getitem__)
    monkeypatch.setattr(
        reproduce, "discover", lambda: [card for card in discover_all() if card.slug in claims and card.has_claim]
    )
    code = cli.main(["reproduce", "all", "--seeds", "3", "--output-dir", str(tmp_path)])
    shown = capsys.readouterr()
    assert "re-align: The method scores higher." in shown.out
    assert "The claim held." in shown.out
    assert (tmp_path / "re-align.json").exists()
    assert code == 2
    assert "diffusion-dpo: the arm `method`" in shown.err


def discover_all():
    from omnipref.registry import discover

    return discover()


def test_commit_of_this_checkout():
    assert commit(Path("/")) == ""
    here = commit()
    assert here == "" or len(here.partition("+changes.")[0]) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skale": 1}, "found `skale` in `options`; did you mean `scale`"),
        ({"scale": "large"}, "found `scale` = 'large'; expected a number"),
        ({"arms": {}}, "found `arms` in `options`"),
    ],
)
def test_options_that_the_world_does_not_take_are_refused(options: dict[str, object], message: str):
    with pytest.raises(ConfigError) as caught:
        with_options(claim(), options)
    assert message in str(caught.value)


def test_a_word_that_a_world_does_not_know_is_refused_with_those_it_knows():
    with pytest.raises(ConfigError, match="known: adam, sgd"):
        with_options(load_claim("survey-dpo"), {"optimizer": "lion"})


def test_fewer_seeds_than_a_record_has_leave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("omnipref.cli.reproduce.load_claim", lambda slug: claim())
    monkeypatch.setattr("omnipref.cli.reproduce.chosen", lambda config: [Card(slug="a-method", path=tmp_path)])
    for seeds, file in ((3, "a-method.json"), (4, "a-method.json"), (2, "a-method.trial.json")):
        reproduce.reproduce(ReproduceConfig(slug="a-method", seeds=seeds, output_dir=str(tmp_path)))
        assert json.loads((tmp_path / file).read_text())["seeds"] == seeds
