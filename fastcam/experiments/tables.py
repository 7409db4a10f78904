"""Measured networks as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastcam.experiments.arms import BEFORE, CONTROL
from fastcam.experiments.measures import (
    IN_DEVIATIONS,
    MEASURES,
    Change,
    Measured,
    Spread,
    column,
    interval_ends,
    without_numbers,
)
from fastcam.report import Table
from fastcam.report.numbers import MISSING, number


def trainings(counts: Sequence[Mapping[str, int]]) -> str:
    """For a title: how many trainings, and the test images of the first."""
    sizes = ", ".join(f"{name} {n}" for name, n in counts[0].items())
    return f"{len(counts)} training{'s' if len(counts) > 1 else ''}, images in the first: {sizes}"


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

    Where some of the trainings alone define a number, it says so: "(2 of 3)".

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
            cells = [_spread(column(measured, network, n), n) for n in names]
        more = [] if beside is None else [beside.get(network, MISSING)]
        rows.append([network, *cells, *more])
    unit = "percent"
    if any(name in IN_DEVIATIONS for name in names):
        unit += "; drops in standard deviations of the score"
    return Table(
        ["network", *names, *([] if beside is None else [head])], rows, f"{title} ({unit})"
    )


def change_table(measured: Measured, title: str, names: Sequence[str] = MEASURES) -> Table:
    """Each network minus the control, with 95% intervals; the title says of which kind.

    Of several trainings they are t intervals over these. Of one, accuracies have a paired bootstrap
    over its test images (see :func:`fastcam.experiments.measures.interval_ends`), the others none.
    """
    trainings, bounded = len(measured[CONTROL]), False
    rows = []
    for network in measured:
        if network in (BEFORE, CONTROL) or without_numbers(measured, network):
            continue
        cells = []
        for name in names:
            values, others = column(measured, network, name), column(measured, CONTROL, name)
            change = Change.of(values, others)
            if trainings == 1:
                low, high = (column(measured, network, end)[0] for end in interval_ends(name))
                change = replace(change, low=low, high=high)
            bounded |= change.low is not None
            cells.append(_change(change, name, trainings))
        rows.append([network, *cells])
    if trainings > 1:
        kind = "95% t interval over trainings"
    elif bounded:
        kind = "one training; accuracies: 95% paired bootstrap interval over its test images"
    else:
        kind = "one training, without intervals"
    return Table(["network", *names], rows, f"{title} ({kind})")


def _scale(name: str) -> tuple[float, int]:
    return (1.0, 2) if name in IN_DEVIATIONS else (100.0, 1)


def _spread(values: Sequence[float | None], name: str) -> str:
    spread = Spread.of(values)
    if spread.mean is None:
        return MISSING
    scale, digits = _scale(name)
    text = number(scale * spread.mean, digits)
    if spread.deviation is not None:
        text += f" ± {number(scale * spread.deviation, digits)}"
    return text + _of(spread.count, len(values))


def _change(change: Change, name: str, trainings: int) -> str:
    if change.mean is None:
        return MISSING
    scale, digits = _scale(name)
    text = number(scale * change.mean, digits, sign=True)
    if change.low is not None and change.high is not None:
        low, high = (number(scale * v, digits, sign=True) for v in (change.low, change.high))
        text += f" ({low} to {high})"
    return text + _of(change.count, trainings)


def _of(count: int, trainings: int) -> str:
    """Beside a mean over fewer trainings than there are, which is no pair of the others."""
    return "" if count == trainings else f" ({count} of {trainings})"
