"""Writes the pages that come from the code: `make docs`; tests compare them with the files."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import sys
import textwrap
from dataclasses import MISSING, Field, fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from omnipref.build import builders
from omnipref.cli.commands import COMMANDS
from omnipref.objectives import Needs, constructors
from omnipref.preferences.formats import format_named
from omnipref.registry import discover, load_method, methods_table_markdown

DOCS = Path(__file__).parent
METHOD = DOCS.parent / "src" / "omnipref" / "methods" / "re_align.py"


def field_help(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass and its bases."""
    help_of: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0] if base.__module__ != "abc" else ast.Pass()
        statements = getattr(body, "body", [])
        for statement, following in pairwise(statements):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if isinstance(statement, ast.AnnAssign) and is_text:
                help_of[ast.unparse(statement.target)] = inspect.cleandoc(following.value.value)
    return help_of


def default_of(field: Field) -> str:
    """A field's default as code; nothing for a required field."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return "required"
    return "" if value in (None, [], {}) else f"`{value}`"


def option(field: Field) -> str:
    """A field as it is written on the command line."""
    name = field.name.replace("_", "-")
    return name.upper() if "Positional" in str(field.type) else f"--{name}"


def command_line() -> str:
    """The page of all commands."""
    lines = [
        "# Command line",
        "",
        "Generated from `omnipref.config` by `make docs`. Every command also takes `--help`, and `--config FILE.yaml`",
        "with the same names (underscores instead of dashes); flags override the file.",
    ]
    for command in COMMANDS:
        cls = command.config
        text, _, examples = inspect.cleandoc(cls.__doc__ or "").partition("Examples:\n")
        lines += [
            "",
            f"## omnipref {command.name}",
            "",
            text.strip(),
            "",
            "```bash",
            textwrap.dedent(examples).strip(),
            "```",
        ]
        said = {name: text.replace("\n", " ") for name, text in field_help(cls).items()}
        rows = [f"| `{option(f)}` | {default_of(f)} | {said.get(f.name, '')} |" for f in fields(cls)]
        if rows:
            lines += ["", "| option | default | |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def methods() -> str:
    """The page of all methods."""
    head = "# Methods\n\nGenerated from `src/omnipref/methods` by `make docs`; `omnipref methods` prints it too.\n"
    return f"{head}`omnipref reproduce <method>` runs a method's claim.\n\n{methods_table_markdown()}"


MARK = "<!-- generated from here on: make docs -->\n"


def written(name: str) -> str:
    """The part of a page above the mark, which people write."""
    return (DOCS / name).read_text(encoding="utf-8").partition(MARK)[0]


def data_formats() -> str:
    """The page of formats: what is written above the mark, then every format with its examples."""
    lines = ["", "## Every format"]
    for line in (DOCS / "format-examples.jsonl").read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        rows = [json.dumps(row, ensure_ascii=False) for row in example["rows"]]
        note = format_named(example["format"]).note
        lines += [
            "",
            f"### {example['about']}",
            "",
            f"`--dataset-format {example['format']}`. {note}",
            "",
            "```json",
            *rows,
            "```",
        ]
    return written("data-formats.md") + MARK + "\n".join(lines) + "\n"


def adding_a_method() -> str:
    """The walk through a method: what is written above the mark, then the method's file."""
    source = METHOD.read_text(encoding="utf-8") if METHOD.exists() else ""
    return f"{written('adding-a-method.md')}{MARK}\n```py\n{source}```\n"


def section(text: str, name: str, body: str) -> str:
    """A page with the part between its `<!-- name: ... -->` and `<!-- /name -->` marks replaced."""
    start = text.index("\n", text.index(f"<!-- {name}:")) + 1
    return f"{text[:start]}{body}{text[text.index(f'<!-- /{name} -->') :]}"


MODALITIES = ("text", "image-text", "text-to-image")


