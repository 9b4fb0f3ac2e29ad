"""What the bandits' claims share: an arm is a word, and its meaning is data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from omnipref.errors import ConfigError, nearest

Plan = TypeVar("Plan")


def plan_of(kind: type[Plan], arms: Mapping[str, Mapping[str, Any]], arm: str) -> Plan:
    """What a claim says of an arm, as the dataclass that a world understands.

    Args:
        kind: the dataclass.
        arms: arm to the dataclass's fields.
        arm: the one to be run.

    Raises:
        ConfigError: an unknown arm or field; names the nearest.
    """
    if arm not in arms:
        raise ConfigError(f"found no arm `{arm}`; {nearest(arm, arms)}")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]: a dataclass
    for name in arms[arm]:
        if name not in known:
            raise ConfigError(f"found `{name}` in the arm `{arm}`; {nearest(name, known)}")
    return kind(**arms[arm])
