"""Every public format: its rows are recognised, mean what the format says, and survive the native format."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from preferences.public_rows import HH, IMAGE, ROWS, USER, VLFEEDBACK, rated, says

from omnipref.errors import ConfigError, DataError
from omnipref.preferences import (
    Comparison,
    Preference,
    case_key,
    check,
    detect,
    formats,
    from_json,
    to_json,
    to_pairs,
    to_trl,
)
from omnipref.preferences.fields import Row
from omnipref.preferences.formats import Unlabelled, format_named

EVERY_ROW = [pytest.param(name, row, id=f"{name}-{i}") for name, rows in ROWS.items() for i, row in enumerate(rows)]


def convert(name: str, row: dict[str, Any]) -> Preference:
    (preference,) = format_named(name).convert(Row(row))
    return check(preference)


def texts(preference: Preference) -> dict[str, str]:
    return {role: case.text for role, case in preference.cases.items()}


def first_context(preference: Preference) -> list[tuple[str, list[Any]]]:
    context = next(iter(preference.cases.values())).context
    return [(message.role, [part.value for part in message.parts]) for message in context]


def test_every_format_has_a_row():
    assert set(ROWS) == set(formats())


@pytest.mark.parametrize(("name", "row"), EVERY_ROW)
def test_detected_and_lossless(name: str, row: dict[str, Any]):
    assert detect(row).name == name
    preference = convert(name, row)
    stored = json.loads(json.dumps(to_json(preference)))
    assert from_json(stored) == preference
    assert detect(stored).name == "native"


@pytest.mark.parametrize(("name", "row"), EVERY_ROW)
def test_trl_export_keeps_texts_and_media(name: str, row: dict[str, Any]):
    preference = convert(name, row)
    try:
        exported = to_trl(preference)
    except DataError:
        expected = {"list", "step_list", "tree", "vlfeedback", "ultrafeedback", "nectar", "hpd_v2_ranked", "swift"}
        assert name in expected or name in {"pick_a_pic", "hpd_v2"} or name.startswith("align_anything_")
        return
    back = convert(detect(exported).name, exported)
    assert texts(back) == texts(preference)
    assert first_context(back) == first_context(preference)
    assert [case_key(case) for case in back.cases.values()] == [case_key(case) for case in preference.cases.values()]
    assert [c.tie for c in back.comparisons] == [c.tie for c in preference.comparisons]


WINNERS: dict[str, list[tuple[Any, Any]]] = {
    "native": [("a", "b")],
    "trl": [
        (" blue.", " green."),
        ("2", "3"),
        ("a cat", "a dog"),
        ("a cat", "a dog"),
        (" blue.", " green."),
        ("2", "3"),
    ],
    "ultrafeedback_binarized": [("2", "3")],
    "swift": [("2", "3"), ("a cat", "a cat"), ("a cat", "a dog")],
    "list": [("b", "a"), ("b", "a")],
    "step_list": [("Step 1: 2.Step 2: 4.", "Step 1: 2.Step 2: 5.")],
    "tree": [("Step 1. Step 2a. End 1.", "Step 1. Step 2b.")],
    "hh_rlhf": [("fine, thanks", "go away")],
    "ultrafeedback": [("10", "9")],
    "nectar": [("red", "seven")],
    "rlhf_v": [("a cat", "a dog")],
    "rlaif_v": [("a cat", "a dog")],
    "vlfeedback": [("first", "fourth"), ("first", "fourth")],
    "mmpr": [("a cat", "a dog"), ("no", "yes"), ("2", "3")],
    "pick_a_pic": [(b"\xff\xd8one", b"\xff\xd8zero")],
    "hpd_v2": [("1.jpg", "0.jpg"), ("0.jpg", "1.jpg")],
    "hpd_v2_ranked": [("2.jpg", "4.jpg")],
    "align_anything": [("2", "3"), ("a cat", "a dog"), ("y", "x"), ("x", "y")],
    "align_anything_media": [("2.wav", "1.wav")],
    "align_anything_paths": [("b.png", "w.png")],
    "align_anything_ti2ti": [("here", "no  yes")],
    "pku_safe_rlhf": [("b", "a")],
    "llama_factory": [("a cat", "a dog")],
    "alpaca_ranking": [("2", "3")],
    "nemo_rl": [("2", "3")],
}
LABELLED = {"trl_unpaired", "trl_stepwise", "swift_unpaired", "llama_factory_kto", "alpaca_kto"}


def test_the_right_answer_wins_in_every_format():
    def said(preference: Preference, role: str) -> Any:
        case = preference.cases[role]
        return case.text or case.response[0].media[0].value

    found = {}
    for name in set(ROWS) - LABELLED:
        best = [to_pairs(convert(name, row), "best_vs_worst")[0] for row in ROWS[name]]
        found[name] = [(said(one, "chosen"), said(one, "rejected")) for one in best]
    assert found == WINNERS


def test_likes_keep_their_sign():
    found = {name: [list(convert(name, row).labels.values()) for row in ROWS[name]] for name in LABELLED}
    assert found == {
        "trl_unpaired": [[True], [False]],
        "trl_stepwise": [[True, False]],
        "swift_unpaired": [[True]],
        "llama_factory_kto": [[True]],
        "alpaca_kto": [[False]],
    }


SWAPS = {
    "align_anything": ("response_1", "response_2", "overall_response", {1: 2, 2: 1}),
    "align_anything_media": ("response_1", "response_2", "overall_audio", {1: 2, 2: 1}),
    "pku_safe_rlhf": ("response_0", "response_1", "better_response_id", {0: 1, 1: 0}),
}


@pytest.mark.parametrize("name", SWAPS)
def test_swapping_responses_with_their_label_changes_nothing(name: str):
    one, other, label, swap = SWAPS[name]
    row = ROWS[name][0]
    swapped = {**row, one: row[other], other: row[one], label: swap[row[label]]}
    assert convert(name, swapped) == convert(name, row)
    flipped = {**row, label: swap[row[label]]}
    assert convert(name, flipped) != convert(name, row)


def test_pick_a_pic_swap_tie_and_unlabelled():
    row = ROWS["pick_a_pic"][0]
    preference = convert("pick_a_pic", row)
    assert preference.cases["chosen"].response[0].parts[0].value == row["jpg_1"]
    swapped = {**row, "jpg_0": row["jpg_1"], "jpg_1": row["jpg_0"], "label_0": 1.0, "label_1": 0.0}
    assert convert("pick_a_pic", swapped) == preference
    assert convert("pick_a_pic", {**row, "label_0": 0.5, "label_1": 0.5}).comparisons[0].tie
    assert preference.meta["user_id"] == 17
    with pytest.raises(Unlabelled):
        convert("pick_a_pic", {**row, "has_label": False})
    with pytest.raises(DataError, match="label_0"):
        convert("pick_a_pic", {**row, "label_1": 0.0})


def test_hpd_order_and_swap():
    rows = ROWS["hpd_v2"]
    assert convert("hpd_v2", rows[0]).cases["chosen"].response[0].parts[0].value == "1.jpg"
    assert convert("hpd_v2", rows[1]).cases["chosen"].response[0].parts[0].value == "0.jpg"
    assert convert("hpd_v2", {**rows[0], "human_preference": [1, 1]}).comparisons[0].tie


def test_nine_ranked_pictures_give_36_pairs():
    preference = convert("hpd_v2_ranked", ROWS["hpd_v2_ranked"][0])
    assert preference.ranks()["response_2"] == 0 and preference.ranks()["response_4"] == 8
    assert [len(to_pairs(preference, p)) for p in ("all", "best_vs_worst", "adjacent")] == [36, 1, 8]


def test_vlfeedback_example_of_the_card():
    preference = convert("vlfeedback", VLFEEDBACK)
    means = [preference.columns[f"score/response_{k}"] for k in range(4)]
    assert means == pytest.approx([4.666667, 4.0, 4.666667, 2.666667], abs=1e-6)
    pairs = {(pair.cases["chosen"].text, pair.cases["rejected"].text) for pair in to_pairs(preference)}
    untied = {("first", "second"), ("first", "fourth"), ("third", "second"), ("third", "fourth"), ("second", "fourth")}
    assert pairs == untied
    assert first_context(preference) == [("user", [IMAGE, "Describe the picture."])]


def test_ratings_are_numbers_and_absent_ones_do_not_count():
    preference = convert("ultrafeedback", ROWS["ultrafeedback"][0])
    assert preference.columns == {"score/response_0": 10.0, "score/response_1": 9.0}
    assert preference.ranks() == {"response_0": 0, "response_1": 1}
    nothing = {**VLFEEDBACK["completions"][1], "annotations": rated("N/A", "N/A", "N/A")}
    row = {**VLFEEDBACK, "completions": [VLFEEDBACK["completions"][0], nothing]}
    with pytest.raises(DataError, match=r"completions\[1\].annotations"):
        convert("vlfeedback", row)


def test_columnar_completions_are_turned_round():
    completions = VLFEEDBACK["completions"]
    columnar = {
        "model": [item["model"] for item in completions],
        "response": [item["response"] for item in completions],
        "annotations": {
            aspect: {"Rating": [item["annotations"][aspect]["Rating"] for item in completions]}
            for aspect in completions[0]["annotations"]
        },
    }
    got, expected = (convert("vlfeedback", {**VLFEEDBACK, "completions": c}) for c in (columnar, completions))
    assert (got.cases, got.comparisons, got.columns) == (expected.cases, expected.comparisons, expected.columns)


def test_nectar_ties_share_a_rank():
    preference = convert("nectar", ROWS["nectar"][0])
    assert preference.ranks() == {"response_0": 0, "response_1": 2, "response_2": 1, "response_3": 1}
    assert first_context(preference) == [("user", ["Name a colour."])]
    assert len(to_pairs(preference)) == 5


def test_hh_common_turns_are_the_context():
    preference = convert("hh_rlhf", HH)
    assert [role for role, _ in first_context(preference)] == ["user", "assistant", "user"]
    assert texts(preference) == {"chosen": "fine, thanks", "rejected": "go away"}


def test_hh_first_differing_turn_is_the_pair_and_later_turns_are_counted():
    chosen = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant: yes"
    rejected = "\n\nHuman: hi\n\nAssistant: what?\n\nHuman: other"
    preference = convert("hh_rlhf", {"chosen": chosen, "rejected": rejected})
    assert texts(preference) == {"chosen": "hello", "rejected": "what?"}
    assert preference.meta["turns_after"] == {"chosen": 2, "rejected": 1}


def test_hh_difference_in_a_human_turn_is_refused():
    with pytest.raises(DataError, match="human"):
        convert("hh_rlhf", {**HH, "rejected": HH["rejected"].replace("how are you", "where are you")})


def test_trl_shapes():
    standard, chat, vision, parts, implicit, implicit_chat = (convert("trl", row) for row in ROWS["trl"])
    assert first_context(standard) == [("raw", ["The sky is"])]
    assert first_context(chat) == [("user", ["What is 1+1?"])]
    assert first_context(vision) == [("user", [IMAGE, "What is it?"])]
    assert first_context(parts) == [("user", [IMAGE, "What?"])]
    assert first_context(implicit) == [("raw", ["The sky is"])]
    assert texts(implicit) == {"chosen": " blue.", "rejected": " green."}
    assert first_context(implicit_chat) == [("user", ["What is 1+1?"])]
    assert implicit_chat.columns == {"margin": 2.0}


def test_trl_cached_reference_and_scores_are_columns():
    row = {
        **ROWS["trl"][0],
        "ref_chosen_logps": -3.5,
        "ref_rejected_logps": -4.0,
        "score_chosen": 8,
        "score_rejected": 2,
    }
    columns = convert("trl", row).columns
    assert columns == {"ref_chosen_logps": -3.5, "ref_rejected_logps": -4.0, "score/chosen": 8.0, "score/rejected": 2.0}
    assert to_trl(convert("trl", row)) == row


def test_implicit_prompt_is_cut_between_words():
    preference = convert("trl", {"chosen": "It is 12 o'clock", "rejected": "It is 13 o'clock"})
    assert texts(preference) == {"chosen": " 12 o'clock", "rejected": " 13 o'clock"}


def test_full_dialogues_behind_a_prompt_do_not_repeat_it():
    preference = convert("ultrafeedback_binarized", ROWS["ultrafeedback_binarized"][0])
    assert texts(preference) == {"chosen": "2", "rejected": "3"}
    assert first_context(preference) == [("user", ["What is 1+1?"])]


def test_stepwise_cases_see_the_steps_before():
    preference = convert("trl_stepwise", ROWS["trl_stepwise"][0])
    assert preference.labels == {"step_0": True, "step_1": False}
    assert preference.cases["step_1"].context[0].text == "9 or 10?10 > 9.\n"
    assert to_trl(preference) == ROWS["trl_stepwise"][0]


def test_swift_rejected_media_are_a_conditional_preference():
    answer, picture, dialogue = (convert("swift", row) for row in ROWS["swift"])
    assert texts(answer) == {"chosen": "2", "rejected": "3"} and answer.columns == {"margin": 1.5}
    assert picture.comparisons == (Comparison("chosen", "chosen@negative_image"),)
    assert set(texts(picture).values()) == {"a cat"}
    negative = picture.cases["chosen@negative_image"].context[0].parts
    assert [part.value for part in negative] == ["dog.png", "What?"]
    assert first_context(picture) == [("user", ["cat.png", "What?"])]
    rejected = dialogue.cases["rejected"]
    assert (rejected.text, rejected.context[0].text, rejected.context[0].media[0].value) == (
        "a dog",
        "What now?",
        "cat.png",
    )


def test_swift_media_counts_must_agree():
    row = {**ROWS["swift"][1], "rejected_images": ["a.png", "b.png"]}
    with pytest.raises(DataError, match="rejected_images"):
        convert("swift", row)


def test_marks_become_pictures_in_place():
    one, two, none = (convert("mmpr", row) for row in ROWS["mmpr"])
    assert first_context(one) == [("user", ["one.jpg", "\nWhat?"])]
    assert first_context(two) == [("user", ["1.jpg", " and ", "2.jpg", ": same?"])]
    assert first_context(none) == [("user", ["1+1?"])]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("mmpr", {"image": "a.jpg", "question": "<image> <image>", "chosen": "a", "rejected": "b"}),
        ("mmpr", {"image": ["a.jpg", "b.jpg"], "question": "<image>?", "chosen": "a", "rejected": "b"}),
        ("mmpr", {"question": "<image>?", "chosen": "a", "rejected": "b"}),
        ("llama_factory", {**ROWS["llama_factory"][0], "images": ["a.png", "b.png"]}),
        ("llama_factory", {**ROWS["llama_factory"][0], "conversations": [{"from": "human", "value": "no mark"}]}),
        ("trl", {"prompt": "<image>", "images": ["a", "b"], "chosen": "a", "rejected": "b"}),
    ],
)
def test_media_and_marks_must_be_as_many(name: str, row: dict[str, Any]):
    with pytest.raises(DataError, match="image") as caught:
        convert(name, row)
    assert caught.value.field in ("image", "images")


def test_tree_paths_are_cases_with_steps_as_segments():
    preference = convert("tree", ROWS["tree"][0])
    steps = [[part.value for part in case.response[0].parts] for case in preference.cases.values()]
    assert steps == [["Step 1. ", "Step 2a. ", "End 1."], ["Step 1. ", "Step 2a. ", "End 2."], ["Step 1. ", "Step 2b."]]
    assert preference.columns == {"score/response_0": 1.0, "score/response_1": 0.2, "score/response_2": 0.0}
    assert preference.meta["step_values"]["response_0"] == [0.5, None, 1.0]
    assert len(to_pairs(preference)) == 3


def test_scores_and_ranks_agree():
    by_score, by_rank = (convert("list", row) for row in ROWS["list"])
    assert by_score.ranks() == by_rank.ranks() == {"response_0": 2, "response_1": 0, "response_2": 1}
    assert by_score.comparisons[0].margin == pytest.approx(0.4) and by_rank.comparisons[0].margin is None
    assert not by_rank.columns


def test_interleaved_answers_keep_their_order():
    preference = convert("align_anything_ti2ti", ROWS["align_anything_ti2ti"][0])
    parts = {role: [part.value for part in case.response[0].parts] for role, case in preference.cases.items()}
    assert parts == {"chosen": ["here", "b.png"], "rejected": ["no ", "w.png", " yes"]}


def test_nemo_lower_rank_wins():
    row = ROWS["nemo_rl"][0]
    assert texts(convert("nemo_rl", row)) == {"chosen": "2", "rejected": "3"}
    assert convert("nemo_rl", {**row, "completions": row["completions"][::-1]}) == convert("nemo_rl", row)


def test_a_verdict_outside_its_domain_is_refused():
    with pytest.raises(DataError, match="overall_response"):
        convert("align_anything", {**ROWS["align_anything"][0], "overall_response": 3})


def test_no_two_formats_claim_one_row():
    for name, row in ((name, row) for name, rows in ROWS.items() for row in rows):
        claims = [one.name for one in formats().values() if one.matches(frozenset(row), row)]
        assert claims == [name]


def test_ambiguity_is_refused_with_candidates_and_a_cure():
    row = {**ROWS["trl"][0], "responses": ["a", "b"], "scores": [1, 2]}
    with pytest.raises(DataError, match=r"fit list, trl.*--dataset-format list"):
        detect(row)
    with pytest.raises(DataError, match=r"fit no known format.*--dataset-format") as caught:
        detect({"text": "only"})
    assert "pick_a_pic" in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean `nectar`"):
        format_named("nektar")


def test_detection_survives_bad_first_rows():
    rows = [{"prompt": 3, "chosen": "a"}, *[ROWS["trl"][0]] * 3]
    assert detect(rows).name == "trl"


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("trl", {"chosen": ""}, "chosen"),
        ("trl", {"chosen": "  \n"}, "chosen"),
        ("trl", {"rejected": None}, "rejected"),
        ("trl", {"prompt": 5}, "prompt"),
        ("trl", {"chosen": 5.0}, "chosen"),
        ("trl", {"rejected": " blue."}, "rejected"),
        ("trl", {"margin": float("nan")}, "margin"),
        ("trl", {"margin": "large"}, "margin"),
        ("trl", {"prompt": [{"role": "user"}]}, "prompt[0].content"),
        ("trl", {"chosen": [{"role": "assistant", "content": ""}]}, "chosen"),
        ("trl_unpaired", {"label": "yes"}, "label"),
        ("trl_stepwise", {"labels": [True]}, "labels"),
        ("trl_stepwise", {"labels": [True, 2]}, "labels[1]"),
        ("list", {"scores": [1.0, float("nan"), 0.0]}, "scores[1]"),
        ("list", {"scores": [1.0, 1.0, 1.0]}, "comparisons"),
        ("list", {"scores": [1.0]}, "scores"),
        ("list", {"responses": ["a", "", "c"]}, "responses[1]"),
        ("list", {"responses": "abc"}, "responses"),
        ("nectar", {"answers": [{"answer": "red"}]}, "answers[0].rank"),
        ("nectar", {"prompt": "no markers"}, "prompt"),
        ("rlhf_v", {"text": "{broken"}, "text"),
        ("rlhf_v", {"text": '{"question": "q", "chosen": "a"}'}, "text.rejected"),
        ("hpd_v2", {"human_preference": [1]}, "human_preference"),
        ("align_anything_paths", {"better_data_path": "x.docx"}, "better_data_path"),
        ("swift", {"messages": USER}, "messages[0]"),
        ("nemo_rl", {"context": "text"}, "context"),
        ("tree", {"tree": {"text": "a", "children": [{"text": "b"}]}}, "tree"),
        ("native", {"omnipref": 2}, "omnipref"),
        ("native", {"comparisons": [{"better": "chosen", "worse": "nobody"}]}, "comparisons[0]"),
        ("native", {"columns": {"margin": float("inf")}}, "columns.margin"),
    ],
)
def test_bad_rows_name_the_field(name: str, change: dict[str, Any], field: str):
    with pytest.raises(DataError) as caught:
        convert(name, {**ROWS[name][0], **change})
    assert caught.value.field == field
    assert caught.value.found


def test_tool_calls_are_refused_rather_than_lost():
    turn = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    with pytest.raises(DataError, match="tool_calls"):
        convert("trl", {"prompt": USER, "chosen": [turn], "rejected": says("3")})


def test_order_of_the_rows_of_a_list_does_not_matter():
    row = ROWS["list"][0]
    expected = {(pair.cases["chosen"].text, pair.cases["rejected"].text) for pair in to_pairs(convert("list", row))}
    for order in itertools.permutations(range(3)):
        mixed = {key: [row[key][k] for k in order] for key in ("responses", "scores")}
        pairs = to_pairs(convert("list", {**row, **mixed}))
        assert {(pair.cases["chosen"].text, pair.cases["rejected"].text) for pair in pairs} == expected
