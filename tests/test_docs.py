"""The pages say what is true: their commands parse, their Python and YAML run, and generated pages are up to date."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import house_rules as rules
import pytest
import yaml

from omnipref.build import builder_of
from omnipref.cli.commands import select
from omnipref.cli.main import configure
from omnipref.config import BuildConfig, Config, TrainConfig, load_config
from omnipref.errors import ConfigError
from omnipref.preferences.fields import Row
from omnipref.preferences.formats import detect, formats

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def parsed(command: str) -> Config | None:
    """The configuration of a command line `omnipref ...`; None for help, `--version` and the like."""
    shell = shlex.split(command)[1:]
    words = list(takewhile(lambda word: word not in {">", "|", "&&"}, shell))
    if not words or words[0].startswith("-"):
        return None
    return configure(*select(words))


def generate() -> ModuleType:
    """The script that writes the generated pages, as a module."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return __import__("generate")
    finally:
        sys.path.pop(0)


@EVERY_PAGE
def test_commands_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("model_name_or_path: m\ndataset: prefs.jsonl\n", encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    launched = [line[line.index("omnipref") :] for line in rules.commands(text, "accelerate")]
    for line in [*rules.commands(text, "omnipref"), *launched]:
        config = parsed(line)
        assert config is None or isinstance(config, Config), line
        for builder in config.builders if isinstance(config, BuildConfig) else ():
            builder_of(builder, {"sampler": object, "features": object, "seed": int})


WRONG = ("omnipref train --lerning-rate 1", "omnipref trian", "omnipref data inspect a --limit b")


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_seen(line: str):
    with pytest.raises((SystemExit, ConfigError)):
        parsed(line)


@EVERY_PAGE
def test_yaml_is_a_configuration(page: Path, tmp_path: Path):
    for block in blocks(page, "yaml"):
        file = tmp_path / "run.yaml"
        file.write_text(block, encoding="utf-8")
        load_config(TrainConfig, file)
        with pytest.raises(ConfigError):
            file.write_text(yaml.safe_dump({**yaml.safe_load(block), "lerning_rate": 1}), encoding="utf-8")
            load_config(TrainConfig, file)


@EVERY_PAGE
def test_json_is_json(page: Path):
    for block in blocks(page, "json"):
        for line in block.splitlines():
            assert isinstance(json.loads(line), dict)


@EVERY_PAGE
def test_python_runs(page: Path):
    namespace: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)


@cache
def output_of(example: Path) -> str:
    """What an example prints; it runs once, whoever asks."""
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example: Path):
    assert output_of(example)


def test_plain_torch_example_learns():
    example = ROOT / "examples" / "dpo_in_plain_torch.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", output_of(example))]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # log 2: the policy starts as its reference
    assert losses[-1] < 0.3
    assert "right order: 100%" in output_of(example)


def test_generated_pages_are_up_to_date():
    for name, page in generate().PAGES.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page(), f"run `make docs` to renew docs/{name}"


def test_every_format_has_an_example_that_reads():
    lines = (ROOT / "docs" / "format-examples.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    assert {example["format"] for example in examples} == set(formats())
    for example in examples:
        for row in example["rows"]:
            assert detect(row).name == example["format"]
            assert all(preference.cases for preference in detect(row).convert(Row.of(row)))
