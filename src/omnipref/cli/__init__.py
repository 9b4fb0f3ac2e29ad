"""The command line: `omnipref COMMAND`, parsed from the typed configurations, dispatched lazily."""

from omnipref.cli.main import main

__all__ = ["main"]
