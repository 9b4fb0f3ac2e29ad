"""The doctor on real runs: healthy ones, and ones made sick on purpose in one way each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import factories
import numpy as np
import pytest

from omnipref.cli.main import main
from omnipref.errors import ConfigError, DataError
from omnipref.evaluation.doctor import DIAGNOSES, Run, Series, Verdict, examine, learning, likelihoods, read_run
from omnipref.evaluation.doctor import data as of_data
from omnipref.evaluation.doctor.rewards import against_reference
from omnipref.objectives import parse_objective

THINGS = ["cup", "fork", "spoon", "cube", "ball", "tree", "table"]
FLAGS = ["--per-device-train-batch-size", "8", "--logging-steps", "1", "--max-steps", "16"]
FLAGS += ["--lr-scheduler-type", "constant", "--training-arguments", "use_cpu=true"]


def rows(chosen: Callable[[int], str], rejected: Callable[[int], str], count: int = 64) -> list[dict]:
    return [{"prompt": f"Is there {i}? ", "chosen": chosen(i), "rejected": rejected(i)} for i in range(count)]


def thing(i: int) -> str:
    return THINGS[i % len(THINGS)]


PLAIN = rows(lambda i: f"a red {thing(i)}", lambda i: f"a two {thing(i)}")
NEAR = rows(lambda i: f"a {thing(i)} and a fork", lambda i: f"a {thing(i)} and a spoon")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return factories.save(*factories.llama(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> Callable[..., Run]:
    """Train on rows with flags; the same call trains once."""
    folder = tmp_path_factory.mktemp("runs")
    done: dict[str, Path] = {}

    def run(records: list[dict] = PLAIN, *flags: str, start: Path = base) -> Run:
        key = json.dumps([records, flags, str(start)])
        if key not in done:
            done[key] = folder / str(len(done))
            data = folder / f"{len(done)}.jsonl"
            data.write_text("".join(json.dumps(row) + "\n" for row in records))
            words = ["--model-name-or-path", str(start), "--dataset", str(data), "--output-dir", str(done[key])]
            assert main(["train", *words, "--learning-rate", "3e-4", *FLAGS, *flags]) == 0
        return read_run(done[key], look_at_data=True)

    return run


@pytest.fixture(scope="module")
def fluent(trained) -> Callable[[list[dict], str], Path]:
    """A model that was fine-tuned on rows first."""

    def start(records: list[dict], objective: str) -> Path:
        flags = ["--objective", objective, "--learning-rate", "1e-2", "--max-steps", "40"]
        return Path(trained(records, *flags).config["output_dir"])

    return start


def states(run: Run) -> dict[str, str]:
    return {verdict.name: verdict.state for verdict in examine(run)}


def test_a_healthy_run_has_nothing_ill(trained):
    found = states(trained())
    assert [name for name, state in found.items() if state == "ill"] == []
    assert {name for name, state in found.items() if state == "unknown"} == {"over-optimisation", "off-policy data"}


def test_a_learning_rate_of_zero_teaches_nothing(trained):
    run = trained(PLAIN, "--learning-rate", "0")
    verdict = learning.learning(run)
    assert verdict.ill and "learning rate is 0" in verdict.evidence
    assert states(run)["wrong reference"] == "fine"


def test_a_learning_rate_that_is_far_too_low_hardly_moves(trained):
    verdict = learning.learning(trained(PLAIN, "--learning-rate", "1e-9"))
    assert verdict.ill and "Raise the learning rate" in verdict.remedy


def test_a_reference_that_moves_with_the_policy_is_told_from_a_learning_rate(base, tmp_path):
    verdict = learning.learning(moving_reference(base, tmp_path))
    assert verdict.ill and "the reference moves with the policy" in verdict.evidence
    assert "frozen copy" in verdict.remedy


def moving_reference(base: Path, folder: Path) -> Run:
    """A run whose reference is not a copy but the very model that is trained."""
    from transformers import TrainingArguments

    from omnipref.objectives import dpo
    from omnipref.policies.reference import FrozenCopy
    from omnipref.preferences import pair
    from omnipref.training import PreferenceTrainer, prepare
    from omnipref.training.models import load

    loaded = load(str(base))
    records = [pair(row["prompt"], row["chosen"], row["rejected"], record=i) for i, row in enumerate(PLAIN)]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=6, logging_steps=1, logging_first_step=True, save_strategy="no",
        learning_rate=1e-3, use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = PreferenceTrainer(
        model=loaded.model,
        args=arguments,
        policy=loaded.policy,
        objective=dpo(),
        reference=FrozenCopy(loaded.model),
        train_dataset=prepare(loaded.policy, records, dpo().needs, folder / "aside.jsonl", progress=False),
    )
    trainer.train()
    trainer.save_state()
    return read_run(folder)


def test_a_reference_that_is_another_model_shows_in_the_first_step(trained, tmp_path):
    other = factories.save(*factories.llama(seed=1), tmp_path / "other")
    run = trained(PLAIN, "--ref-model", str(other))
    verdict = learning.reference(run)
    assert verdict.ill and f"ref_model = {other}" in verdict.remedy
    assert not learning.learning(run).ill


def test_an_adapter_against_the_wrong_model_shows_in_the_first_step(trained, base, tmp_path):
    """The adapter is continued, and the reference is the model without it instead of its frozen copy."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in PLAIN))
    words = ["--model-name-or-path", str(base), "--dataset", str(data), "--learning-rate", "1e-2", *FLAGS]
    assert main(["train", *words, "--lora-r", "4", "--output-dir", str(tmp_path / "adapter")]) == 0
    again = ["--adapter", str(tmp_path / "adapter")]
    assert learning.reference(trained(PLAIN, *again)).state == "fine"
    verdict = learning.reference(trained(PLAIN, *again, "--ref-model", str(base)))
    assert verdict.ill and "adapter_config.json" in verdict.remedy


