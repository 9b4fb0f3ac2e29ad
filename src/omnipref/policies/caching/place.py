"""Where caches lie."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "OMNIPREF_CACHE"
"""Environment variable that names the folder of the caches."""


def cache_directory(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the caches: the one given, else `$OMNIPREF_CACHE`, `$XDG_CACHE_HOME/omnipref`, `~/.cache/omnipref`.

    Args:
        given: what the user asked for, if anything; `~` is understood.
    """
    if given or (given := os.environ.get(VARIABLE)):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "omnipref"
