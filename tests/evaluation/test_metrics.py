"""CHAIR, POPE, AMBER, pair accuracy, image sensitivity: the cards' numbers, rules of released code, bad input."""

import json
from pathlib import Path

import pytest

from omnipref.errors import DataError
from omnipref.evaluation import (
    Amber,
    amber_discriminative,
    amber_generative,
    amber_score,
    chair,
    confusion,
    evaluate_generations,
    image_sensitivity,
    pair_accuracy,
    parse_yes_no,
    pope,
    pope_file,
    pope_files,
    read_amber,
    read_pope,
    reward_accuracy,
)

DATA = Path(__file__).parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="shared/data is not beside the checkout")


def values(estimates):
    return {name: estimate.value for name, estimate in estimates.items()}


def test_chair_of_the_card():
    # survey-mllm-alignment: 5 objects, 2 hallucinated, 4 sentences, 1 bad.
    mentioned = [["cup", "spoon", "fork"], ["boat"], ["tree"], []]
    found = values(chair(mentioned, [{"cup"}, {"boat"}, {"tree", "bird"}, {"fish"}]).estimates())
    assert found["chair_i"] == pytest.approx(0.4)
    assert found["chair_s"] == pytest.approx(0.25)
    assert found["coverage"] == pytest.approx(3 / 5)
    assert found["objects"] == pytest.approx(1.25)


def test_a_list_counts_every_mention_and_a_set_each_object_once():
    present = [{"cup"}]
    assert values(chair([["cup", "fork", "fork"]], present).estimates())["chair_i"] == pytest.approx(2 / 3)
    assert values(chair([{"cup", "fork"}], present).estimates())["chair_i"] == pytest.approx(1 / 2)
    assert values(chair([["cup", "cup"]], present).estimates())["coverage"] == 1.0


def test_a_model_that_says_nothing_invents_nothing_and_covers_nothing():
    found = values(chair([[], []], [{"cup"}, {"fork"}], ["", ""]).estimates())
    assert found == {"chair_i": 0.0, "chair_s": 0.0, "coverage": 0.0, "objects": 0.0, "length": 0.0}


@pytest.mark.parametrize(
    ("mentioned", "present", "texts"),
    [([], [], None), ([["a"]], [{"a"}, {"b"}], None), ([["a"]], [{"a"}], ["x", "y"]), (["cup"], [{"cup"}], None)],
)
def test_chair_refuses_bad_input(mentioned, present, texts):
    with pytest.raises(DataError):
        chair(mentioned, present, texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("No, there is no cup.", "no"),
        ("There is not a cup in the image.", "no"),
        ("Yes, there is. There is no doubt.", "yes"),
        ("It is unclear. No", "yes"),
        (" No\n", "no"),
        ("NO", "yes"),
        ("none", "yes"),
        ("Nothing", "yes"),
        ("", "yes"),
    ],
)
def test_answers_are_parsed_by_popes_rule(text, expected):
    assert parse_yes_no(text) == expected


