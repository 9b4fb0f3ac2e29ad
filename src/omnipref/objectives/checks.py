"""Refusals of bad arguments of constructors, by name, and of bad values in columns, by record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from omnipref.errors import ConfigError, NeedsError, nearest
from omnipref.scores import Cases

T = TypeVar("T")


def check_number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    closed_high: bool = False,
    **values: float,
) -> None:
    """Refuse what is not a finite number in [low, high), without `low` if `open_low`, with `high` if `closed_high`.

    Raises:
        ConfigError: names the argument, what was found and the range.

    Example:
        >>> check_number(0, open_low=True, beta=0.1)
    """
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        outside = number and (value < low or value > high)
        at_end = (open_low and value == low) or (not closed_high and value == high)
        if not number or outside or at_end:
            ends = "(" if open_low or low == -math.inf else "[", "]" if closed_high else ")"
            interval = f"{ends[0]}{low:g}, {high:g}{ends[1]}"
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


def check_column(cases: Cases, column: str, right_P: Tensor, expected: str) -> None:
    """Refuse values that an objective cannot use; costs one look at the device.

    Args:
        cases: the batch's alignment.
        column: name of the column.
        right_P: bool, false where the value is bad.
        expected: what a value must be, in words.

    Raises:
        NeedsError: names the column, the records and what is expected.
    """
    if not bool(right_P.all()):
        records = cases.record_P[~right_P].tolist()
        raise NeedsError(f"found unusable values of column {column} in records {records}; expected {expected}")