def test_the_first_step_must_be_in_the_log(trained):
    run = trained()
    later = replace(run, log=[line for line in run.log if line["step"] > 1])
    assert learning.reference(later).state == "unknown"


def test_an_absurd_learning_rate_is_seen_in_three_ways(trained, fluent):
    run = trained(NEAR, "--learning-rate", "1e-1", start=fluent(NEAR, "sft() + sft(role='rejected')"))
    assert {name for name, state in states(run).items() if state == "ill"} == {
        "likelihood displacement",
        "dispersion",
        "reward saturation",
    }
    assert "for every 1 that the margin gained" in likelihoods.displacement(run).evidence
    assert "Both fell" in likelihoods.dispersion(run).evidence
    assert re.search(r"below 5 % since step \d+", learning.saturation(run).evidence)


def test_displacement_and_its_remedy(trained, fluent):
    """From a model that already writes the chosen responses; an anchor, as the remedy says, ends it."""
    start = fluent(PLAIN, "sft()")
    sick = likelihoods.displacement(trained(PLAIN, "--learning-rate", "1e-2", start=start))
    assert sick.ill and "chosen 0.000 to -" in sick.evidence, "rewards start at exactly 0"
    (objective,) = re.findall(r"an anchor \(`(.*?)`\)", sick.remedy)
    mended = trained(PLAIN, "--learning-rate", "1e-2", "--objective", objective, start=start)
    assert likelihoods.displacement(mended).state == "fine"


def test_a_reference_free_objective_is_read_from_log_probabilities(trained):
    run = trained(PLAIN, "--objective", "simpo()", "--learning-rate", "1e-2")
    assert against_reference(run) is False
    assert learning.reference(run).state == "fine"
    assert "Mean log-probability" in likelihoods.displacement(run).evidence


def test_a_reward_that_follows_length(trained):
    longer = rows(lambda i: " and ".join(["a cup"] * (1 + i * 5 % 7)), lambda i: "a fork")
    verdict = likelihoods.length_drift(trained(longer, "--learning-rate", "3e-3"))
    assert verdict.ill and "length_dpo" in verdict.remedy
    assert likelihoods.length_drift(trained()).state == "fine"


