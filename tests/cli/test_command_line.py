"""The command line: fast help without torch, precedence, calm errors, clean interruption."""

from __future__ import annotations

import logging
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from omnipref import cli
from omnipref.cli import commands, main
from omnipref.cli.commands import COMMANDS, Command, resolve, select
from omnipref.cli.main import configure
from omnipref.config import Config, TrainConfig
from omnipref.errors import ConfigError, DataError

TRAIN = ["--model-name-or-path", "m", "--dataset", "a.jsonl", "b.jsonl"]


def train_config(*words: str) -> TrainConfig:
    config = configure(select(["train"])[0], words)
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_has_examples_and_imports_no_torch(command: Command):
    code = (
        "import sys\nfrom omnipref.cli import main\n"
        f"try: main({[*command.name.split(), '--help']!r})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'diffusers') if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Examples:" in done.stdout
    assert f"omnipref {command.name}" in done.stdout
    # Twice the bar of one second, and of the processor's time: other jobs may share the machine.
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_the_module_runs_and_lists_every_command():
    done = subprocess.run([sys.executable, "-m", "omnipref", "--help"], capture_output=True, text=True, check=True)
    assert all(f"\n  {command.name} " in done.stdout for command in COMMANDS)
    done = subprocess.run([sys.executable, "-m", "omnipref", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("omnipref 0.")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_its_function(command: Command):
    for target in filter(None, (command.target, command.underlay)):
        assert callable(resolve(target)), target


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_examples_of_the_help_parse(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every example line is read by the parser of its command."""
    (tmp_path / "run.yaml").write_text("model_name_or_path: m\ndataset: a.jsonl\n")
    monkeypatch.chdir(tmp_path)
    lines = [line.strip() for line in (command.config.__doc__ or "").replace("\\\n", " ").splitlines()]
    lines = [line.partition(" > ")[0] for line in lines if f"omnipref {command.name.split()[0]}" in line]
    assert lines
    for line in lines:
        found, rest = select(shlex.split(line.partition("omnipref ")[2]))
        assert found is command
        assert configure(found, rest)


def test_flags_win_over_the_file_which_wins_over_the_method(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("model_name_or_path: m\ndataset: [a.jsonl]\nmethod: re-align\nlora_r: 64\nlora_alpha: 7\n")
    config = train_config("--config", str(path), "--lora-alpha", "9", "--seed=5", "--no-freeze-vision-tower")
    assert (config.lora_r, config.lora_alpha) == (64, 9)
    assert (config.lora_dropout, config.lr_scheduler_type, config.warmup_ratio) == (0.05, "cosine", 0.03)
    assert (config.seed, config.freeze_vision_tower) == (5, False)


def test_required_fields_may_come_from_either_side(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("dataset: a.jsonl\n")
    assert train_config("--model_name_or_path", "m", f"--config={path}").dataset == ["a.jsonl"]


def test_mappings_and_lists():
    config = train_config(
        *TRAIN,
        "--training-arguments",
        "optim=adafactor",
        "adam_beta2=0.98",
        "eps=1e-9",
        "fp=true",
        "--report-to",
        "wandb",
    )
    assert config.dataset == ["a.jsonl", "b.jsonl"]
    assert config.training_arguments == {"optim": "adafactor", "adam_beta2": 0.98, "eps": 1e-9, "fp": True}
    assert config.report_to == ["wandb"]


def failing(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        code = cli.main(words)
    except SystemExit as end:
        code = end.code
    assert code == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return shown.err + shown.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "did you mean `train`"),
        (["data", "inspct"], "did you mean `data inspect`"),
        (["train", *TRAIN, "--lerning-rate", "1"], "--learning-rate"),
        (["train", *TRAIN, "--seed", "many"], "--seed"),
        (["train", "--dataset", "a"], "--model-name-or-path"),
        (["train", *TRAIN, "--bf16", "--fp16"], "exclude each other"),
        (["train", *TRAIN, "--config"], "without a value"),
        (["train", *TRAIN, "--config", "none.yaml"], "no readable file"),
        (["train", *TRAIN, "--method", "re-aling"], "did you mean `re-align`"),
        (["train", *TRAIN, "--method", "re-align", "--method-args", "betta=1"], "did you mean `beta`"),
        (["reproduce", "re-aling"], "did you mean `re-align`"),
        (["data", "inspect"], "empty `files`"),
        (["data", "inspect", "none.jsonl"], "none.jsonl"),
    ],
)
def test_errors_are_calm_and_say_what_to_do(capsys: pytest.CaptureFixture[str], words: list[str], message: str):
    assert message in failing(capsys, *words)


def test_unknown_key_of_a_file_names_line_and_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\nlerning_rate: 1\n")
    shown = failing(capsys, "train", *TRAIN, "--config", str(path))
    assert "line 2" in shown
    assert "did you mean `learning_rate`" in shown


@dataclass(frozen=True, kw_only=True)
class Nothing(Config):
    """Do nothing.

    Examples:
      omnipref nothing
    """

    resume: str = "auto"
    """How."""


def interrupted(config: Nothing) -> None:
    raise KeyboardInterrupt


def refused(config: Nothing) -> None:
    raise DataError("an empty response", "text", record=3, field="chosen")


def warned(config: Nothing) -> None:
    with tqdm(total=1, desc="bar"):
        logging.getLogger("omnipref").warning("a record is odd")


def use(monkeypatch: pytest.MonkeyPatch, target: Any, resumes: bool = True) -> None:
    """Put one command in place of all."""
    command = Command(name="nothing", config=Nothing, target=f"{__name__}:{target.__name__}", resumes=resumes)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[target.__module__])
    for module in (commands, sys.modules["omnipref.cli.main"]):
        monkeypatch.setattr(module, "COMMANDS", (command,))


@pytest.mark.parametrize(
    ("words", "resumes", "expected"),
    [
        (["nothing"], True, "Interrupted. To continue: omnipref nothing"),
        (["nothing", "--resume", "never"], True, "Interrupted. To continue: omnipref nothing"),
        (["nothing"], False, "Interrupted."),
    ],
)
def test_interruption_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: Sequence[str],
    resumes: bool,
    expected: str,
):
    use(monkeypatch, interrupted, resumes)
    assert cli.main(words) == 130
    assert capsys.readouterr().err.strip() == expected


def test_warnings_have_a_line_of_their_own_beside_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    use(monkeypatch, warned)
    assert cli.main(["nothing"]) == 0
    shown = capsys.readouterr().err
    assert "bar:" in shown and "\ra record is odd\n" in shown


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    use(monkeypatch, refused)
    assert cli.main(["nothing"]) == 2
    shown = capsys.readouterr().err
    assert shown == "omnipref: record 3, field `chosen`: found an empty response; expected text\n"
    with pytest.raises(DataError):
        cli.main(["nothing", "--debug"])
    monkeypatch.setenv("OMNIPREF_DEBUG", "1")
    with pytest.raises(DataError):
        cli.main(["nothing"])


def test_a_name_that_is_no_command_is_refused():
    with pytest.raises(ConfigError, match="found no command `eval2`; did you mean `eval`"):
        select(["eval2"])


def test_data_commands_read_and_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "ranked.jsonl"
    source.write_text(
        '{"prompt": "\\n\\nHuman: q\\n\\nAssistant: ", "answers": [{"answer": "best", "rank": 1}, '
        '{"answer": "mid", "rank": 2}, '
        '{"answer": "worst", "rank": 3}]}\n'
    )
    out = tmp_path / "pairs.jsonl"
    assert cli.main(["data", "pairs", str(source), "--pairs", "all", "--output", str(out)]) == 0
    assert "Wrote 3 pairs" in capsys.readouterr().out
    assert cli.main(["data", "convert", str(out), "--to", "trl", "--output", str(tmp_path / "trl.jsonl")]) == 0
    assert len((tmp_path / "trl.jsonl").read_text().splitlines()) == 3
    capsys.readouterr()
    assert cli.main(["data", "inspect", str(out)]) == 0
    assert "preferences" in capsys.readouterr().out


def test_env_names_versions_and_devices(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["env"]) == 0
    shown = capsys.readouterr().out
    assert all(f"- {name}: " in shown for name in ("omnipref", "python", "torch", "transformers", "platform"))


@pytest.mark.parametrize(("form", "start"), [("markdown", "| method |"), ("json", "["), ("table", "method")])
def test_methods_in_every_form(capsys: pytest.CaptureFixture[str], form: str, start: str):
    assert cli.main(["methods", "--form", form]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(start)
    assert "re-align" in shown


def test_errors_of_the_disk_and_of_others_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    assert main(["data", "convert", str(data), "--output", "/proc/x.jsonl"]) == 2
    assert "/proc" in capsys.readouterr().err
    assert main(["data", "convert", str(data), "--output", str(data)]) == 2
    assert "expected none" in capsys.readouterr().err
    assert data.read_text().count("\n") == 1


def test_pairs_are_never_written_over_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    source = tmp_path / "lists.jsonl"
    source.write_text('{"prompt": "a", "responses": ["b", "c"], "scores": [1, 0]}\n')
    before = source.read_text()
    assert "expected none" in failing(capsys, "data", "pairs", str(source), "--output", str(source))
    assert source.read_text() == before
