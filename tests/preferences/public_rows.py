"""One small row in the exact shape of every public format; media values are stand-ins that are never opened."""

from __future__ import annotations

import json
from typing import Any

ORIGIN = {
    "ds_name": "set",
    "origin_dataset": "vqa",
    "origin_split": '{"model": "m"}',
    "idx": "7",
    "image_path": "x.jpg",
}
IMAGE = {"bytes": b"\x89PNG-one", "path": "one.png"}
USER = [{"role": "user", "content": "What is 1+1?"}]


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def rated(*ratings: str) -> dict[str, Any]:
    names = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    return {name: {"Rating": rating, "Rationale": "so"} for name, rating in zip(names, ratings, strict=True)}


VLFEEDBACK = {
    "id": "a-1",
    "prompt": "Describe the picture.",
    "models": ["m0", "m1", "m2", "m3"],
    "completions": [
        {"model": "m0", "response": "first", "annotations": rated("5", "4", "5")},
        {"model": "m1", "response": "second", "annotations": rated("3", "4", "5")},
        {"model": "m2", "response": "third", "annotations": rated("4", "5", "5")},
        {"model": "m3", "response": "fourth", "annotations": rated("2", "1", "5")},
    ],
    "image": IMAGE,
}

HH = {
    "chosen": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how are you?\n\nAssistant: fine, thanks",
    "rejected": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: how are you?\n\nAssistant: go away",
}