def test_batches_whose_responses_grow(trained):
    growing = rows(lambda i: "a cup " * (1 + i // 8), lambda i: "a fork " * (1 + i // 8), count=128)
    order = ["--training-arguments", "use_cpu=true", "train_sampling_strategy=sequential"]
    verdict = likelihoods.length_drift(trained(growing, *order))
    assert verdict.ill and "lengths/chosen" in verdict.evidence and "Shuffle" in verdict.remedy


def test_a_true_reward_that_peaks_and_falls():
    """DPO in the bandit of partial coverage, whose truth is known, and the same with an anchor."""
    from omnipref.comparing import trace
    from omnipref.objectives import parse_objective
    from omnipref.worlds.bandits.compared import coverage

    def verdict(objective: str) -> Verdict:
        path = trace(coverage(0), parse_objective(objective), 0, 400, 0.03)
        values = zip(path.steps, path.values["reward"], strict=True)
        return learning.over_optimisation(Run("bandit", {}, [{"step": s, "true_reward": v} for s, v in values]))

    assert verdict("dpo(beta=0.1)").ill and "Stop near step" in verdict("dpo(beta=0.1)").remedy
    assert verdict("sppo(beta=0.1)").state == "fine"


def test_off_policy_data_are_told_by_the_commands_of_the_remedy(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trained()
    unknown = of_data.off_policy(run)
    assert unknown.state == "unknown" and "nats per unit" in unknown.evidence
    build, score, again = re.findall(r"`(omnipref .*?)`", unknown.remedy)
    import shlex

    for command in (build, score):
        assert main(shlex.split(command)[1:]) == 0
    folder = Path(run.config["output_dir"])
    words = shlex.split(again.replace("RUN", str(folder)))[1:]
    verdict = of_data.off_policy(read_run(folder, "own-scores.jsonl"))
    assert verdict.ill and main(words) == 1
    own = [json.loads(line) for line in Path("own.jsonl").read_text().splitlines()]
    assert own


def test_entropies_tell_without_samples(trained):
    run = trained(PLAIN, "--objective", "mallows_dpo()")
    assert of_data.off_policy(run).ill and "its own entropy" in of_data.off_policy(run).evidence


def test_sources_that_style_tells_apart(trained):
    assert of_data.separable(trained()).state == "fine"
    shouted = rows(lambda i: f"A {thing(i).upper()}!", lambda i: f"a {thing(i)}")
    verdict = of_data.separable(trained(shouted))
    assert verdict.ill and "100%" in verdict.evidence


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--learning-rate", "0"], 1)], ids=["healthy", "ill"])
def test_the_command_says_it_in_words_json_and_exit_code(trained, flags, code, capsys):
    folder = trained(PLAIN, *flags).config["output_dir"]
    capsys.readouterr()
    assert main(["doctor", folder]) == code
    text = capsys.readouterr().out
    assert re.match(rf"\S+: {code} ill, 2 unknown, {7 - code} fine", text)
    assert main(["doctor", folder, "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["ill"] is bool(code) and len(found["verdicts"]) == len(DIAGNOSES)
    assert all(verdict["name"] in text for verdict in found["verdicts"])
    assert main(["report", folder, "--output", str(Path(folder) / "page.html")]) == 0
    page = (Path(folder) / "page.html").read_text()
    assert "Is the training healthy?" in page and all(verdict["name"] in page for verdict in found["verdicts"])


def test_a_log_says_little_is_unknown_and_not_ill():
    assert set(states(Run("empty", {}, [])).values()) == {"unknown"}
    short = [{"step": 1, "loss": 0.7, "rewards/chosen": 0.0, "rewards/rejected": 0.0, "rewards/margins": 0.0}]
    assert "ill" not in states(Run("short", {"objective": "dpo()"}, short)).values()


def test_a_method_is_known_by_the_terms_in_its_log():
    assert against_reference(Run("m", {"method": "x"}, [{"step": 1, "dpo/loss": 0.7, "sft/loss": 1.0}])) is True
    assert against_reference(Run("m", {"method": "x"}, [{"step": 1, "simpo/loss": 0.7}])) is False
    assert against_reference(Run("m", {"method": "x"}, [{"step": 1, "own/loss": 0.7}])) is None


def test_changes_are_judged_by_their_scatter():
    rng = np.random.default_rng(0)
    steps = tuple(map(float, range(40)))
    flat = Series(steps, tuple(rng.normal(0, 1, 40))).change()
    rising = Series(steps, tuple(rng.normal(0, 1, 40) + np.linspace(0, 10, 40))).change()
    assert not flat.falls and not flat.rises
    assert rising.rises and not rising.falls
    assert replace(rising, start=rising.end, end=rising.start).falls


def test_remedies_name_objectives_that_exist(trained):
    """Every objective that a remedy of these runs names can be parsed."""
    text = " ".join(f"{Path(module.__file__).read_text()}" for module in (learning, likelihoods, of_data))
    named = [text for text in re.findall(r"`([a-z_]+\([^`\"]*\)[^`\"]*)`", text) if not text.startswith("best_vs")]
    assert len(named) >= 8
    for objective in named:
        assert parse_objective(objective)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "nothing to examine"),
        ("{", "JSON"),
        ('{"log_history": 3}', "no list"),
        ('{"log_history": [{"loss": 1}]}', "without `step`"),
        ('{"log_history": []}', "nothing to examine"),
    ],
)
def test_a_folder_that_cannot_be_examined_is_named(content, message, tmp_path):
    if content is not None:
        (tmp_path / "trainer_state.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path)
    with pytest.raises(ConfigError, match="found no folder"):
        read_run(tmp_path / "none")


def test_broken_scores_and_states_are_refused(trained, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"record": 0}\n')
    with pytest.raises(DataError, match="omnipref score"):
        read_run(Path(trained().config["output_dir"]), tmp_path / "own.jsonl")
    with pytest.raises(DataError, match="one of ill"):
        Verdict("x", "well", "")


def test_an_objective_without_rewards_is_examined_as_far_as_it_goes(trained):
    run = trained(PLAIN, "--objective", "sft()")
    found = states(run)
    assert "ill" not in found.values()
    assert found["reward saturation"] == found["length drift"] == found["nothing is learned"] == "fine"
    assert re.search(r"gives the data \d\.\d\d nats per unit", of_data.off_policy(run).evidence)
