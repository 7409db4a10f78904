"""Measured networks as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastcam.experiments.arms import BEFORE, CONTROL
from fastcam.experiments.measures import (
    IN_DEVIATIONS,
    MEASURES,
    Change,
    Measured,
    Spread,
    column,
    without_numbers,
)
from fastcam.report import Table
from fastcam.report.numbers import MISSING, number


def network_table(
    measured: Measured,
    title: str,
    *,
    beside: Mapping[str, str] | None = None,
    head: str = "",
    names: Sequence[str] = MEASURES,
    absent: Mapping[str, str] | None = None,
) -> Table:
    """One row a network, one column a measure: mean ± standard deviation over trainings.

    Args:
        measured: the networks.
        title: stands above.
        beside: text of a further column, by network.
        head: of that column.
        names: which measures.
        absent: why a network has no numbers, by its name; "diverged" where that is not named.
    """
    rows = []
    for network in measured:
        if without_numbers(measured, network):
            cells = [(absent or {}).get(network, "diverged")] * len(names)
        else:
            cells = [_spread(Spread.of(column(measured, network, n)), n) for n in names]
        more = [] if beside is None else [beside.get(network, MISSING)]
        rows.append([network, *cells, *more])
    unit = "percent"
    if any(name in IN_DEVIATIONS for name in names):
        unit += "; drops in standard deviations of the score"
    return Table(
        ["network", *names, *([] if beside is None else [head])], rows, f"{title} ({unit})"
    )


def change_table(measured: Measured, title: str, names: Sequence[str] = MEASURES) -> Table:
    """Each network minus the control, with 95% t intervals where there are several trainings."""
    rows = []
    for network in measured:
        if network in (BEFORE, CONTROL) or without_numbers(measured, network):
            continue
        cells = []
        for name in names:
            values, others = column(measured, network, name), column(measured, CONTROL, name)
            cells.append(_change(Change.of(values, others), name))
        rows.append([network, *cells])
    return Table(["network", *names], rows, f"{title} (95% t interval over trainings)")


def _scale(name: str) -> tuple[float, int]:
    return (1.0, 2) if name in IN_DEVIATIONS else (100.0, 1)


def _spread(spread: Spread, name: str) -> str:
    if spread.mean is None:
        return MISSING
    scale, digits = _scale(name)
    text = number(scale * spread.mean, digits)
    if spread.deviation is not None:
        text += f" ± {number(scale * spread.deviation, digits)}"
    return text


def _change(change: Change, name: str) -> str:
    if change.mean is None:
        return MISSING
    scale, digits = _scale(name)
    text = number(scale * change.mean, digits, sign=True)
    if change.low is not None and change.high is not None:
        low, high = (number(scale * v, digits, sign=True) for v in (change.low, change.high))
        text += f" ({low} to {high})"
    return text
