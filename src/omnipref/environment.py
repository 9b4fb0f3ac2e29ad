"""`omnipref env`: what a bug report needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from omnipref import __version__
from omnipref.config import EnvConfig

CORE = (
    "torch",
    "transformers",
    "diffusers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "tyro",
)
EXTRAS = {
    "bench": ("trl",),
    "serve": ("openai",),
    "video": ("av", "torchvision"),
    "audio": ("soundfile",),
    "gpu": ("flash-attn", "liger-kernel", "bitsandbytes", "deepspeed"),
}


def show(config: EnvConfig) -> None:
    """Print versions, devices and optional extras."""
    del config
    print("\n".join(f"- {line}" for line in lines()))


def versions() -> dict[str, str]:
    """Version of Python, of this package and of the core packages, by name; nothing is imported."""
    found = {"omnipref": __version__, "python": platform.python_version()}
    return found | {name: installed(name) for name in CORE}


def installed(package: str) -> str:
    """The version of a package, or `not installed`.

    Example:
        >>> installed("surely-not-a-package")
        'not installed'
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def lines() -> Iterator[str]:
    """What `omnipref env` prints, line by line."""
    for name, number in versions().items():
        yield f"{name}: {number}"
    yield f"platform: {platform.platform()}, {os.cpu_count()} CPU cores"
    yield from devices()
    for extra, packages in EXTRAS.items():
        yield f"extra {extra}: " + ", ".join(f"{name} {installed(name)}" for name in packages)


def devices() -> Iterator[str]:
    """The accelerators that torch sees."""
    try:
        import torch
    except ImportError as error:
        yield f"torch cannot be imported: {error}"
        return
    yield f"torch threads: {torch.get_num_threads()}, CUDA {torch.version.cuda or 'not built in'}"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps: available"
