"""Numbers of one network from what was judged, and their mean and spread over trainings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastcam.data.labelled import attribute_index
from fastcam.evaluation import Predictions, Reliance, summarize
from fastcam.evaluation.difference import accuracy_differences
from fastcam.evaluation.given import judged_right
from fastcam.evaluation.metrics import auc
from fastcam.evaluation.operating_point import equal_specificity
from fastcam.evaluation.scores import subset_rows
from fastcam.evaluation.verdicts import RELIED
from fastcam.experiments.arms import CONTROL
from fastcam.experiments.judge import ALTERED, Judged
from fastcam.experiments.settings import Pair

#: Areas under the ROC curve of the changed images: their accuracies read a threshold, too.
ALTERED_AUC = tuple(f"AUC {name}" for name in ALTERED)
#: What is measured, in the order of the tables.
MEASURES = (
    "test",
    "E1",
    "E2",
    "not a",
    "not a, b",
    "worst group",
    "E2 at equal not a",
    "AUC within b",
    "AUC within not b",
    "average precision",
    "mean accuracy",
    *ALTERED,
    *ALTERED_AUC,
    "energy",
    "IoU",
    "relies on region",
    "drop region",
    "drop elsewhere",
)
#: Not shares, and so not in percent.
IN_DEVIATIONS = ("drop region", "drop elsewhere")
# Accuracies, by the subsets that they are of.
_ACCURACIES = {"all": "test", **{name: name for name in ("E1", "E2", "not a", "not a, b")}}


def measure(
    judged: Judged, control: Judged, pair: Pair, attributes: list[str]
) -> dict[str, float | None]:
    """The numbers of one network; None for one that is not defined.

    Besides those of ``MEASURES`` there are, of accuracies, the ends of an interval of the
    difference from the control, see :func:`interval_ends`.

    Args:
        judged: the network.
        control: what these and "E2 at equal not a" refer to, see
            :func:`fastcam.evaluation.operating_point.equal_specificity`.
        pair: the attributes.
        attributes: names of the logits.
    """
    p = judged.predictions
    names: dict[str, Any] = {"attribute": pair.attribute, "other": pair.other}
    e = summarize(p, attributes, region=pair.region, **names)
    at_equal = equal_specificity(p, control.predictions, attributes, name="control", **names)
    present = p.labels[:, attribute_index(attributes, pair.attribute)]
    relied = judged.reliance
    found = {
        **{name: e[subset].accuracy for subset, name in _ACCURACIES.items()},
        "worst group": e.worst_group,
        "E2 at equal not a": None if at_equal is None else at_equal.accuracy,
        "AUC within b": e["b"].auc,
        "AUC within not b": e["not b"].auc,
        "average precision": e.average_precision,
        "mean accuracy": e.mean_accuracy,
        **{n: _accuracy(judged.altered.get(n), present) for n in ALTERED},
        **{f"AUC {n}": _auc(judged.altered.get(n), present) for n in ALTERED},
        "energy": e["a"].energy,
        "IoU": e["a"].iou,
        "relies on region": _relied_share(relied),
        "drop region": relied.hidden[0].drop,
        "drop elsewhere": relied.hidden[2].drop,
    }
    ends = {} if judged is control else _intervals(p, control.predictions, attributes, names)
    return {**{name: found[name] for name in MEASURES}, **ends}


def interval_ends(name: str) -> tuple[str, str]:
    """Names, among the numbers of a network, of the ends of the 95% interval of a measure's
    difference from the control: a paired bootstrap over the test images of one training."""
    return f"{name} minus control, low", f"{name} minus control, high"


def _intervals(
    judged: Predictions, control: Predictions, attributes: list[str], names: Mapping[str, str]
) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for d in accuracy_differences(judged, control, attributes, **names):
        if d.name in _ACCURACIES:
            low, high = interval_ends(_ACCURACIES[d.name])
            found |= {low: d.low, high: d.high}
    return found


def _relied_share(relied: Reliance) -> float | None:
    """None where hiding the region costs nothing, and hiding all but it costs nothing either: the
    share of two drops that are noise says nothing."""
    drops = [hidden.drop or 0.0 for hidden in relied.hidden[:2]]
    return relied.share.value if relied.share is not None and max(drops) >= RELIED else None


def _accuracy(scores: Tensor | None, present: Tensor) -> float | None:
    """Of the first images, of which there are scores."""
    if scores is None:
        return None
    return float(judged_right(scores, present[: len(scores)]).mean())


def _auc(scores: Tensor | None, present: Tensor) -> float | None:
    """The same; None where all have the attribute, or none has."""
    if scores is None:
        return None
    area = float(auc(scores[:, None], present[: len(scores), None]))
    return None if math.isnan(area) else area


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


def _t975(freedom: int) -> float:
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    # Abramowitz and Stegun, 26.7.5.
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**n for n, term in enumerate(terms))


@dataclass(frozen=True)
class Change:
    """A paired difference over trainings.

    Attributes:
        mean: None where no training defined it.
        low, high: its 95% t interval over trainings; None of fewer than two.
        count: how many trainings defined it.
    """

    mean: float | None
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | None], others: Sequence[float | None]) -> Change:
        both = [
            v - o for v, o in zip(values, others, strict=True) if v is not None and o is not None
        ]
        spread = Spread.of(both)
        if spread.mean is None or spread.deviation is None:
            return cls(spread.mean, None, None, spread.count)
        half = _t975(spread.count - 1) * spread.deviation / math.sqrt(spread.count)
        return cls(spread.mean, spread.mean - half, spread.mean + half, spread.count)


def collect(
    into: dict[str, list[Any]],
    rows: Mapping[str, Judged | None],
    pair: Pair,
    attributes: list[str],
    where: str,
) -> Judged:
    """Add the measures of one training's networks by their names; returns the control.

    Raises:
        ValueError: the control diverged; ``where`` names the training.
    """
    control = rows[CONTROL]
    if control is None:
        raise ValueError(f"{where}: the control diverged")
    for name, judged in rows.items():
        found = None if judged is None else measure(judged, control, pair, attributes)
        into.setdefault(name, []).append(found)
    return control


def image_counts(judged: Judged, pair: Pair, attributes: list[str]) -> dict[str, int]:
    """How many test images there are, with and without the pair's attributes."""
    rows = subset_rows(judged.predictions.labels, attributes, pair.attribute, pair.other)
    return {name: len(rows[name]) for name in ("all", "E1", "E2", "not a")}


Measured = Mapping[str, Sequence[Mapping[str, float | None] | None]]
"""For each network the measures of each training, in one order; None where there is none, as of one
that diverged."""


def column(measured: Measured, network: str, name: str) -> list[float | None]:
    """One measure of one network over its trainings."""
    return [None if m is None else m.get(name) for m in measured[network]]


def without_numbers(measured: Measured, network: str) -> bool:
    return all(m is None for m in measured[network])
