"""The folder `methods/` is the registry: a method joins by existing.

Cards are read from the files' docstrings with `ast`, so listing methods imports neither torch nor the methods.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from omnipref.config.coerce import arguments_for
from omnipref.errors import ConfigError, nearest
from omnipref.method import Claim, Method

FOLDER = Path(__file__).parent / "methods"
HEADER = ("arXiv", "Modality", "In short")
SECTIONS = ("Paper", "Released code", "Here", "Why")
_FIELD = re.compile(rf"^({'|'.join((*HEADER, *SECTIONS))}): *", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a method's file says about itself.

    Args:
        slug: name of the method; the file's name with dashes.
        path: the file.
        title: first paragraph of its docstring.
        arxiv: number of the paper, or `none`.
        modality: what it was published for, such as `text` or `image-text`.
        summary: one line.
        sections: the text under *Paper*, *Released code*, *Here* and *Why*.
        has_claim: whether `omnipref reproduce` can check it.
        error: why the file cannot be used; empty if it can.
    """

    slug: str
    path: Path
    title: str = ""
    arxiv: str = ""
    modality: str = ""
    summary: str = ""
    sections: Mapping[str, str] = field(default_factory=dict)
    has_claim: bool = False
    error: str = ""

    @property
    def function(self) -> str:
        """Name of the function that makes the method; `method_...` where the slug begins with a digit."""
        return self.path.stem if self.path.stem.isidentifier() else f"method_{self.path.stem}"


def discover(folder: Path | None = None) -> list[Card]:
    """The cards of all methods, by slug; a broken file is listed with its error."""
    paths = sorted((folder or FOLDER).glob("*.py"))
    return [read_card(path) for path in paths if not path.stem.startswith("_")]


def read_card(path: Path) -> Card:
    """The card of one file, read without importing it."""
    card = Card(slug=path.stem.replace("_", "-"), path=path)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=path.name)
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        return _broken(card, f"{type(error).__name__}: {error}")
    title, fields = _fields(ast.get_docstring(tree) or "")
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    missing = [f"`{name}:` in the docstring" for name in HEADER if not fields.get(name)]
    missing += [] if card.function in names else [f"a function `{card.function}`"]
    return Card(
        slug=card.slug,
        path=path,
        title=title,
        arxiv=fields.get("arXiv", ""),
        modality=fields.get("Modality", ""),
        summary=fields.get("In short", ""),
        sections={name: fields[name] for name in SECTIONS if name in fields},
        has_claim=_assigns(tree, "claim"),
        error=f"the file lacks {', '.join(missing)}" if missing else "",
    )


def _broken(card: Card, error: str) -> Card:
    return Card(slug=card.slug, path=card.path, error=error)


def _fields(docstring: str) -> tuple[str, dict[str, str]]:
    """Title and `Key: text` fields; a field ends at the next key or empty line."""
    title, _, rest = docstring.partition("\n\n")
    pieces = _FIELD.split(rest)
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return _flat(title), {key: _flat(text.partition("\n\n")[0]) for key, text in pairs}


def _flat(text: str) -> str:
    return " ".join(text.split())


def _assigns(tree: ast.Module, name: str) -> bool:
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def find(slug: str, cards: Iterable[Card] | None = None) -> Card:
    """The card of a method.

    Raises:
        ConfigError: there is no such method (with the nearest one), or its file is broken.
    """
    known = {card.slug: card for card in (discover() if cards is None else cards)}
    name = slug.replace("_", "-")
    if name not in known:
        raise ConfigError(f"found no method `{slug}`; {nearest(name, known)}")
    if known[name].error:
        raise ConfigError(f"the method `{slug}` cannot be used: {known[name].error} ({known[name].path.name})")
    return known[name]


def load_module(card: Card) -> ModuleType:
    """The method's module, imported once.

    Raises:
        ConfigError: importing it fails; names the cause.
    """
    name = f"omnipref.methods.{card.path.stem}"
    present = sys.modules.get(name)
    if present is not None and present.__file__ == str(card.path):
        return present
    spec = importlib.util.spec_from_file_location(name, card.path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"the method `{card.slug}` cannot be imported from {card.path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"importing the method `{card.slug}` failed: {type(error).__name__}: {error}") from error
    return module


def load_method(slug: str, arguments: Mapping[str, Any] | None = None, cards: Iterable[Card] | None = None) -> Method:
    """A method with hyper-parameters of one's own, the paper's otherwise.

    Raises:
        ConfigError: no such method, a broken file, or an unknown hyper-parameter (with the nearest one), or one of
            another type.
    """
    card, arguments = find(slug, cards), dict(arguments or {})
    function = getattr(load_module(card), card.function)
    known = list(inspect.signature(function).parameters)
    for name in arguments:
        if name not in known:
            raise ConfigError(f"found `{name}` in `method_args` of `{card.slug}`; {nearest(name, known)}")
    try:
        return function(**arguments_for(function, arguments))
    except ConfigError as error:
        raise ConfigError(f"`method_args` of `{card.slug}`: {error}") from None


def load_claim(slug: str, cards: Iterable[Card] | None = None) -> Claim:
    """The claim of a method.

    Raises:
        ConfigError: no such method, a broken file, or a method without a claim.
    """
    card = find(slug, cards)
    if not card.has_claim:
        raise ConfigError(f"the method `{card.slug}` makes no claim; expected `claim = Claim(...)` in {card.path.name}")
    return load_module(card).claim


def check(card: Card) -> str:
    """What fails when the method is imported and built at its defaults; empty if nothing does."""
    try:
        load_method(card.slug, cards=[card])
    except Exception as error:
        return str(error)
    return ""


def methods_table_markdown(cards: Iterable[Card] | None = None) -> str:
    """The table of methods for the documentation, generated so that it cannot go stale."""
    lines = ["| method | modality | what it is | paper | claim |", "|---|---|---|---|---|"]
    for card in discover() if cards is None else cards:
        paper = f"[{card.arxiv}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv[:1].isdigit() else card.arxiv
        summary = f"**broken**: {card.error}" if card.error else card.summary
        cells = (f"`{card.slug}`", card.modality, summary, paper, "yes" if card.has_claim else "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
