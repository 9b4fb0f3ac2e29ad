"""The folder is the registry: a method joins by existing, a broken one is named, listing imports nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from omnipref.errors import ConfigError
from omnipref.registry import (
    FOLDER,
    check,
    discover,
    find,
    load_claim,
    load_method,
    methods_table_markdown,
    read_card,
)

GOOD = '''"""A Method: Its Title Over
Two Lines

arXiv: 1234.56789
Modality: text
In short: one line
    that goes on.

Paper: what it does.
Here: what we do | differently.

More words. Why: not a field, since it does not begin the line.
"""
from omnipref.method import Method
from omnipref.objectives import dpo

claim = None

def my_method(*, beta: float = 0.5) -> Method:
    """It."""
    return Method(objective=dpo(beta=beta), defaults={"learning_rate": 1e-6})
'''


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_method_joins_by_existing(tmp_path: Path):
    write(tmp_path, "my_method.py", GOOD)
    write(tmp_path, "_helper.py", "")
    (card,) = discover(tmp_path)
    assert (card.slug, card.arxiv, card.modality, card.error) == ("my-method", "1234.56789", "text", "")
    assert card.title == "A Method: Its Title Over Two Lines"
    assert card.summary == "one line that goes on."
    assert card.sections == {"Paper": "what it does.", "Here": "what we do | differently."}
    assert card.has_claim
    method = load_method("my_method", {"beta": 0.25}, discover(tmp_path))
    assert str(method.objective) == "dpo(beta=0.25)"
    assert method.needs.roles == {"chosen", "rejected"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def my_method(:\n", "SyntaxError"),
        ("", "`arXiv:`"),
        (GOOD.replace("Modality: text\n", ""), "`Modality:`"),
        (GOOD.replace("def my_method", "def other"), "a function `my_method`"),
    ],
)
def test_a_broken_file_is_listed_with_its_error(tmp_path: Path, text: str, message: str):
    write(tmp_path, "my_method.py", text)
    (card,) = discover(tmp_path)
    assert message in card.error
    assert "**broken**" in methods_table_markdown([card])
    with pytest.raises(ConfigError, match="cannot be used"):
        find("my-method", [card])


def test_a_file_that_fails_on_import_is_named(tmp_path: Path):
    path = write(tmp_path, "my_method.py", GOOD.replace("import dpo", "import no_such_objective"))
    card = read_card(path)
    assert card.error == "", "nothing is imported to list"
    assert "no_such_objective" in check(card)
    assert "omnipref.methods.my_method" not in sys.modules


def test_slugs_that_are_no_identifiers(tmp_path: Path):
    write(tmp_path, "3d_method.py", GOOD.replace("def my_method", "def method_3d_method"))
    (card,) = discover(tmp_path)
    assert card.error == ""
    assert load_method("3d-method", cards=[card]).defaults == {"learning_rate": 1e-6}


def test_names_suggest_near_misses(tmp_path: Path):
    write(tmp_path, "my_method.py", GOOD)
    cards = discover(tmp_path)
    with pytest.raises(ConfigError, match="did you mean `my-method`"):
        find("my-metod", cards)
    with pytest.raises(ConfigError, match="did you mean `beta`"):
        load_method("my-method", {"betta": 1}, cards)
    write(tmp_path, "my_method.py", GOOD.replace("claim = None\n", ""))
    with pytest.raises(ConfigError, match="makes no claim"):
        load_claim("my-method", discover(tmp_path))


@pytest.mark.parametrize(
    ("slug", "arguments", "message"),
    [
        ("vpo", {"beta": "abc"}, "`method_args` of `vpo`: found `beta` = 'abc'; expected a number"),
        ("vpo", {"online": "abc"}, "expected true or false"),
        ("vpo", {"calibration": [{}]}, "found `calibration[0]` = {}; expected text"),
        ("curry-dpo", {"stages": 2.5}, "found `stages` = 2.5; expected a whole number"),
        ("survey-dpo", {"objective": {}}, "expected text"),
    ],
)
def test_hyper_parameters_of_another_type_are_refused(slug: str, arguments: dict[str, object], message: str):
    with pytest.raises(ConfigError) as caught:
        load_method(slug, arguments)
    assert message in str(caught.value)


def test_the_shipped_methods_are_sound():
    cards = discover()
    assert {"re-align"} <= {card.slug for card in cards}
    assert [(card.slug, card.error) for card in cards if card.error] == []
    assert all(card.path.parent == FOLDER for card in cards)
    rows = methods_table_markdown(cards).splitlines()
    assert len(rows) == 2 + len(cards)
    assert all(row.count("|") - row.count("\\|") == 6 for row in rows)


def test_listing_imports_no_torch():
    code = (
        "import sys\nfrom omnipref.cli import main\nassert main(['methods']) == 0\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "re-align" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
