"""Negative pictures: never the query, only the picture changes, the same draws in any batch, honest provenance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import llava, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from omnipref.build import crop, flip, mismatched, occlude, random_image, same_image, similar_image, vision_features
from omnipref.build.pictures import pictures_of
from omnipref.build.retrieval import index_of
from omnipref.errors import ConfigError
from omnipref.preferences import Message, Part, Preference, load_image, media_key, pair

NEGATIVE = "chosen@negative_image"


def records(n: int, distinct: int | None = None) -> list[Preference]:
    made = []
    for i in range(n):
        image = picture(i % (distinct or n))
        context = [Message.of("system", "be brief"), Message.of("user", Part("image", image), f"what is {i}?")]
        made.append(pair(context, f"it is {i}", f"it is not {i}", record=i, source="here.jsonl"))
    return made


def mean_colour(values) -> torch.Tensor:
    return torch.stack([torch.tensor(np.asarray(v, dtype=np.float32).mean((0, 1))) for v in values])


BUILDERS = {
    "random_image": random_image(seed=1),
    "occlude": occlude(seed=1, patch=8),
    "crop": crop(seed=1),
    "similar_image": similar_image(mean_colour, k=30, upper=1.0),
}


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
def test_only_the_picture_changes_and_never_to_itself(builder):
    source = records(12, distinct=9)
    built = builder(source)
    assert not built.dropped and len(built.preferences) == 12
    for before, after in zip(source, built.preferences, strict=True):
        chosen, negative = after.cases["chosen"], after.cases[NEGATIVE]
        assert chosen is before.cases["chosen"] and after.cases["rejected"] is before.cases["rejected"]
        assert negative.response == chosen.response
        assert [m.text for m in negative.context] == [m.text for m in chosen.context]
        assert media_key(pictures_of(negative)[0]) != media_key(pictures_of(chosen)[0])
        assert (after.record, after.source) == (before.record, before.source)
        assert after.comparisons[:-1] == before.comparisons
        assert (after.comparisons[-1].better, after.comparisons[-1].worse) == ("chosen", NEGATIVE)
        assert after.meta["built_by"][0]["builder"] == builder.name
        assert after.ranks()["chosen"] == 0


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
def test_draws_depend_on_seed_and_record_only(builder):
    source = records(10)
    keys = [media_key(pictures_of(p.cases[NEGATIVE])[0]) for p in builder(source).preferences]
    apart = [builder([record], pool=source).preferences[0] for record in reversed(source)]
    assert [media_key(pictures_of(p.cases[NEGATIVE])[0]) for p in apart][::-1] == keys


def test_seeds_differ_and_provenance_names_the_true_origin():
    source = records(30)
    one, two = random_image(seed=0)(source).preferences, random_image(seed=1)(source).preferences
    origins = [p.meta["built_by"][0]["picture_of_record"][0] for p in one]
    assert origins != [p.meta["built_by"][0]["picture_of_record"][0] for p in two]
    for preference, origin in zip(one, origins, strict=True):
        assert media_key(pictures_of(preference.cases[NEGATIVE])[0]) == media_key(picture(origin))
    assert len(set(origins)) > 10


@given(share=st.floats(0.01, 1), patch=st.integers(1, 40))
@settings(max_examples=30)
def test_occlusion_replaces_its_share_of_patches(share: float, patch: int):
    source = records(1)
    before, after = (
        np.asarray(pictures_of(occlude(share, patch)(source).preferences[0].cases[role])[0])
        for role in ("chosen", NEGATIVE)
    )
    changed = (before != after).any(-1)
    starts = range(0, 32, patch)
    touched = sum(changed[y : y + patch, x : x + patch].any() for y in starts for x in starts)
    expected = max(1, round(share * len(starts) ** 2))
    assert touched <= expected
    assert touched >= 0.9 * expected - 1


def test_crops_keep_a_share_of_the_area():
    wide = [
        replace(r, cases={k: c.replace_media([picture(1, 320, 160)]) for k, c in r.cases.items()}) for r in records(20)
    ]
    for preference in crop(0.05, 0.2)(wide).preferences:
        cut = pictures_of(preference.cases[NEGATIVE])[0]
        assert 0.04 < cut.width * cut.height / (320 * 160) < 0.21
        assert abs(cut.width / cut.height - 2) < 0.1


def test_same_image_is_the_control_without_contrast():
    preference = same_image()(records(1)).preferences[0]
    assert preference.cases[NEGATIVE] == preference.cases["chosen"]


def test_flip_exchanges_about_half_and_leaves_the_pair_alone():
    source = records(200, distinct=20)
    built = flip(random_image(seed=1), seed=5)(source)
    plain = random_image(seed=1)(source)
    flipped = 0
    for before, after in zip(plain.preferences, built.preferences, strict=True):
        assert after.cases["chosen"] is before.cases["chosen"] and after.cases["rejected"] is before.cases["rejected"]
        order = [after.cases["chosen@positive_image"], after.cases[NEGATIVE]]
        true = [before.cases["chosen"], before.cases[NEGATIVE]]
        assert order in (true, true[::-1])
        assert after.meta["built_by"][-1] == {"builder": "flip", "seed": 5, "flipped": order != true}
        assert [(c.better, c.worse) for c in after.comparisons] == [
            ("chosen", "rejected"),
            ("chosen@positive_image", NEGATIVE),
        ]
        flipped += order != true
    assert abs(flipped - 100) < 30


def test_similar_is_nearest_without_duplicates_and_by_acceptance():
    source = records(12)
    built = similar_image(mean_colour, upper=1.0)(source).preferences
    raw = mean_colour([pictures_of(r.cases["chosen"])[0] for r in source])
    unit = torch.nn.functional.normalize(raw - raw.mean(0), dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    assert [p.meta["built_by"][0]["picture_of_record"][0] for p in built] == cosine.argmax(1).tolist()
    best = cosine.max().item()
    limited = similar_image(mean_colour, upper=best - 1e-4)(source).preferences
    assert all(p.meta["built_by"][0]["cosine"][0] <= best - 1e-4 for p in limited)
    second = similar_image(
        mean_colour, upper=1.0, accept=lambda r, v: media_key(v) != media_key(picture(int(cosine[r.record].argmax())))
    )
    order = cosine.argsort(dim=1, descending=True)
    assert [p.meta["built_by"][0]["picture_of_record"][0] for p in second(source).preferences] == order[:, 1].tolist()
    none = similar_image(mean_colour, accept=lambda r, v: False)(source)
    assert len(none.dropped) == 12 and "none accepted" in str(none.dropped[0])


def test_vision_features_do_not_depend_on_the_batch():
    model, processor = llava()
    values = [picture(i) for i in range(5)]
    together = vision_features(model, processor, batch_size=4)(values)
    alone = vision_features(model, processor, batch_size=1)(values)
    assert together.shape == (5, 32)
    torch.testing.assert_close(together, alone)
    with torch.no_grad():
        inputs = processor.image_processor(values, return_tensors="pt")
        expected = torch.stack(list(model.get_image_features(**inputs).pooler_output)).mean(1)
    torch.testing.assert_close(together, expected)
    index = index_of(records(5), vision_features(model, processor))
    assert len(index.near(values[:1], 3, 1.0)[0]) <= 3


def test_records_that_cannot_be_built_are_named():
    text = pair("no picture", "a", "b", record=7, source="x.jsonl")
    for builder in BUILDERS.values():
        dropped = builder([*records(3), text]).dropped
        assert [str(error).partition(":")[0] for error in dropped] == ["x.jsonl, record 7"]
    assert "no other picture" in str(random_image()(records(2, distinct=1)).dropped[0])
    assert "a case `answer`" in str(random_image(role="answer")(records(2)).dropped[0])
    with pytest.raises(ConfigError, match="share"):
        occlude(share=0)
    with pytest.raises(ConfigError, match="low"):
        crop(0.5, 0.2)


def test_chained_builders_keep_the_history():
    built = (random_image(seed=1) >> mismatched(seed=2))(records(4)).preferences[0]
    assert [line["builder"] for line in built.meta["built_by"]] == ["random_image", "mismatched"]
    assert set(built.cases) == {"chosen", "rejected", NEGATIVE, "mismatched"}


def test_one_corrupt_picture_costs_its_record_and_no_other(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    source = records(5)
    bad = pair([Message.of("user", Part("image", str(broken)), "what?")], "a", "b", record=5, source="here.jsonl")
    built = similar_image(lambda values: mean_colour([load_image(value) for value in values]), upper=1.0)([*source, bad])
    assert [one.record for one in built.preferences] == list(range(5))
    assert [(error.record, "corrupt" in str(error)) for error in built.dropped] == [(5, True)]
