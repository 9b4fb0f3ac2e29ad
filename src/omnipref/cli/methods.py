"""`omnipref methods`: the registry as a table."""

from __future__ import annotations

import json
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from omnipref.config import MethodsConfig
from omnipref.registry import Card, check, discover, methods_table_markdown


def show(config: MethodsConfig) -> None:
    """Print the methods; a broken file is listed with its error."""
    cards = [card for card in discover() if config.modality in (None, card.modality) or card.error]
    if config.check:
        cards = [replace(card, error=card.error or check(card)) for card in cards]
    printers = {"table": _table, "markdown": lambda cards: print(methods_table_markdown(cards), end=""), "json": _json}
    printers[config.form](cards)


def _table(cards: list[Card]) -> None:
    table = Table("method", "modality", "what it is", "paper", "claim", box=None, pad_edge=False, header_style="bold")
    for card in cards:
        what = f"[red]broken: {card.error}[/red]" if card.error else card.summary
        table.add_row(card.slug, card.modality, what, card.arxiv, "yes" if card.has_claim else "")
    console = Console()
    console.print(table)
    count = f"{len(cards)} method{'s' * (len(cards) != 1)}"
    console.print(f"\n{count}. Train with one: omnipref train --method SLUG. Check one: omnipref reproduce SLUG")


def _json(cards: list[Card]) -> None:
    names = ("slug", "title", "arxiv", "modality", "summary", "has_claim", "error")
    print(json.dumps([{name: getattr(card, name) for name in names} for card in cards], indent=2))
