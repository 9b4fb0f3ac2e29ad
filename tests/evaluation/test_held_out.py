"""Implicit rewards on held-out preferences, and `omnipref eval` around them."""

import json

import pytest

from omnipref.config import EvalConfig
from omnipref.errors import ConfigError, DataError, NeedsError
from omnipref.evaluation import evaluate, held_out
from omnipref.preferences import Comparison, Preference, pair, ranked
from omnipref.training.scoring import ScoredCase


def scored(record, **cases):
    return {role: ScoredCase(record, role, *numbers) for role, numbers in cases.items()}


PAIRS = [pair("q", "yes", "no", record=0), pair("q", "good", "bad", record=1)]
SCORES = [
    scored(0, chosen=(-4.0, 3, -5.0), rejected=(-6.0, 2, -6.0)),
    scored(1, chosen=(-8.0, 5, -7.0), rejected=(-3.0, 1, -5.0)),
]


def test_numbers_by_hand():
    found = held_out(PAIRS, SCORES, beta=0.1)
    # Log-ratios: (1, 0) and (-1, 2).
    expected = {
        "accuracy": 0.5,
        "margin": 0.1 * (1 - 3) / 2,
        "chosen_shift": 0.0,
        "rejected_shift": 1.0,
        "displaced": 0.5,
        "length_gap": 2.5,
    }
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(expected)
    assert {estimate.n for estimate in found.values()} == {2}


def test_swapping_chosen_and_rejected_turns_the_margin():
    swapped = [Preference(p.cases, (Comparison("rejected", "chosen"),), record=p.record) for p in PAIRS]
    assert held_out(swapped, SCORES)["margin"].value == pytest.approx(-held_out(PAIRS, SCORES)["margin"].value)


def test_without_a_reference_the_reward_is_the_likelihood():
    scores = [scored(0, chosen=(-4.0, 3), rejected=(-6.0, 2)), scored(1, chosen=(-8.0, 5), rejected=(-3.0, 1))]
    found = held_out(PAIRS, scores, beta=1.0)
    assert set(found) == {"accuracy", "margin", "length_gap"}
    assert found["margin"].value == pytest.approx(-1.5)
    with pytest.raises(NeedsError, match="displaced"):
        held_out(PAIRS, scores, metrics=["displaced"])


def test_comparisons_of_one_record_are_resampled_together_and_ties_left_out():
    lists = ranked("q", ["a", "b", "c"])
    lists = Preference(lists.cases, (*lists.comparisons, Comparison("response_0", "response_2", tie=True)))
    scores = scored(0, response_0=(-1.0, 1), response_1=(-2.0, 1), response_2=(-1.5, 1))
    accuracy = held_out([lists], [scores], metrics=["accuracy"])["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high, accuracy.n) == (0.5, 0.5, 0.5, 1)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([SCORES[0]], "all 2"),
        ([SCORES[0], scored(1, chosen=(-1.0, 1, -1.0))], "record 1, field `rejected`"),
        ([SCORES[0], scored(1, chosen=(float("nan"), 1, -1.0), rejected=(-1.0, 1, -1.0))], "record 1, field `chosen`"),
        ([SCORES[0], scored(1, chosen=(-1.0, 1), rejected=(-1.0, 1))], "some cases"),
    ],
)
def test_bad_scores_are_refused(scores, message):
    with pytest.raises(DataError, match=message):
        held_out(PAIRS, scores)


def test_nothing_to_compare_is_refused():
    with pytest.raises(DataError, match="no comparison"):
        held_out([Preference(PAIRS[0].cases)], [SCORES[0]])


def write_pairs(path, count):
    rows = [{"prompt": "q", "chosen": f"yes {k}", "rejected": f"no {k}"} for k in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(tmp_path, **options):
    files = [write_pairs(tmp_path / "a.jsonl", 3), write_pairs(tmp_path / "b.jsonl", 2)]
    options = {"dataset": files, "output": str(tmp_path / "eval.json"), **options}
    return EvalConfig(model_name_or_path="tiny", **options)


def test_eval_writes_what_it_found_and_counts_what_was_set_aside(tmp_path, capsys):
    asides = []

    def score(preferences, aside):
        asides.append(aside.name)
        return [scored(p.record, chosen=(-1.0, 2), rejected=(-2.0, 2)) for p in preferences[1:]]

    result = evaluate(config(tmp_path), score)
    assert (result.records, result.set_aside) == (3, 2)
    assert asides == ["eval.0.quarantine.jsonl", "eval.1.quarantine.jsonl"]
    written = json.loads((tmp_path / "eval.json").read_text())
    assert written["metrics"]["accuracy"]["value"] == 1.0
    assert written["config"]["beta"] == 0.1
    assert "reward accuracy" in capsys.readouterr().out


def test_a_metric_that_cannot_be_had_is_refused_before_any_model_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match="did you mean `accuracy`"):
        evaluate(config(tmp_path, metrics=["acuracy"]))
    with pytest.raises(NeedsError, match="ref_model"):
        evaluate(config(tmp_path, metrics=["displaced"]))
