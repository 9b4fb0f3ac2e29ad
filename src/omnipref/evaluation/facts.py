"""What one must know to get the same numbers again: command, commit, machine, versions, seed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("omnipref", "torch", "transformers", "diffusers", "peft", "numpy")


def run_facts(command: str, seed: int | None = None) -> dict[str, str]:
    """The footer of a report.

    Args:
        command: the command line that gives the same again.
        seed: its seed.
    """
    facts = {"command": command, "commit": _commit(), "machine": _machine(), "versions": _versions()}
    seeded = {} if seed is None else {"seed": str(seed)}
    return {name: value for name, value in {**facts, **seeded}.items() if value}


def _commit() -> str:
    """Commit of the checkout this package is run from, with a word if it was changed; empty outside a checkout."""
    folder = Path(__file__).resolve().parent
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    return f"{commit} with changes" if commit and _git(folder, "status", "--porcelain", "--", ":/src") else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _machine() -> str:
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"]
    torch = sys.modules.get("torch")
    if torch is not None:
        parts += [f"{torch.get_num_threads()} threads"]
        parts += [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join(parts)


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
