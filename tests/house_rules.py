"""The rules of the house as functions from parsed source to problems, so that each rule can be tested itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef

ROOMS = {"preferences", "policies", "rewards", "objectives", "build"}
BASE = {"errors", "scores"}
ABOVE = ROOMS | BASE | {"config"}
MAY_IMPORT: Mapping[str, set[str]] = {
    "errors": set(),
    "scores": set(),
    "config": {"errors"},
    "preferences": {"errors"},
    "objectives": BASE,
    "policies": {"preferences", *BASE},
    "rewards": {"preferences", "policies", *BASE},
    "build": {"preferences", "policies", "rewards", *BASE},
    "training": ABOVE,
    "decoding": ABOVE,
    "evaluation": {"training", *ABOVE},
    "worlds": {"training", "evaluation", *ABOVE},
    "method": {"training", "decoding", *ABOVE},
    "methods": {"method", "training", "decoding", *ABOVE},
}
"""Room to the rooms it may import; one not listed (`cli`, `config` ...) stands on top and imports all but methods."""

MAY_IMPORT_METHODS = {"cli", "claims", "registry"}
THIRD_PARTY = {"objectives": {"torch"}, "scores": {"torch"}, "errors": set[str]()}
"""Rooms that keep to few outside packages."""


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, at any depth, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def wrong_imports(room: str, tree: ast.AST, stdlib: Collection[str]) -> list[str]:
    """Imports that go against the direction, are relative, or bring in an outside package a room does not need."""
    problems = []
    for name in imports(tree):
        package, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if name.startswith("."):
            problems.append(f"relative import {name}")
        elif package != "omnipref":
            if room in THIRD_PARTY and package not in THIRD_PARTY[room] | set(stdlib):
                problems.append(f"{room} imports {package}")
        elif target == "methods" and room not in MAY_IMPORT_METHODS | {"methods"}:
            problems.append(f"{room} imports methods")
        elif room in MAY_IMPORT and target not in MAY_IMPORT[room] | {room, "__version__"}:
            problems.append(f"{room} imports {target}")
    return problems


def public_functions(tree: ast.Module) -> Iterator[tuple[str, Function, ast.ClassDef | None]]:
    """Public functions of a module and public methods (and constructors) of its public classes."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node, None
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for item in node.body:
                if isinstance(item, Function) and (not item.name.startswith("_") or item.name == "__init__"):
                    yield f"{node.name}.{item.name}", item, node


def undocumented(tree: ast.Module) -> list[str]:
    """The module and the public things in it that have no docstring; a constructor's place is its class."""
    problems = [] if ast.get_docstring(tree) else ["the module"]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    problems += [node.name for node in classes if not ast.get_docstring(node)]
    for name, function, owner in public_functions(tree):
        inherited = owner is not None and foreign_bases(owner)
        if function.name != "__init__" and not inherited and not ast.get_docstring(function):
            problems.append(name)
    return problems


def body_without_docstring(node: ast.Module | ast.ClassDef | Function) -> list[ast.stmt]:
    """The statements of a node after its docstring."""
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def is_stub(function: Function) -> bool:
    """Whether a function only declares a signature, as in a protocol."""
    return all(
        isinstance(statement, (ast.Pass, ast.Raise))
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in body_without_docstring(function)
    )


def foreign_bases(owner: ast.ClassDef) -> list[str]:
    """Base classes that dictate the signatures of a class's methods."""
    names = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in owner.bases]
    return [name for name in names if name not in {"Protocol", "Generic", "NamedTuple", "StrEnum", "Enum"}]


def unread_parameters(tree: ast.Module) -> list[str]:
    """Parameters that no statement reads; `del` says of one that only the signature asks for it, for callers to see."""
    problems = []
    for name, function, owner in public_functions(tree):
        if is_stub(function) or (owner is not None and foreign_bases(owner)):
            continue
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        names = {a.arg for a in every if a is not None} - {"self", "cls"}
        used = {
            n.id
            for statement in function.body
            for n in ast.walk(statement)
            if isinstance(n, ast.Name) and isinstance(n.ctx, (ast.Load, ast.Del))
        }
        problems += [f"{name}({unread})" for unread in sorted(names - used)]
    return problems


def function_lengths(tree: ast.AST) -> dict[str, int]:
    """Lines of each function without its docstring."""
    lengths = {}
    for node in ast.walk(tree):
        if isinstance(node, Function):
            doc = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            doc_lines = (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
            lengths[f"{node.name}:{node.lineno}"] = (node.end_lineno or 0) - node.lineno + 1 - doc_lines
    return lengths


def _literals(node: ast.expr) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def name_comparisons(tree: ast.AST, names: Collection[str]) -> list[str]:
    """Comparisons, matches and `startswith` tests of a value against the name of a method, objective or model."""
    problems = []
    for node in ast.walk(tree):
        found: set[str] = set()
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq, ast.In, ast.NotIn)):
            sides = [side for side in (node.left, *node.comparators) if not isinstance(side, ast.Call)]
            found = set().union(*(_literals(side) for side in sides if not isinstance(side, ast.Subscript)))
        elif isinstance(node, ast.MatchValue):
            found = _literals(node.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"startswith", "endswith"}:
            found = {literal for argument in node.args for literal in _literals(argument)}
        problems += [f"line {node.lineno}: {name!r}" for name in sorted(found & set(names))]
    return problems


