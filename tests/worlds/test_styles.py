"""The world of styles: its authors, its recipes, and what the card more-is-less saw in it."""

from __future__ import annotations

import pytest
import torch

from omnipref.errors import ConfigError
from omnipref.registry import load_claim
from omnipref.worlds.styles.authors import COMPLY, REFUSE, draw_authors, text_of, words_of
from omnipref.worlds.styles.recipes import PROMPTS, Arm, made_pairs, run

ARMS = load_claim("more-is-less").options["arms"]


def test_authors_write_as_they_say():
    authors = draw_authors(torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    for author in authors.values():
        words = author.write((4000,), draw)
        assert set(words[:, -1].tolist()) == {COMPLY, REFUSE}
        assert (words[:, -1] == REFUSE).float().mean().item() == pytest.approx(author.refuses, abs=0.03)
        share = words[:, :-1].flatten().bincount(minlength=12) / words[:, :-1].numel()
        torch.testing.assert_close(share, author.style_V.exp().float(), atol=0.015, rtol=0)
    assert words_of(text_of(words[0].tolist())) == words[0].tolist()


def test_recipes_keep_the_prompts_and_the_authors():
    own, _ = made_pairs(Arm(**ARMS["own_best_worst"]), seed=0)
    both, _ = made_pairs(Arm(**ARMS["all_best_worst"]), seed=0)
    assert [one.record for one in own] == [one.record for one in both] == list(range(PROMPTS))
    assert {author for one in own for author in one.meta["sources"].values()} == {"self"}
    assert {author for one in both for author in one.meta["sources"].values()} == {"self", "strong"}
    assert all(one.columns["score/chosen"] > one.columns["score/rejected"] for one in [*own, *both])


def test_restyling_changes_the_words_and_not_the_refusal():
    plain, _ = made_pairs(Arm(**ARMS["own_best_worst"]), seed=0)
    restyled, _ = made_pairs(Arm(**ARMS["own_best_restyled"]), seed=0)
    last = [[words_of(one.cases["chosen"].text)[-1] for one in pairs] for pairs in (plain, restyled)]
    assert last[0] == last[1]
    assert [one.cases["chosen"].text for one in plain] != [one.cases["chosen"].text for one in restyled]
    assert [one.cases["rejected"].text for one in plain] == [one.cases["rejected"].text for one in restyled]


def test_another_authors_style_is_learned_instead_of_refusing():
    numbers = {arm: run(arm, 0, arms=ARMS, steps=60) for arm in ("own_best_worst", "strong_over_own")}
    own, strong = numbers["own_best_worst"], numbers["strong_over_own"]
    assert strong["style_separability"] > 0.8 > 0.6 > own["style_separability"]
    assert strong["loss_20"] < own["loss_20"] < 0.6931
    assert strong["after_20"] > own["after_20"] + 0.05
    assert numbers["own_best_worst"] == run("own_best_worst", 0, arms=ARMS, steps=60)


def test_refusals():
    with pytest.raises(ConfigError, match="found `best_wrst`; did you mean `best_worst`"):
        made_pairs(Arm(pairing="best_wrst"), seed=0)
    with pytest.raises(ConfigError, match="found `strng`; did you mean `strong`"):
        made_pairs(Arm(authors=["self", "strng"]), seed=0)
