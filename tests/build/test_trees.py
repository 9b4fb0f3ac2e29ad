"""Trees of solutions: branches begin as the right one does, steps are segments, and what cannot be cut is named."""

from __future__ import annotations

import factories
import pytest

from omnipref.build import judge, tree_expand
from omnipref.build.trees import in_steps
from omnipref.errors import ConfigError
from omnipref.policies.autoregressive.load import build_policy
from omnipref.preferences import pair
from omnipref.rewards import count

RIGHT = "Step 1: two and two. Step 2: four and one. Step 3: five."
WRONG = "Step 1: two and two. Step 2: six."
RECORDS = [pair(f"What is {i}? ", RIGHT, WRONG, record=i) for i in range(8)]


def going_on(contexts, *, n=1):
    return [[f" then {len(context[-1].text)} Step 9: done."] * n for context in contexts]


def test_steps_put_together_are_the_text():
    for text in (RIGHT, "First.\nSecond.\n\nThird.", "step 1. a STEP 2: b", "no marks", ""):
        assert "".join(in_steps(text)) == text
    assert in_steps("First.\nSecond.\n\nThird.") == ["First.\n", "Second.\n\n", "Third."]
    assert len(in_steps(RIGHT)) == 3


def test_branches_begin_with_whole_steps_of_the_right_solution():
    for tree in tree_expand(going_on, branches=3)(RECORDS).preferences:
        texts = [case.text for case in tree.cases.values()]
        assert texts[0] == RIGHT and texts[-1] == WRONG and len(texts) == 5
        starts = {"".join(in_steps(RIGHT)[:cut]) for cut in range(3)}
        assert {text.partition("then")[0] for text in texts[1:-1]} == starts, "three cuts of three steps, all different"
        assert tree.meta["built_by"][-1]["builder"] == "tree_expand"


def test_cuts_follow_seed_and_record_and_not_the_batch():
    def cuts(built):
        return [tree.meta["built_by"][-1]["cuts"] for tree in built.preferences]

    whole = cuts(tree_expand(going_on, branches=2)(RECORDS))
    assert cuts(tree_expand(going_on, branches=2)(RECORDS[3:])) == whole[3:]
    assert cuts(tree_expand(going_on, branches=2, seed=1)(RECORDS)) != whole


def test_more_branches_than_steps_cut_again():
    tree = tree_expand(going_on, branches=7)(RECORDS[:1]).preferences[0]
    cut = tree.meta["built_by"][-1]["cuts"]
    assert sorted(cut[:3]) == sorted(cut[3:6]) == [0, 1, 2] and len(cut) == 7
    assert len(tree.cases) == 5, "equal branches are kept once"


def test_solutions_without_steps_are_named():
    built = tree_expand(going_on)([pair("?", "no marks here", "x", record=7), RECORDS[0]])
    assert len(built.preferences) == 1
    assert "record 7" in str(built.dropped[0]) and "marks of two steps" in str(built.dropped[0])


def test_a_missing_wrong_solution_is_no_fault():
    record = pair("? ", RIGHT, WRONG)
    cases = {"chosen": record.cases["chosen"]}
    tree = tree_expand(going_on)([type(record)(cases)]).preferences[0]
    assert len(tree.cases) == 4


@pytest.mark.parametrize("arguments", [{"branches": 0}, {"mark": "("}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        tree_expand(going_on, **arguments)


def test_graded_trees_share_their_tokens_and_show_their_steps():
    graded = (tree_expand(going_on) >> judge(count("Step")))(RECORDS[:1]).preferences[0]
    scores = [graded.columns[f"score/{role}"] for role in graded.cases]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 1
    model, owner = factories.llama()
    encoded = build_policy(model, owner).encode(graded)
    assert max(case.segment.max() for case in encoded.cases) == 2
    assert build_policy(model, owner).tokens([encoded]) < sum(len(c.response) for c in encoded.cases)
