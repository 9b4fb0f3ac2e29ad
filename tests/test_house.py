"""The rules of the house, checked on every file; each rule is also shown to fail on a snippet that breaks it."""

from __future__ import annotations

import ast
import importlib.util
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import house_rules as rules
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "omnipref"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
PAGES = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))]
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def tracked() -> list[Path]:
    """Files that git tracks or would track; without git, the files of the source tree."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).is_file()]
    return [path for folder in ("src", "tests", "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]


def names_of_things() -> set[str]:
    """Methods, objectives and model types, which code must not be branching on."""
    methods = {path.stem for path in (PACKAGE / "methods").glob("*.py")} - {"__init__"}
    objectives = {
        alias.name
        for path in FILES
        if path == PACKAGE / "objectives" / "__init__.py"
        for node in TREES[path].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "models"
    models = {path.name for path in folder.iterdir() if path.is_dir()} - {"auto", "__pycache__"}
    return methods | {name.replace("_", "-") for name in methods} | objectives | models


def room(path: Path) -> str:
    """The room a file lies in: `policies`, `cli`, `errors` ...; the package's own files count as `omnipref`."""
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


@EVERY_FILE
def test_imports_go_one_way(path: Path):
    assert rules.wrong_imports(room(path), TREES[path], sys.stdlib_module_names | {"__future__"}) == []


@EVERY_FILE
def test_public_things_are_documented(path: Path):
    assert rules.undocumented(TREES[path]) == []


@EVERY_FILE
def test_every_parameter_is_read(path: Path):
    assert rules.unread_parameters(TREES[path]) == []


@EVERY_FILE
def test_files_and_functions_are_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    assert {name: n for name, n in rules.function_lengths(TREES[path]).items() if n > 60} == {}


@EVERY_FILE
def test_no_branch_on_names(path: Path):
    assert rules.name_comparisons(TREES[path], names_of_things()) == []
    assert rules.long_chains(TREES[path]) == []


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_init_only_re_exports(path: Path):
    assert rules.code_in_init(TREES[path]) == []


def test_every_folder_is_a_package():
    assert {path.parent for path in FILES if not (path.parent / "__init__.py").exists()} == set()


def test_size_of_the_whole():
    """STYLE's bars; medians are watched too, so that many long files cannot hide behind none being the longest."""
    files = [len(path.read_text(encoding="utf-8").splitlines()) for path in FILES]
    functions = [length for tree in TREES.values() for length in rules.function_lengths(tree).values()]
    assert statistics.median(files) <= 150
    assert statistics.median(functions) <= 10
    assert statistics.quantiles(functions, n=100, method="inclusive")[94] <= 40
    over = sum(length > 40 for length in functions)
    print(f"{len(files)} files, {len(functions)} functions, {over} over 40 lines, longest {max(functions)}")


def test_nothing_is_copied():
    assert rules.copied_share({path: path.read_text(encoding="utf-8") for path in FILES}) <= 0.01


def test_concrete_classes_are_not_subclassed():
    bases = {name: own for tree in TREES.values() for name, own in rules.class_bases(tree).items()}
    assert rules.overridden_concrete(bases) == []
    trainers = [name for name, own in bases.items() if any(base.endswith("Trainer") for base in own)]
    assert len(trainers) <= 1, "one trainer; what changes over time is a schedule"


