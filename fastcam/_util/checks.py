"""Checks of options; every error reads "NAME: expected WHAT, got VALUE"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """ValueError for a word that is not among ``choices``."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: expected one of {listed}, got {value!r}")


def number(name: str, value: float, expected: str, fits: Callable[[float], bool]) -> None:
    """TypeError for what is no number, ValueError for one that does not fit."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number {expected}, got {type(value).__name__}")
    if not fits(value):
        raise ValueError(f"{name}: expected a number {expected}, got {value}")


def whole(name: str, value: float, least: int) -> None:
    """TypeError for what is no whole number, ValueError for one below ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value}")


def flag(name: str, value: bool) -> None:
    """TypeError for what is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")


def fraction(name: str, value: float) -> None:
    """:func:`number` in (0, 1), both ends left out."""
    number(name, value, "in (0, 1)", lambda x: 0 < x < 1)


def at_least(name: str, value: float, least: int) -> None:
    """ValueError for a number below ``least``."""
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