def test_pope_by_hand():
    # TP 2, FP 1, TN 3, FN 2.
    answers = ["Yes", "yes.", "Yes", "No", "No", "No", "no", "not"]
    labels = ["yes", "yes", "no", "no", "no", "no", "yes", "yes"]
    found = values(pope(answers, labels))
    expected = {"accuracy": 5 / 8, "precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "yes_ratio": 3 / 8}
    assert found == pytest.approx(expected)


def test_questions_about_one_picture_are_resampled_together():
    answers, labels = ["yes"] * 60, ["yes", "no"] * 30
    single = pope(answers, labels)["accuracy"]
    grouped = pope(answers, labels, [place // 2 for place in range(60)])["accuracy"]
    assert grouped.n == 30 and grouped.low == grouped.high == 0.5
    assert single.high - single.low > 0.2


def test_undefined_precision_is_zero():
    assert values(pope(["no", "no"], ["yes", "no"]))["precision"] == 0.0


def test_a_label_that_is_neither_yes_nor_no_is_refused():
    with pytest.raises(DataError, match="record 1"):
        confusion(["yes", "no"], ["yes", "No"], positive="yes")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(tmp_path):
    rows = [{"question_id": k, "image": f"{k // 2}.jpg", "text": "?", "label": "yes"} for k in range(1, 5)]
    return write_lines(tmp_path / "q.json", rows)


def test_answers_are_matched_by_question_and_not_by_order(tmp_path):
    rows = [{"question_id": k, "answer": "Yes" if k > 1 else "No"} for k in (4, 3, 2, 1)]
    found = pope_file(write_lines(tmp_path / "a.jsonl", rows), questions(tmp_path))
    assert found["accuracy"].value == 0.75 and found["accuracy"].n == 3


@pytest.mark.parametrize(
    ("ids", "message"),
    [([1, 2, 3], "no answer to question 4"), ([1, 2, 3, 4, 9], "question 9"), ([1, 2, 3, 4, 4], "second time")],
)
def test_missing_foreign_and_double_answers_are_refused(tmp_path, ids, message):
    answers = write_lines(tmp_path / "a.jsonl", [{"question_id": k, "text": "Yes"} for k in ids])
    with pytest.raises(DataError, match=message):
        pope_file(answers, questions(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question_id": 1, "image": "a", "text": "?"}\n', "field `label`"),
        (b'{"question_id": "1", "image": "a", "text": "?", "label": "yes"}\n', "question_id"),
        (b'{"question_id": 1, "image": "a", "te', "cut short"),
        (b"\xff\xfe", "UTF-8"),
        (b"", "empty"),
        (b"[1]", "JSON object"),
    ],
)
def test_bad_question_files_are_refused(tmp_path, content, message):
    path = tmp_path / "q.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pope(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_pope(tmp_path / "none.json")


@needs_data
def test_popes_files_are_read_and_half_of_the_answers_are_yes():
    files = pope_files(DATA / "pope")
    assert list(files) == ["random", "popular", "adversarial"]
    for path in files.values():
        asked = read_pope(path)
        found = values(pope(["Yes"] * len(asked), [q.label for q in asked], [q.image for q in asked], n=100))
        assert found["accuracy"] == found["precision"] == 0.5
        assert found["recall"] == found["yes_ratio"] == 1.0


def amber():
    return Amber(
        truth={1: ["person", "tree", "sky"], 2: ["cup"]},
        tempting={1: ["bird", "dog"], 2: ["spoon"]},
        labels={3: ("existence", "no"), 4: ("existence", "yes"), 5: ("state", "no"), 6: ("state", "no")},
        association={
            "person": ["man", "woman"],
            "tree": ["forest"],
            "bird": ["pigeon"],
            "cup": [],
            "sky": [],
            "dog": [],
        },
        safe_words=frozenset({"light"}),
    )


def test_amber_by_hand():
    # Picture 1: man and woman are both `person` (one of three covered), pigeon is imagined, light is safe but counted.
    found = values(amber_generative({1: ["man", "woman", "pigeon", "light"], 2: ["cup"]}, amber()))
    assert found == pytest.approx({"chair": 1 / 5, "cover": 2 / 4, "hal": 1 / 2, "cog": 1 / 3})


def test_a_near_synonym_saves_a_noun_in_amber():
    def similar(one, other):
        return {one, other} == {"mug", "cup"}

    nouns = {2: ["mug"]}
    assert values(amber_generative(nouns, amber()))["chair"] == 1.0
    assert values(amber_generative(nouns, amber(), similar=similar)) == {
        "chair": 0.0,
        "cover": 1.0,
        "hal": 0.0,
        "cog": 0.0,
    }


def test_ambers_positive_class_is_no():
    found = amber_discriminative({3: "No", 4: "No.", 5: "Yes", 6: "I cannot tell"}, amber())
    everything = values(found["all"])
    assert everything["accuracy"] == 0.25
    assert everything["precision"] == 0.5
    assert everything["recall"] == pytest.approx(1 / 3)
    assert everything["f1"] == pytest.approx(0.4)
    assert set(found) == {"all", "existence", "state"}


def test_nouns_are_found_through_plurals():
    assert amber().nouns("Two Women? No: men, trees and a lighthouse under the skies.") == ["tree", "sky"]


def test_amber_score_of_the_card():
    assert amber_score(40, 70) == 65


def test_an_unknown_amber_query_is_refused():
    with pytest.raises(DataError, match="99"):
        amber_generative({99: ["cup"]}, amber())
    with pytest.raises(DataError, match="99"):
        amber_discriminative({99: "Yes"}, amber())


@needs_data
def test_ambers_truth_scores_perfectly_and_its_temptations_badly():
    real = read_amber(DATA / "amber")
    assert (len(real.truth), len(real.labels)) == (1004, 14216)
    told = values(amber_generative({key: sorted(set(words)) for key, words in real.truth.items()}, real, n=100))
    assert told["chair"] == told["hal"] == 0.0 and told["cover"] > 0.9
    tempted = values(amber_generative(real.tempting, real, n=100))
    assert tempted["chair"] > 0.7 and tempted["cog"] > 0.9
    right = amber_discriminative({key: label.title() for key, (_, label) in real.labels.items()}, real, n=20)
    assert right["all"]["f1"].value == 1.0


def test_pair_accuracy_of_the_card():
    found = pair_accuracy([0.8, 0.2, 0.5, 0.1], [0.3, 0.2, 0.5, 0.9], [1, 1, 0, 1])
    assert found["tau"] == 0.5
    assert found["diff"] == pytest.approx(0.333333, abs=1e-6)


def test_a_human_preference_out_of_range_is_refused():
    with pytest.raises(DataError, match="record 1"):
        pair_accuracy([1, 1], [0, 0], [1, 2])


def test_a_tied_reward_is_wrong():
    assert reward_accuracy([1.0, 0.0, -1.0, 2.0]).value == 0.5


def test_pairs_of_one_prompt_are_resampled_together():
    assert reward_accuracy([1, -1] * 20, ["p"] * 40).low == 0.5
    assert reward_accuracy([1, -1] * 20).low < 0.4


def test_image_sensitivity_is_zero_for_a_model_that_does_not_look():
    assert image_sensitivity([-1.0, -2.0], [-1.0, -2.0]).high == 0.0
    assert image_sensitivity([-1.0, -2.0], [-2.0, -5.0]).value == 2.0
    with pytest.raises(DataError, match="2 and 1"):
        image_sensitivity([-1.0, -2.0], [-1.0])


def test_a_file_of_generations(tmp_path):
    rows = [
        {"text": "a cup and a fork", "mentioned": ["cup", "fork"], "present": ["cup"]},
        {"text": "a boat", "mentioned": ["boat"], "present": ["boat", "fish"]},
    ]
    found = values(evaluate_generations(write_lines(tmp_path / "g.jsonl", rows)))
    expected = {"chair_i": 1 / 3, "chair_s": 0.5, "coverage": 2 / 3, "objects": 1.5, "length": 3.5}
    assert found == pytest.approx(expected)
    bad = write_lines(tmp_path / "b.jsonl", [{"text": "a", "mentioned": "cup", "present": []}])
    with pytest.raises(DataError, match="mentioned"):
        evaluate_generations(bad)