ROWS: dict[str, list[dict[str, Any]]] = {
    "native": [
        {
            "omnipref": 1,
            "context": [{"role": "raw", "content": [{"type": "text", "text": "q"}]}],
            "cases": {
                "chosen": {"response": [{"role": "raw", "content": [{"type": "text", "text": "a"}]}]},
                "rejected": {"response": [{"role": "raw", "content": [{"type": "text", "text": "b"}]}]},
            },
            "comparisons": [{"better": "chosen", "worse": "rejected", "margin": 0.5}],
            "record": 0,
            "source": "x",
        }
    ],
    "trl": [
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"prompt": USER, "chosen": says("2"), "rejected": says("3")},
        {"prompt": "What is it?", "chosen": says("a cat"), "rejected": says("a dog"), "images": [IMAGE]},
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "a dog"}]}],
            "image": IMAGE,
        },
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": USER + says("2"), "rejected": USER + says("3"), "margin": 2.0},
    ],
    "trl_unpaired": [
        {"prompt": "The sky is", "completion": " blue.", "label": True},
        {"prompt": USER, "completion": says("3"), "label": False},
    ],
    "trl_stepwise": [{"prompt": "9 or 10?", "completions": ["10 > 9.", "So 9."], "labels": [True, False]}],
    "ultrafeedback_binarized": [
        {
            "prompt": "What is 1+1?",
            "prompt_id": "f0",
            "chosen": USER + says("2"),
            "rejected": USER + says("3"),
            "messages": USER + says("2"),
            "score_chosen": 8.5,
            "score_rejected": 4.0,
        }
    ],
    "swift": [
        {"messages": USER + says("2"), "rejected_response": "3", "margin": 1.5},
        {
            "messages": [{"role": "user", "content": "<image>What?"}, *says("a cat")],
            "images": ["cat.png"],
            "rejected_images": ["dog.png"],
        },
        {
            "messages": [{"role": "user", "content": "<image>What?"}, *says("a cat")],
            "images": ["cat.png"],
            "rejected_messages": [{"role": "user", "content": "<image>What now?"}, *says("a dog")],
        },
    ],
    "swift_unpaired": [{"messages": USER + says("2"), "label": True}],
    "list": [
        {"prompt": "q", "responses": ["a", "b", "c"], "scores": [0.1, 0.9, 0.5]},
        {"prompt": "q", "completions": ["a", "b", "c"], "ranks": [3, 1, 2]},
    ],
    "step_list": [
        {
            "prompt": "q",
            "answer": "4",
            "dataset": "maths",
            "responses": [
                {"steps": ["Step 1: 2.", "Step 2: 4."], "score": 100, "reasoning": "gold"},
                {"steps": ["Step 1: 2.", "Step 2: 5."], "score": -60, "reasoning": "wrong"},
            ],
        }
    ],
    "tree": [
        {
            "prompt": "q",
            "tree": {
                "text": "Step 1. ",
                "value": 0.5,
                "children": [
                    {
                        "text": "Step 2a. ",
                        "children": [{"text": "End 1.", "value": 1.0}, {"text": "End 2.", "value": 0.2}],
                    },
                    {"text": "Step 2b.", "value": 0.0},
                ],
            },
        }
    ],
    "hh_rlhf": [HH],
    "ultrafeedback": [
        {
            "source": "flan",
            "instruction": "Add.",
            "models": ["a", "b"],
            "completions": [
                {
                    "model": "a",
                    "response": "10",
                    "annotations": {"honesty": {"Rating": "10"}, "helpfulness": {"Rating": "N/A"}},
                },
                {
                    "model": "b",
                    "response": "9",
                    "annotations": {"honesty": {"Rating": "9"}, "helpfulness": {"Rating": "9"}},
                },
            ],
        }
    ],
    "nectar": [
        {
            "prompt": "\n\nHuman: Name a colour. \n\nAssistant: ",
            "answers": [
                {"answer": "red", "rank": 1.0, "model": "a"},
                {"answer": "seven", "rank": 3.0, "model": "b"},
                {"answer": "blue", "rank": 2.0, "model": "c"},
                {"answer": "green", "rank": 2.0, "model": "d"},
            ],
            "turns": 1,
            "num_responses": 4,
        }
    ],
    "rlhf_v": [
        {**ORIGIN, "image": IMAGE, "text": json.dumps({"question": "What?", "chosen": "a cat", "rejected": "a dog"})}
    ],
    "rlaif_v": [{**ORIGIN, "image": IMAGE, "question": "What?", "chosen": "a cat", "rejected": "a dog"}],
    "vlfeedback": [VLFEEDBACK, {**{k: v for k, v in VLFEEDBACK.items() if k != "image"}, "img_path": "one.jpg"}],
    "mmpr": [
        {"image": "one.jpg", "question": "<image>\nWhat?", "chosen": "a cat", "rejected": "a dog"},
        {"image": ["1.jpg", "2.jpg"], "question": "<image> and <image>: same?", "chosen": "no", "rejected": "yes"},
        {"question": "1+1?", "chosen": "2", "rejected": "3", "answer_gt": "2"},
    ],
    "pick_a_pic": [
        {
            "caption": "a red fox",
            "jpg_0": b"\xff\xd8zero",
            "jpg_1": b"\xff\xd8one",
            "label_0": 0.0,
            "label_1": 1.0,
            "are_different": True,
            "has_label": True,
            "best_image_uid": "u1",
            "ranking_id": 5,
            "user_id": 17,
        }
    ],
    "hpd_v2": [
        {"prompt": "a fox", "file_path": ["0.jpg", "1.jpg"], "human_preference": [0, 1]},
        {"prompt": "a fox", "image_path": ["0.jpg", "1.jpg"], "human_preference": [1, 0]},
    ],
    "hpd_v2_ranked": [
        {
            "prompt": "a fox",
            "image_path": [f"{k}.jpg" for k in range(9)],
            "rank": [4, 2, 1, 3, 9, 8, 7, 6, 5],
            "raw_annotations": [{"rank": [1], "user_hash": "a"}],
        }
    ],
    "align_anything": [
        {"question": "1+1?", "response_1": "2", "response_2": "3", "overall_response": 1},
        {"question": "What?", "image": IMAGE, "response_1": "a dog", "response_2": "a cat", "overall_response": 2},
        {"prompt": "<video>What?", "video_path": "a.mp4", "response_1": "x", "response_2": "y", "overall_response": 2},
        {
            "prompt": "Heard?",
            "audio_path": {"array": [0.0, 0.5], "sampling_rate": 8000},
            "response_1": "x",
            "response_2": "y",
            "overall_response": 1,
        },
    ],
    "align_anything_media": [{"prompt": "rain", "response_1": "1.wav", "response_2": "2.wav", "overall_audio": 2}],
    "align_anything_paths": [{"prompt": "a fox", "better_data_path": "b.png", "worse_data_path": "w.png"}],
    "align_anything_ti2ti": [
        {
            "input_text": "Draw <image> again",
            "input_image": IMAGE,
            "better_text": "here",
            "better_img": "b.png",
            "worse_text": "no <image> yes",
            "worse_img": "w.png",
        }
    ],
    "pku_safe_rlhf": [
        {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0}
    ],
    "llama_factory": [
        {
            "conversations": [{"from": "human", "value": "<image>What?"}],
            "chosen": {"from": "gpt", "value": "a cat"},
            "rejected": {"from": "gpt", "value": "a dog"},
            "images": ["one.png"],
        }
    ],
    "llama_factory_kto": [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}], "kto_tag": True}
    ],
    "alpaca_ranking": [{"instruction": "Add.", "input": "1 1", "chosen": "2", "rejected": "3"}],
    "alpaca_kto": [{"instruction": "Add.", "input": "", "output": "2", "kto_tag": False}],
    "nemo_rl": [
        {
            "context": USER,
            "completions": [{"rank": 1, "completion": says("3")}, {"rank": 0, "completion": says("2")}],
            "task_name": "maths",
        }
    ],
}
