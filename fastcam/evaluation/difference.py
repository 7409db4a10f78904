"""Differences of accuracy between two classifiers on the same images, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastcam.data.labelled import attribute_index
from fastcam.evaluation.bootstrap import gain_interval
from fastcam.evaluation.given import judged_right
from fastcam.evaluation.predictions import Predictions
from fastcam.evaluation.scores import subset_names, subset_rows
from fastcam.report.numbers import MISSING, points, points_range
from fastcam.report.table import Table


@dataclass(frozen=True)
class Difference:
    """Accuracy of one classifier minus that of another on one subset of the images.

    Attributes:
        name: of the subset, see :class:`fastcam.evaluation.SubsetScore`.
        images: how many images it holds.
        mean: the difference; None for an empty subset, as below.
        low, high: its 95% interval by the paired bootstrap over images, see
            :func:`fastcam.evaluation.bootstrap.gain_interval`. It speaks of other images, not of
            other trainings.
    """

    name: str
    images: int
    mean: float | None
    low: float | None
    high: float | None


def accuracy_differences(
    first: Predictions,
    second: Predictions,
    attributes: list[str],
    *,
    attribute: str,
    other: str | None = None,
) -> tuple[Difference, ...]:
    """``first`` minus ``second``, on the subsets of Yang et al..

    Args:
        first, second: two classifiers' predictions of the same images, in the same order.
        attributes: names of the logits.
        attribute, other: a and b. Without b there are no E1 and E2.

    Raises:
        ValueError: the predictions are of other images, or an unknown attribute.
    """
    if first.labels.shape != second.labels.shape or not first.labels.equal(second.labels):
        raise ValueError("first and second: expected predictions of the same images")
    a = attribute_index(attributes, attribute)
    right = [judged_right(p.logits[:, a], p.labels[:, a]) for p in (first, second)]
    gain = right[0] - right[1]
    found = []
    for name, rows in subset_rows(first.labels, attributes, attribute, other).items():
        if len(rows):
            interval = gain_interval(gain[rows].numpy())
            found.append(Difference(name, len(rows), float(gain[rows].mean()), *interval))
        else:
            found.append(Difference(name, 0, None, None, None))
    return tuple(found)


def difference_table(
    differences: Mapping[str, Sequence[Difference]], *, attribute: str, other: str | None = None
) -> Table:
    """One column a comparison, one row a subset; in percentage points, with 95% intervals."""
    meaning = subset_names(attribute, other)
    rows = [
        [f"accuracy of {attribute}, {meaning[row[0].name]} (n = {row[0].images})", *map(_cell, row)]
        for row in zip(*differences.values(), strict=True)
    ]
    return Table(["percentage points (95% interval)", *differences], rows)


def _cell(d: Difference) -> str:
    if d.mean is None or d.low is None or d.high is None:
        return MISSING
    return f"{points(d.mean, 1)} ({points_range(d.low, d.high, 1)})"
