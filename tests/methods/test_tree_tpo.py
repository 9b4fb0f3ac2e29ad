"""The file of Tree-TPO: with and without step weights (card tree-tpo, arXiv 2410.12854)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import factories
import pytest
import torch
from objectives.examples import lists, scored

from omnipref.cli import main
from omnipref.errors import ConfigError
from omnipref.objectives import lipo, parse_objective, step_weights
from omnipref.preferences import Case, Comparison, Message, Preference, write_jsonl
from omnipref.registry import load_claim, load_method
from omnipref.scores import Scores


def weighted(factor: float) -> Scores:
    """Lists whose steps all have this weight: each is as like the best one's as it can be, or not at all."""
    scores = scored(lists(4, 2, 3), seed=5)
    hidden = torch.ones(*scores.mask.shape, 1, dtype=torch.float64) * (factor - 1)
    return replace(scores, segment=torch.zeros_like(scores.mask, dtype=torch.long), extras={"hidden": hidden})


def test_weights_of_one_change_nothing_and_of_two_are_twice_beta():
    plain, steps = (load_method("tree-tpo", {"step_weights": flag}) for flag in (False, True))
    assert not plain.needs.extras and steps.needs.extras == {"hidden"}
    torch.testing.assert_close(steps.objective(weighted(1.0)).loss_P, plain.objective(weighted(1.0)).loss_P)
    twice = load_method("tree-tpo", {"beta": 1.0, "step_weights": False}).objective(weighted(2.0)).loss_P
    torch.testing.assert_close(steps.objective(weighted(2.0)).loss_P, twice)


def test_the_claim_trains_with_this_objective_on_weights_of_its_own_embeddings():
    arms = load_claim("tree-tpo").options["arms"]
    claimed, own = parse_objective(arms["tree"]["objective"]), load_method("tree-tpo").objective
    scores = scored(lists(4, 2, 3), seed=5)
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(*scores.mask.shape, 3, generator=draw, dtype=torch.float64)
    scores = replace(scores, segment=(torch.arange(5) // 2).expand_as(scores.mask))
    extras = {"hidden": hidden, "step_weight": step_weights(hidden, scores)}
    both = [objective(replace(scores, extras=extras)).loss_P for objective in (claimed, own, lipo(beta=0.5))]
    torch.testing.assert_close(both[0], both[1])
    assert not torch.allclose(both[0], both[2])
    assert str(parse_objective(arms["plain_list"]["objective"])) == str(lipo(beta=0.5))


def test_there_must_be_something_to_centre():
    assert load_method("tree-tpo", {"centred": True}).needs.extras == {"hidden"}
    with pytest.raises(ConfigError, match="centred=True"):
        load_method("tree-tpo", {"centred": True, "step_weights": False})


def trees(count: int) -> list[Preference]:
    """Graded paths of three steps, which leave the first one at its second or third step."""
    paths = (("add ", "them ", "two"), ("add ", "them ", "a fork"), ("add ", "a tree ", "no"))
    columns = {f"score/response_{k}": score for k, score in enumerate((1.0, 0.6, 0.2))}
    better = tuple(Comparison(f"response_{k}", f"response_{k + 1}") for k in range(2))

    def cases(question: str) -> dict[str, Case]:
        context = (Message.of("raw", question),)
        return {f"response_{k}": Case(context, (Message.of("raw", *steps),)) for k, steps in enumerate(paths)}

    return [Preference(cases(f"What is {i}? "), better, columns=columns, record=i) for i in range(count)]


def test_it_trains_from_the_command_line_on_states_of_the_model(tmp_path: Path):
    model = factories.save(*factories.llama(), tmp_path / "llama")
    write_jsonl(trees(4), tmp_path / "trees.jsonl")
    words = ["train", "--method", "tree-tpo", "--model-name-or-path", str(model), "--learning-rate", "1e-3"]
    words += ["--dataset", str(tmp_path / "trees.jsonl"), "--per-device-train-batch-size", "2", "--logging-steps", "1"]
    words += ["--max-steps", "2", "--lora-r", "0", "--training-arguments", "use_cpu=true"]
    losses = {}
    for name, arguments in {"on": [], "centred": ["centred=true"], "off": ["step_weights=false"]}.items():
        output = tmp_path / name
        given = ["--method-args", *arguments] if arguments else []
        assert main([*words, *given, "--output-dir", str(output)]) == 0
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        losses[name] = [line["loss"] for line in history if "loss" in line]
    assert losses["on"][0] == losses["off"][0] == losses["centred"][0]  # there is no log-ratio to be weighed yet
    assert len({values[1] for values in losses.values()}) == 3


def test_parts_of_a_coupled_batch_have_the_weights_of_the_whole(tmp_path: Path):
    model = factories.save(*factories.llama(), tmp_path / "llama")
    names = {"response_0": "chosen", "response_1": "rejected", "response_2": "completion"}
    renamed = [
        replace(
            each,
            cases={names[role]: case for role, case in each.cases.items()},
            comparisons=tuple(replace(c, better=names[c.better], worse=names[c.worse]) for c in each.comparisons),
            columns={f"score/{names[name.partition('/')[2]]}": value for name, value in each.columns.items()},
        )
        for each in trees(4)
    ]
    write_jsonl(renamed, tmp_path / "trees.jsonl")
    words = [
        "train",
        "--model-name-or-path",
        str(model),
        "--dataset",
        str(tmp_path / "trees.jsonl"),
        "--max-steps",
        "3",
    ]
    words += ["--objective", "lipo(beta=0.5, embedding='hidden', centred=True) + bco()", "--learning-rate", "1e-3"]
    words += ["--per-device-train-batch-size", "4", "--logging-steps", "1", "--training-arguments", "use_cpu=true"]
    found = []
    for limit in ([], ["--max-batch-tokens", "60"]):
        output = tmp_path / f"out{len(limit)}"
        assert main([*words, *limit, "--output-dir", str(output)]) == 0
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        found.append([line["loss"] for line in history if "loss" in line])
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    assert found[0][2] < found[0][0]
