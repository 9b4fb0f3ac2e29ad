"""Trees of sequences and their layout in rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from omnipref.policies.autoregressive.forest import grow, lay_out

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=7).map(np.array), min_size=1, max_size=5)


def test_a_pair_costs_its_prompt_once():
    prompt = list(range(600))
    tree = grow([np.array([*prompt, 7, 1]), np.array([*prompt, 7, 2, 3])])
    assert tree.size == 600 + 1 + 1 + 2
    assert tree.paths == ((0, 1), (0, 2))


def test_equal_sequences_and_a_prefix_of_another_share_everything():
    tree = grow([np.array([1, 2]), np.array([1, 2]), np.array([1, 2, 3])])
    assert tree.size == 3


@given(SEQUENCES)
def test_paths_spell_the_sequences_and_no_prefix_stands_twice(sequences):
    tree = grow(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        spelled = [sequences[tree.runs[r].case][tree.runs[r].start : tree.runs[r].end] for r in path]
        assert np.concatenate(spelled).tolist() == sequence.tolist()
    prefixes = {tuple(s[: k + 1].tolist()) for s in sequences for k in range(len(s))}
    assert tree.size == len(prefixes)


@given(st.lists(SEQUENCES, min_size=1, max_size=4), st.sampled_from([0, 12, 40]))
def test_a_token_sees_its_own_prefix_and_nothing_else(groups, row_tokens):
    trees = [grow(group) for group in groups]
    cases = [sequence for group in groups for sequence in group]
    placed = lay_out(trees, [1] * len(cases), [len(c) for c in cases], row_tokens)
    width = placed.case_BT.shape[1]
    if row_tokens:
        assert all((row >= 0).sum() <= max(row_tokens, *(t.size for t in trees)) for row in placed.case_BT)
    for n, sequence in enumerate(cases):
        where = [*placed.predictor_NU[n, : len(sequence) - 1]]
        for place in where:
            b, t = divmod(int(place), width)
            run = placed.run_BT[b, t]
            seen = [
                j
                for j in range(t + 1)
                if placed.ancestor_BGG[b, run, placed.run_BT[b, j]] and placed.case_BT[b, j] >= 0
            ]
            tokens = [int(cases[placed.case_BT[b, j]][placed.depth_BT[b, j]]) for j in seen]
            assert tokens == sequence[: len(tokens)].tolist()
            assert len(tokens) == placed.depth_BT[b, t] + 1


def test_every_row_is_within_its_budget_or_holds_one_tree():
    trees = [grow([np.arange(length)]) for length in (5, 9, 3, 4, 20)]
    placed = lay_out(trees, [1] * 5, [5, 9, 3, 4, 20], row_tokens=12)
    assert sorted((row >= 0).sum() for row in placed.case_BT) == [9, 12, 20]
