"""Numbers of one network from what was judged, and their mean and spread over trainings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastcam.data.celeba import attribute_index
from fastcam.evaluation.metrics import average_precision, judged_right, mean_accuracy
from fastcam.evaluation.scores import subset_rows
from fastcam.experiments.judge import ALTERED, Judged
from fastcam.experiments.settings import Pair

#: What is measured, in the order of the tables.
MEASURES = (
    "test",
    "E1",
    "E2",
    "not a",
    "E2 at equal not a",
    "mean accuracy",
    "average precision",
    *ALTERED,
    "energy",
    "IoU",
    "relies on region",
    "drop region",
    "drop elsewhere",
)
#: Not shares, and so not in percent.
IN_DEVIATIONS = ("drop region", "drop elsewhere")


def measure(
    judged: Judged, control: Judged, pair: Pair, attributes: list[str]
) -> dict[str, float | None]:
    """The numbers of one network; None for one that is not defined.

    Args:
        judged: the network.
        control: what "E2 at equal not a" refers to: the threshold is moved until images without
            the attribute are judged right as often as there.
        pair: the attributes.
        attributes: names of the logits.
    """
    p = judged.predictions
    a = attribute_index(attributes, pair.attribute)
    rows = subset_rows(p.labels, attributes, pair.attribute, pair.other)
    right = judged_right(p.logits[:, a], p.labels[:, a])
    found: dict[str, float | None] = {
        name: _mean(right[rows[key]])
        for name, key in {"test": "all", "E1": "E1", "E2": "E2", "not a": "not a"}.items()
    }
    threshold = _equal_threshold(p.logits[rows["not a"], a], control, a, rows["not a"])
    above = (p.logits[rows["E2"], a].double() > threshold).float()
    found["E2 at equal not a"] = _mean(above) if len(rows["not a"]) else None
    found["mean accuracy"] = float(mean_accuracy(p.logits, p.labels))
    column = p.logits[:, a : a + 1], p.labels[:, a : a + 1]
    found["average precision"] = _finite(float(average_precision(*column)))
    for name in ALTERED:
        found[name] = _mean(judged_right(judged.altered[name], p.labels[:, a]))
    if p.energy is not None and p.iou is not None and p.dead is not None and p.visible is not None:
        shown = rows["a"][p.visible[rows["a"]]]
        found["energy"] = _mean(p.energy[shown][~p.dead[shown]])
        found["IoU"] = _mean(p.iou[shown])
    relied = judged.reliance
    found["relies on region"] = None if relied.share is None else relied.share.value
    found["drop region"] = relied.hidden[0].drop
    found["drop elsewhere"] = relied.hidden[2].drop
    return {name: found.get(name) for name in MEASURES}


def _equal_threshold(scores: Tensor, control: Judged, a: int, rows: Tensor) -> float:
    """The threshold at which as many of ``scores`` lie at or below it as the control judges right.

    Those scores and the control's are of the same images, which lack the attribute.
    """
    if not len(scores):
        return 0.0
    right = int((control.predictions.logits[rows, a] <= 0).sum())
    ordered = scores.double().sort().values
    return -math.inf if right == 0 else float(ordered[right - 1])


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if values.numel() else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Spread:
    """A number over trainings.

    Attributes:
        mean: None where no training defined it.
        deviation: standard deviation over trainings (of a sample); None of fewer than two.
        count: how many trainings defined it.
    """

    mean: float | None
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        known = [v for v in values if v is not None]
        if not known:
            return cls(None, None, 0)
        deviation = statistics.stdev(known) if len(known) > 1 else None
        return cls(statistics.fmean(known), deviation, len(known))


# 97.5% quantiles of Student's t with 1, 2, … degrees of freedom.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Change:
    """A paired difference over trainings, with its 95% t interval (None of fewer than two)."""

    mean: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float | None], others: Sequence[float | None]) -> Change:
        both = [
            v - o for v, o in zip(values, others, strict=True) if v is not None and o is not None
        ]
        spread = Spread.of(both)
        if spread.mean is None or spread.deviation is None:
            return cls(spread.mean, None, None)
        freedom = min(spread.count - 1, len(_T975))
        half = _T975[freedom - 1] * spread.deviation / math.sqrt(spread.count)
        return cls(spread.mean, spread.mean - half, spread.mean + half)


Measured = Mapping[str, Sequence[Mapping[str, float | None] | None]]
"""For each network the measures of each training, in one order; None for one that diverged."""


def column(measured: Measured, network: str, name: str) -> list[float | None]:
    """One measure of one network over its trainings."""
    return [None if m is None else m.get(name) for m in measured[network]]


def all_diverged(measured: Measured, network: str) -> bool:
    return all(m is None for m in measured[network])