def runs_on(needs: Needs) -> list[str]:
    """Modalities that can give an objective what it reads.

    A negative image asks for pictures in the context; extras ask for what only language models have, such as a
    distribution over a vocabulary.
    """
    pictures = any("image" in role for role in needs.roles)
    read = {"image-text"} if pictures else set(MODALITIES)
    return [modality for modality in MODALITIES if modality in read - ({"text-to-image"} if needs.extras else set())]


CLAIMS = DOCS.parent / "benchmarks" / "claims"


def claim_records() -> dict[str, dict[str, Any]]:
    """What was measured of each method's claim, by slug."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(CLAIMS.glob("*.json")))
    return {record["slug"]: record for record in found}


def methods_and_modalities() -> str:
    """The README's table: where a method was published, where else its objective runs, and whether its claim held."""
    lines = [f"| | {' | '.join(MODALITIES)} | claim | paper |", "|---|" + ":-:|" * len(MODALITIES) + "---|---|"]
    records = claim_records()
    for card in discover():
        runs = runs_on(load_method(card.slug).needs)
        marks = ["●" if m == card.modality else "○" if m in runs else "" for m in MODALITIES]
        verdict = f"[{records[card.slug]['verdict']}](docs/claims.md)" if card.slug in records else ""
        paper = f"[{card.arxiv}](https://arxiv.org/abs/{card.arxiv})"
        lines.append(f"| **{card.slug}** | {' | '.join(marks)} | {verdict} | {paper} |")
    count = len(constructors())
    example = "`--objective 'dpo(beta=0.1) + 0.2 * sft()'`"
    said = "● published for it, ○ its objective runs on it. Claims are checked in small worlds whose truth is known."
    lines += ["", said, ""]
    lines += [f"Besides, [{count} objectives](docs/objectives.md) that add and scale: {example}."]
    return "\n".join([*lines, ""])