def _tests_string(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and any(_literals(side) for side in (test.left, *test.comparators))


def long_chains(tree: ast.AST, limit: int = 3) -> list[str]:
    """`if`/`elif` chains and `match` statements with more than `limit` branches on string values."""
    continued = {id(node.orelse[0]) for node in ast.walk(tree) if isinstance(node, ast.If) and len(node.orelse) == 1}
    problems = []
    for node in ast.walk(tree):
        branches = 0
        if isinstance(node, ast.If) and id(node) not in continued:
            link: ast.stmt | None = node
            while isinstance(link, ast.If):
                branches += _tests_string(link.test)
                link = link.orelse[0] if len(link.orelse) == 1 else None
        elif isinstance(node, ast.Match):
            branches = sum(bool(_literals(c.pattern)) for c in node.cases if isinstance(c.pattern, ast.MatchValue))
        if branches > limit:
            problems.append(f"line {node.lineno}: {branches} branches")
    return problems


def code_in_init(tree: ast.Module) -> list[str]:
    """Statements of an `__init__.py` that are not imports or dunder assignments."""
    problems = []
    for node in body_without_docstring(tree):
        dunder = isinstance(node, ast.Assign) and all(
            isinstance(target, ast.Name) and target.id.startswith("__") for target in node.targets
        )
        if not dunder and not isinstance(node, (ast.Import, ast.ImportFrom)):
            problems.append(f"line {node.lineno}: {type(node).__name__}")
    return problems


def class_bases(tree: ast.AST) -> dict[str, list[str]]:
    """Class name to the last part of the name of each base."""
    return {
        node.name: [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def overridden_concrete(bases: Mapping[str, list[str]]) -> list[str]:
    """Classes that inherit from a concrete class of the library: neither a protocol nor an error."""

    def open_to_heirs(name: str) -> bool:
        return name.endswith("Error") or "Protocol" in bases[name] or "ABC" in bases[name]

    return [
        f"{name}({base})" for name, own in bases.items() for base in own if base in bases and not open_to_heirs(base)
    ]


_SUPPRESSION = re.compile(r"#\s*(type:\s*ignore|pyright:\s*ignore|noqa)(?!\s*[\[:]\s*\w)")
_BANNER = re.compile(r"^\s*#\s*[=\-#*~]{4,}")
_UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
_MACHINE = re.compile(
    "|".join(
        [r"(?<![\w.])/(?:wo" + r"rk|root|ho" + r"me/\w+|Us" + r"ers/\w+)/", r"\b10\.\d+\.\d+\.\d+\b"]
        + [re.escape(host) for host in ("pypi" + ".org", "python" + "hosted.org", "download.py" + "torch.org")]
        + [re.escape("--index" + "-url"), re.escape("--extra-index" + "-url")]
    )
)


def text_problems(text: str) -> list[str]:
    """Machine paths, package hosts, marks of unfinished work, banners, and suppressions without a rule's name."""
    rules = {"machine path or host": _MACHINE, "unfinished": _UNFINISHED, "banner": _BANNER, "bare": _SUPPRESSION}
    return [
        f"line {number}: {what}: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in rules.items()
        if pattern.search(line)
    ]


def code_lines(source: str) -> list[str]:
    """Lines of code without comments, docstrings and imports, stripped."""
    tree = ast.parse(source)
    skip: set[int] = set()
    for node in ast.walk(tree):
        is_doc = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if is_doc or isinstance(node, (ast.Import, ast.ImportFrom)):
            skip.update(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = ((number, line.strip()) for number, line in enumerate(source.splitlines(), 1))
    return [line for number, line in lines if line and not line.startswith("#") and number not in skip]


def copied_share(sources: Mapping[Path, str], run: int = 8) -> float:
    """Share of code lines that lie in a run of `run` equal lines also found in another file."""
    code = {path: code_lines(source) for path, source in sources.items()}
    where: dict[tuple[str, ...], set[Path]] = {}
    for path, lines in code.items():
        for i in range(len(lines) - run + 1):
            where.setdefault(tuple(lines[i : i + run]), set()).add(path)
    copied = 0
    for lines in code.values():
        starts = [i for i in range(len(lines) - run + 1) if len(where[tuple(lines[i : i + run])]) > 1]
        copied += len({j for i in starts for j in range(i, i + run)})
    return copied / max(1, sum(map(len, code.values())))


def relative_links(markdown: str) -> list[str]:
    """Targets of links and pictures in a Markdown text that are files of the repository."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    flat = [one or other for one, other in targets]
    return [target.partition("#")[0] for target in flat if not re.match(r"[a-z]+:|#", target)]


def commands(markdown: str, program: str) -> list[str]:
    """Command lines that start with `program` in the fenced blocks of a Markdown text, continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console|shell)\n(.*?)```", markdown, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    plain = (line.strip().removeprefix("$ ") for line in lines)
    return [line.partition(" #")[0].strip() for line in plain if line.split()[:1] == [program]]
