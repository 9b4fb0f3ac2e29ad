"""Entry point: select, parse, dispatch; calm errors, clean interruption."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from omnipref import __version__
from omnipref.cli.commands import COMMANDS, Command, resolve, select
from omnipref.cli.parse import parse, take_option
from omnipref.config import Config
from omnipref.config.load import check_values
from omnipref.errors import OmniprefError

UNEXPECTED, FAILED, INTERRUPTED = 1, 2, 130


def overview() -> str:
    """The help of the whole program."""
    width = max(len(command.name) for command in COMMANDS)
    rows = [f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS]
    return "\n".join(
        [
            "omnipref: align any generative model from preferences.",
            "",
            "usage: omnipref COMMAND [--config FILE.yaml] [FLAGS]",
            "",
            *rows,
            "",
            "Examples:",
            "  omnipref demo",
            "  omnipref train --model-name-or-path MODEL --dataset prefs.jsonl --output-dir run",
            "  omnipref COMMAND --help",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 2 an error of the user's or the data's, 1 any other error, 130
    interrupted. `doctor` gives 1 for a run that is ill.

    Args:
        argv: the words after `omnipref`; those of this process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("OMNIPREF_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"omnipref {__version__}")
        return 0
    try:
        return _run(words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print an error as a sentence; returns the exit code."""
    if isinstance(error, OmniprefError):
        print(f"omnipref: {error}", file=sys.stderr)
        return FAILED
    if isinstance(error, OSError) and error.strerror:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "make room and run the same command again" if full else "name a place that can be read and written"
        print(f"omnipref: {error.filename or 'a file'}: {error.strerror}. To mend: {cure}", file=sys.stderr)
        return FAILED
    print(
        f"omnipref: {type(error).__name__}: {error}\nThis was not expected; the same command with --debug shows where.",
        file=sys.stderr,
    )
    return UNEXPECTED


def _run(words: list[str]) -> int:
    if any(command.name.startswith(f"{words[0]} ") for command in COMMANDS) and set(words[1:]) <= {"-h", "--help"}:
        print("\n".join(f"omnipref {c.name:<14}{c.summary}" for c in COMMANDS if c.name.startswith(f"{words[0]} ")))
        return 0
    command, rest = select(words)
    try:
        config = configure(command, rest)
        with _undisturbed():
            code = resolve(command.target)(config)
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(interruption(command, words), file=sys.stderr)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Warnings go above a progress bar instead of into its line; what no user can act on is left out."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    with warnings.catch_warnings(), logging_redirect_tqdm():
        # PEFT asks transformers whether activations are recomputed, by a name that transformers is giving up.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def configure(command: Command, words: Sequence[str]) -> Config:
    """The configuration of a command line: the method's defaults, then the YAML file, then the flags.

    Raises:
        ConfigError: a bad file, a value out of bounds, or fields in conflict.
    """
    words, path = take_option(words, "--config")
    prog = f"omnipref {command.name}"
    config = parse(command.config, words, prog=prog, path=path)
    values = resolve(command.underlay)(config) if command.underlay else {}
    if not values:
        return config
    checked = check_values(command.config, values, source="defaults of the method")
    return parse(command.config, words, prog=prog, values=checked, path=path)


def interruption(command: Command, words: Sequence[str]) -> str:
    """What to say after Ctrl-C: the command that continues, if there is one.

    Example:
        >>> from omnipref.cli.commands import select
        >>> interruption(select(["train"])[0], ["train", "--config", "a.yaml", "--resume", "never"])
        'Interrupted. To continue: omnipref train --config a.yaml'
    """
    if not command.resumes:
        return "Interrupted."
    rest, _ = take_option(words, "--resume")
    again = shlex.join(["omnipref", *rest])
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return f"Interrupted. To continue, launch again the same way: -m {again}"
    return f"Interrupted. To continue: {again}"
