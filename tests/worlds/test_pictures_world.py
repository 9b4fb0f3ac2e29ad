"""The picture world: determinism, bias, labels, language, and POPE's balance."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from omnipref import worlds
from omnipref.errors import ConfigError
from omnipref.worlds import COMPANION_OF, KINDS, Scene, Thing
from omnipref.worlds.pictures import BACKGROUND, CELL, NOISE, draw_array

PLATE_AND_BIRD = Scene((Thing("plate", 6), Thing("bird", 0)))


def _share(scenes: list[Scene], *kinds: str) -> float:
    return float(np.mean([all(kind in scene.kinds for kind in kinds) for scene in scenes]))


def test_same_seed_same_pictures_and_other_seed_other_pictures() -> None:
    first, again, other = (worlds.alignment_pictures(8, seed) for seed in (3, 3, 4))
    assert [item.scene for item in first] == [item.scene for item in again]
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(first, again, strict=True))
    assert [item.scene for item in first] != [item.scene for item in other]


def test_more_pictures_extend_fewer_pictures() -> None:
    assert worlds.sample_scenes(20, 5)[:7] == worlds.sample_scenes(7, 5)


def test_scene_survives_json() -> None:
    for scene in worlds.sample_scenes(50, 0, biased=False):
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_pictures_are_rgb_and_each_thing_is_drawn_in_its_own_cell_only() -> None:
    assert (worlds.draw(PLATE_AND_BIRD, np.random.default_rng(0)).mode, CELL * 4) == ("RGB", 32)
    with_things = draw_array(PLATE_AND_BIRD, np.random.default_rng(0)).astype(int)
    empty = draw_array(Scene(()), np.random.default_rng(0)).astype(int)
    changed = np.abs(with_things - empty).reshape(4, CELL, 4, CELL, 3).sum((1, 3, 4)).ravel()
    assert set(np.flatnonzero(changed)) == {0, 6}


def test_empty_ground_has_the_stated_mean_and_noise() -> None:
    pixels = np.stack([draw_array(Scene(()), np.random.default_rng(seed)) for seed in range(20)]).astype(float)
    assert np.allclose(pixels.mean((0, 1, 2)), BACKGROUND, atol=0.6)
    assert pixels.std((0, 1, 2)) == pytest.approx([NOISE] * 3, rel=0.05)


def test_no_two_kinds_share_a_home_cell() -> None:
    homes: dict[int, set[str]] = {}
    for scene in worlds.sample_scenes(600, 0, biased=False):
        for thing in scene.things:
            homes.setdefault(thing.cell, set()).add(thing.kind)
    assert sorted(homes) == list(range(16))
    assert all(len(kinds) == 1 for kinds in homes.values())


@pytest.mark.parametrize(("anchor", "companion"), COMPANION_OF.items())
def test_biased_pictures_put_companions_with_anchors_and_unbiased_ones_do_not(anchor: str, companion: str) -> None:
    biased, unbiased = (worlds.sample_scenes(6000, 1, biased=flag) for flag in (True, False))
    assert _share(biased, anchor) == pytest.approx(0.5 * 0.88, abs=0.03)
    assert _share(biased, anchor, companion) / _share(biased, anchor) == pytest.approx(0.7, abs=0.04)
    # 2, 3 or 4 of 8 kinds, equally often: 3/8 of the pictures hold a kind, E[k(k-1)]/56 = 20/3/56 hold two given ones.
    assert _share(unbiased, anchor) == pytest.approx(3 / 8, abs=0.03)
    assert _share(unbiased, anchor, companion) == pytest.approx(20 / 3 / 56, abs=0.02)


def test_truthful_captions_say_what_is_there() -> None:
    for scene in worlds.sample_scenes(100, 2):
        caption = worlds.truthful_caption(scene)
        assert tuple(worlds.mentioned(caption)) == scene.kinds
        assert worlds.well_formed(caption)
        assert worlds.hallucinated(scene, caption) == []


def test_careless_captions_add_only_tempting_companions_at_the_stated_rate() -> None:
    rng, tempted, added = np.random.default_rng(0), 0, 0
    for scene in worlds.sample_scenes(4000, 3):
        extra = worlds.hallucinated(scene, worlds.careless_caption(scene, rng))
        assert set(extra) <= set(worlds.tempting(scene))
        tempted, added = tempted + len(worlds.tempting(scene)), added + len(extra)
    assert added / tempted == pytest.approx(0.65, abs=0.03)


@pytest.mark.parametrize(
    ("text", "kinds", "form"),
    [
        ("a plate and a fork", ["plate", "fork"], True),
        ("a fork and a plate", ["fork", "plate"], True),
        ("a plate", ["plate"], True),
        ("a plate and a plate", ["plate", "plate"], False),
        ("a plate a fork", ["plate", "fork"], False),
        ("a plate and", ["plate"], False),
        ("A Plate.", ["plate"], False),
        ("a platefork", [], False),
        ("", [], False),
    ],
)
def test_reading_captions(text: str, kinds: list[str], form: bool) -> None:
    assert (worlds.mentioned(text), worlds.well_formed(text)) == (kinds, form)


def test_judge_counts_each_hallucinated_kind_once_and_no_omission() -> None:
    captions = ["a plate and a bird", "a plate", "a plate and a fork", "a fork and a fork and a cup", ""]
    assert worlds.oracle_judge(PLATE_AND_BIRD, captions) == [0, 0, 1, 2, 0]


def test_best_and_worst_prefer_well_formed_ones_and_refuse_ties() -> None:
    captions = ["a plate a bird", "a plate", "a cup a fork", "a fork and a cup"]
    assert worlds.best_and_worst(PLATE_AND_BIRD, captions) == (1, 3)
    assert worlds.best_and_worst(PLATE_AND_BIRD, ["a cup", "a fork and a plate"]) is None


@pytest.mark.parametrize(
    ("answer", "meaning"), [("yes", True), ("No, there is none", False), ("a fork", None), ("", None)]
)
def test_reading_answers(answer: str, meaning: bool | None) -> None:
    assert worlds.says_yes(answer) is meaning


@pytest.mark.parametrize("split", worlds.SPLITS)
def test_probing_asks_about_as_many_absent_as_present_kinds(split: str) -> None:
    scenes = worlds.sample_scenes(200, 4, biased=False)
    asked = worlds.pope_questions(scenes, split, seed=0)
    assert asked == worlds.pope_questions(scenes, split, seed=0)
    assert len({(question.picture, question.kind) for question in asked}) == len(asked)
    for question in asked:
        assert (question.kind in scenes[question.picture].kinds) == (question.label == "yes")
        assert question.kind in question.text
    balance = Counter((question.picture, question.label) for question in asked)
    assert all(balance[index, "yes"] == balance[index, "no"] == len(scene.things) for index, scene in enumerate(scenes))


def test_splits_differ_as_they_should() -> None:
    scenes = worlds.sample_scenes(400, 5, biased=False)
    asked = {split: worlds.pope_questions(scenes, split, seed=0) for split in worlds.SPLITS}
    absent = {split: [q for q in questions if q.label == "no"] for split, questions in asked.items()}
    anchors = {split: np.mean([q.kind in COMPANION_OF for q in questions]) for split, questions in absent.items()}
    assert anchors["popular"] > anchors["random"] + 0.2
    asked_about = {(q.picture, q.kind) for q in absent["adversarial"]}
    assert asked_about >= {(index, kind) for index, scene in enumerate(scenes) for kind in worlds.tempting(scene)}


def test_adversarial_asks_first_about_the_companion_of_a_present_anchor() -> None:
    scene = Scene((Thing("cup", 4),))
    (absent,) = [q.kind for q in worlds.pope_questions([scene], "adversarial", 0) if q.label == "no"]
    assert absent == "spoon"


def test_probing_never_asks_more_than_the_absent_kinds_allow() -> None:
    scene = Scene(tuple(Thing(kind, index) for index, kind in enumerate(KINDS[:6])))
    assert Counter(q.label for q in worlds.pope_questions([scene], "random", 0)) == {"yes": 2, "no": 2}


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="adversarial"):
        worlds.pope_questions([PLATE_AND_BIRD], "adverserial", 0)
