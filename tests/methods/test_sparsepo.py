"""The file of SparsePO: whose mask it takes (card sparsepo, arXiv 2410.05102)."""

from __future__ import annotations

from dataclasses import replace

import torch
from objectives.examples import pairs, scored

from omnipref.objectives import sparse_po, tdpo1
from omnipref.registry import load_method


def test_any_mask_can_be_named_and_masks_of_one_are_tdpo():
    scores = scored(pairs(4), seed=1)
    scores = replace(scores, extras={**scores.extras, "mine": torch.ones_like(scores.logp)})
    own = load_method("sparsepo", {"beta": 0.8, "mask": "mine", "rescale": False})
    assert own.needs.extras == {"kl_ref_policy", "mine"}
    torch.testing.assert_close(own.objective(scores).loss_P, tdpo1(beta=0.8)(scores).loss_P)


def test_by_default_it_runs_on_what_policies_give():
    method = load_method("sparsepo")
    assert str(method.objective) == str(sparse_po())
    assert method.needs.extras == {"kl_ref_policy", "ref_entropy"} and method.needs.reference
