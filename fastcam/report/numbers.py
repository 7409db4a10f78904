"""Numbers as text, for tables and sentences."""

from __future__ import annotations

import math

MISSING = "–"


def percent(
    value: float | None, digits: int = 1, *, missing: str = MISSING, unit: str = "%"
) -> str:
    """A share in percent; ``missing`` for None and NaN."""
    if value is None or math.isnan(value):
        return missing
    return f"{100 * value:z.{digits}f}{unit}"


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """A number, with its sign if asked for (none of its own has 0); a dash for None and NaN."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:+z.{digits}f}" if sign else f"{value:z.{digits}f}"


def points(value: float, digits: int = 2) -> str:
    """A difference of shares in percentage points, with its sign."""
    return number(100 * value, digits, sign=True)


def points_range(low: float, high: float, digits: int = 2) -> str:
    """An interval of such a difference."""
    return f"{points(low, digits)} to {points(high, digits)}"