def first_paragraph(function: Any) -> str:
    """The first paragraph of a docstring, for a cell of a table."""
    return (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def builder_page() -> str:
    """The page of all builders: what each makes and what it takes."""
    lines = [written("builders.md") + MARK, "| builder | what it makes |", "|---|---|"]
    for name, make in sorted(builders().items()):
        options = [p for p in inspect.signature(make).parameters.values() if p.name not in SUPPLIED]
        given = ", ".join(p.name if p.default is p.empty else f"{p.name}={shown_default(p.default)}" for p in options)
        lines.append(f"| `{name}({given})` | {first_paragraph(make)} |".replace("\n", " "))
    return "\n".join(lines) + "\n"


SUPPLIED = frozenset({"sampler", "features", "seed"})
"""Options that `omnipref build` fills in itself."""


def shown_default(value: Any) -> str:
    """A default as people would type it."""
    return value.__name__ if callable(value) else repr(value).replace("|", "\\|")


def claims() -> str:
    """The page of all claims, from the files that `omnipref reproduce` wrote."""
    lines = [
        written("claims.md") + MARK,
        "| method | claim | effect over the baseline | over its controls | seeds | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for slug, found in claim_records().items():
        claim, effects = found["claim"], found["effects"]
        shown = {arm: f"{e['value']:+.2g} ({e['low']:+.2g} to {e['high']:+.2g})" for arm, e in effects.items()}
        controls = "; ".join(f"{shown[arm]} {arm.replace('_', ' ')}" for arm in found["control"])
        main = f"{claim['metric'].replace('_', ' ')} {shown[found['baseline']]} {found['baseline'].replace('_', ' ')}"
        lines.append(
            f"| `{slug}` | {claim['statement']} | {main} | {controls} | {found['seeds']} | {found['verdict']} |"
        )
    lines += ["", "## What was seen", ""]
    lines += [f"**{slug}**, in {f['claim']['world']}. {f['claim']['note']}\n" for slug, f in claim_records().items()]
    return "\n".join(lines)


ARXIV = re.compile(r"\b(\d{4}\.\d{5})\b")


def objectives() -> str:
    """The page of all objectives: what each is, what it takes, where it runs and where it is from."""
    lines = [written("objectives.md") + MARK, "| objective | what it is | runs on | paper |", "|---|---|---|---|"]
    for name, make in constructors().items():
        doc = inspect.getdoc(make) or ""
        first = first_paragraph(make)
        papers = ", ".join(f"[{n}](https://arxiv.org/abs/{n})" for n in dict.fromkeys(ARXIV.findall(doc)))
        given = ", ".join(f"{p.name}={p.default!r}" for p in inspect.signature(make).parameters.values())
        where = "all" if len(found := runs_on(make().needs)) == len(MODALITIES) else ", ".join(found)
        lines.append(f"| `{name}({given})` | {first} | {where} | {papers} |")
    return "\n".join(lines) + "\n"


def results() -> str:
    """The README's numbers, from the files that the benchmarks wrote."""
    lines = []
    for name, show in (("scoring", scoring), ("hh_rlhf", beside_trl)):
        table = DOCS.parent / "benchmarks" / "results" / f"{name}.md"
        lines += show(table) if table.exists() else []
    return "\n".join([*lines, ""])


def scoring(table: Path) -> list[str]:
    """What was asked of scoring and what was measured."""
    text = table.read_text(encoding="utf-8")
    asked = text.partition("## What was asked for")[2].partition("\n## ")[0]
    rows = [line for line in asked.splitlines() if line.startswith("|")]
    head = text.split("\n\n")[1]
    return ["", f"{head} ([All of it]({table.relative_to(DOCS.parent)}).)", "", *rows]


SHOWN = ("| mean over", "| ---", "| held-out", "| CPU seconds", "| peak resident")


def beside_trl(table: Path) -> list[str]:
    """The rows of the comparison with TRL that the front page shows."""
    rows = [line for line in table.read_text(encoding="utf-8").splitlines() if line.startswith(SHOWN)]
    where = f"[{table.stem}.md]({table.relative_to(DOCS.parent)})"
    text = (
        "`omnipref train` beside TRL 1.16's `DPOTrainer`: the same small Llama, real HH-RLHF pairs, order and budget, "
    )
    text += f"on one CPU thread. Losses and weights agree to 1e-5; {where} says what the ratio does not show."
    return ["", text, "", *rows]


def architectures() -> str:
    """The page of model classes, from the data that their tests run on."""
    sys.path.append(str(DOCS.parent / "tests"))
    table = import_module("architectures").ARCHITECTURES
    lines = [
        written("architectures.md") + MARK,
        "| class | reads | layout | forest against rows | what is particular |",
        "|---|---|---|---|---|",
    ]
    for name, each in table.items():
        reads = ", ".join(("text", *each.reads))
        equal = f"below {each.tolerance:.0e}" if each.layout == "forest" else ""
        particular = "; ".join(filter(None, (each.reason, each.note)))
        lines.append(f"| `{name}` | {reads} | {each.layout} | {equal} | {particular} |")
    return "\n".join(lines) + "\n"


def readme() -> str:
    """The front page with its generated parts."""
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    return section(section(text, "methods", methods_and_modalities()), "results", results())


PAGES = {
    "adding-a-method.md": adding_a_method,
    "architectures.md": architectures,
    "builders.md": builder_page,
    "claims.md": claims,
    "cli.md": command_line,
    "data-formats.md": data_formats,
    "methods.md": methods,
    "objectives.md": objectives,
    "../README.md": readme,
}
"""Page to the function that writes it."""


def main() -> None:
    """Write every page, atomically."""
    for name, page in PAGES.items():
        temporary = DOCS / f"{name}.new"
        temporary.write_text(page(), encoding="utf-8")
        os.replace(temporary, DOCS / name)
        print(f"wrote {(DOCS / name).resolve().relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