@pytest.mark.parametrize("module", ["omnipref", "omnipref.errors", "omnipref.preferences", "omnipref.cli"])
def test_light_imports(module: str):
    """Help and data tools start at once: no heavy package is imported with them."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} does not exist yet")
    heavy = ["torch", "transformers", "diffusers", "datasets", "peft", "accelerate", "matplotlib", "pandas"]
    script = f"import sys, {module}; print(*sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_text_of_the_repository():
    """No machine paths or package hosts, no unfinished marks, no banners, no suppression without its rule."""
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cff", ".svg"}
    texts = [path for path in tracked() if path.suffix in kinds or path.name in {"Makefile", "run", ".gitignore"}]
    found = {str(path.relative_to(ROOT)): rules.text_problems(path.read_text(encoding="utf-8")) for path in texts}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_versions_agree():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.+?)"', source)
    assert version is not None
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert str(citation["version"]) == version[1]
    assert project["tool"]["hatch"]["version"]["path"] == "src/omnipref/__init__.py"
    assert next(heading for heading in headings if heading != "Unreleased") == version[1]
    assert citation["license"] == project["project"]["license"]


@EVERY_PAGE
def test_links_lead_to_files(page: Path):
    links = rules.relative_links(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@EVERY_PAGE
def test_make_commands_of_the_pages_exist(page: Path):
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    used = {command.split()[1] for command in rules.commands(page.read_text(encoding="utf-8"), "make")}
    assert used - targets == set()


def broken(source: str) -> ast.Module:
    """Parse a snippet that breaks a rule."""
    return ast.parse(source)


def test_each_rule_can_fail():
    stdlib = sys.stdlib_module_names
    assert rules.wrong_imports("objectives", broken("from omnipref.policies import Policy"), stdlib)
    assert rules.wrong_imports("objectives", broken("def f():\n    import transformers"), stdlib)
    assert rules.wrong_imports("training", broken("import omnipref.methods.re_align"), stdlib)
    assert rules.wrong_imports("evaluation", broken("from .metrics import chair"), stdlib)
    assert not rules.wrong_imports(
        "objectives", broken("import math, torch\nfrom omnipref.scores import Scores"), stdlib
    )

    assert rules.undocumented(broken("class A:\n    def f(self): pass")) == ["the module", "A", "A.f"]
    assert rules.undocumented(broken('"""M."""\ndef _f(): pass')) == []

    knob = "def f(beta, unused):\n    'Doc.'\n    return beta"
    assert rules.unread_parameters(broken(knob)) == ["f(unused)"]
    assert rules.unread_parameters(broken("class A:\n    def f(self, seed):\n        del seed\n        return 1")) == []

    assert rules.function_lengths(broken("def f():\n    '''D\n    D.'''\n    a = 1\n    return a")) == {"f:1": 3}

    names = {"dpo", "llama"}
    assert rules.name_comparisons(broken("if loss == 'dpo': pass"), names)
    assert rules.name_comparisons(broken("x = config.model_type in ('llama', 'opt')"), names)
    assert rules.name_comparisons(broken("match loss:\n    case 'dpo': pass"), names)
    assert rules.name_comparisons(broken("x = name.startswith('llama')"), names)
    assert not rules.name_comparisons(broken("x = {'dpo': 1}['dpo']"), names)
    chain = "if k == 'a': pass\n" + "".join(f"elif k == '{c}': pass\n" for c in "bcd")
    assert rules.long_chains(broken(chain)) == ["line 1: 4 branches"]
    assert rules.long_chains(broken("match k:\n" + "".join(f"    case '{c}': pass\n" for c in "abcd")))
    assert not rules.long_chains(broken("if k == 'a': pass\nelif k == 'b': pass"))

    assert rules.code_in_init(broken("from a import b\nx = 1"))
    assert not rules.code_in_init(broken('"""D."""\nfrom a import b\n__all__ = ["b"]'))
    assert rules.overridden_concrete({"A": [], "B": ["A"]}) == ["B(A)"]
    assert rules.overridden_concrete({"P": ["Protocol"], "B": ["P"], "DataError": [], "C": ["DataError"]}) == []


def test_each_rule_on_text_can_fail():
    bad = [
        "/ro" + "ot/x",
        "/wo" + "rk/main",
        "pypi" + ".org",
        "# TO" + "DO later",
        "# " + "=" * 20,
        "x = 1  # no" + "qa",
    ]
    assert len(rules.text_problems("\n".join(bad))) == len(bad)
    good = (
        "x = 1  # no" + "qa: E731, short\ny = f()  # pyright: ignore[reportCallIssue]: stubs lag\nsrc/work/a\n# 1 - 2"
    )
    assert rules.text_problems(good) == []

    body = "\n".join(f"a{i} = {i}" for i in range(9))
    assert rules.copied_share({Path("a"): body, Path("b"): body}) == 1.0
    assert rules.copied_share({Path("a"): body, Path("b"): "z = 1"}) == 0.0

    page = '[a](docs/a.md#top) [b](https://b.c) <img src="c.svg">\n```sh\nmake demo  # go\nomnipref t \\\n  --x 1\n```'
    assert rules.relative_links(page) == ["docs/a.md", "c.svg"]
    assert rules.commands(page, "make") == ["make demo"]
    assert rules.commands(page, "omnipref") == ["omnipref t    --x 1"]
