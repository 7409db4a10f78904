"""Classifiers compared where they say "no" equally well: a gain is then not a moved threshold."""

from __future__ import annotations

import math

from torch import Tensor

from fastcam.data.labelled import attribute_index
from fastcam.evaluation.predictions import Predictions
from fastcam.evaluation.result import EqualSpecificity
from fastcam.evaluation.scores import subset_rows


def equal_specificity(
    predictions: Predictions,
    reference: Predictions,
    attributes: list[str],
    *,
    attribute: str,
    other: str,
    name: str,
) -> EqualSpecificity | None:
    """E2 with the threshold moved until ¬a is right as often as it is with the reference.

    Args:
        predictions, reference: two classifiers' predictions of the same images.
        attributes: names of the logits.
        attribute, other: a and b; E2 = a∩¬b.
        name: of the reference.

    Returns:
        The accuracy there. With the reference itself, that is its E2 at threshold 0. None without
        an image of ¬a.
    """
    a = attribute_index(attributes, attribute)
    rows = subset_rows(reference.labels, attributes, attribute, other)
    if not len(rows["not a"]):
        return None
    right = int((reference.logits[rows["not a"], a] <= 0).sum())
    threshold = threshold_for(predictions.logits[rows["not a"], a], right)
    wanted = predictions.logits[rows["E2"], a].double()
    accuracy = float((wanted > threshold).double().mean()) if len(wanted) else None
    return EqualSpecificity(name, threshold, accuracy)


def threshold_for(scores: Tensor, below: int) -> float:
    """The threshold nearest to 0 with ``below`` of the ``scores`` [N] at or under it.

    Where equal scores make that impossible, it is the least with more at or under it.
    """
    ordered = scores.double().sort().values
    low = float(ordered[below - 1]) if below > 0 else -math.inf
    high = float(ordered[below]) if below < len(ordered) else math.inf
    if low <= 0 < high:
        return 0.0
    return low if low > 0 or low == high else math.nextafter(high, -math.inf)
