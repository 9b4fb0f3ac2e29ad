"""Refusals of bad arguments of constructors, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from omnipref.errors import ConfigError, nearest

T = TypeVar("T")


def check_number(low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, **values: float) -> None:
    """Refuse what is not a finite number in [low, high), or in (low, high) if `open_low`.

    Raises:
        ConfigError: names the argument, what was found and the range.

    Example:
        >>> check_number(0, open_low=True, beta=0.1)
    """
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < low or value >= high or (open_low and value == low):
            interval = f"{'(' if open_low or low == -math.inf else '['}{low:g}, {high:g})"
            raise ConfigError(f"found {name}={value!r}; expected a number in {interval}")


def check_roles(**roles: str) -> None:
    """Refuse what is not the name of a role, and two arguments that name the same.

    Raises:
        ConfigError: names the argument.
    """
    for name, role in roles.items():
        if not isinstance(role, str) or not role:
            raise ConfigError(f"found {name}={role!r}; expected the name of a role, such as 'chosen'")
    if len(set(roles.values())) < len(roles):
        raise ConfigError(f"found {' and '.join(roles)} both {next(iter(roles.values()))!r}; expected different roles")


def check_choice(name: str, value: str, table: Mapping[str, T]) -> T:
    """The entry of this name.

    Raises:
        ConfigError: there is none; proposes the nearest.
    """
    if value not in table:
        raise ConfigError(f"found {name}={value!r}; {nearest(str(value), table)}")
    return table[value]
