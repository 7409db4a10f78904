"""What guidance changed, in one line: the map, the reliance, both, neither, or for the worse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from fastcam.data.labelled import attribute_index
from fastcam.evaluation.bootstrap import bootstrap_means, gain_interval, percentiles
from fastcam.evaluation.drops import RegionDrops, mean_drops
from fastcam.evaluation.given import judged_right
from fastcam.evaluation.predictions import Predictions
from fastcam.evaluation.reliance_result import shares
from fastcam.report import Table
from fastcam.report.numbers import number, percent, points_range

#: The map moved: its energy in the region rose by more than this (all of the interval) and to so
#: many times what it was.
MAP_RISE, MAP_FACTOR = 0.05, 1.5
#: The reliance moved: a share or drop changed by this part of itself, or more, and its interval
#: leaves out 0.
RELIANCE_PART = 0.2
#: ... and a share by this at least; a region whose drop is less than this is not relied on.
SHARE_RISE, RELIED = 0.05, 0.1
#: The network got worse: accuracy or AUC fell by this or more, and the interval lies below 0.
WORSE = 0.01
#: A hidden region of which more than this lies in the guided one is no other region.
APART = 0.25

THRESHOLDS = (
    "The map moved: the share of Grad-CAM energy in the region rose by more than "
    f"{percent(MAP_RISE, 0, unit='')} points (the whole 95% interval) and to {MAP_FACTOR} times "
    "what it was or more (here a dead map counts 0; the table's mean leaves it out). "
    "The reliance moved: the region's share of the reliance rose, or the "
    "score drop of the other region that the reference relies on most fell without that share "
    "falling, each by "
    f"{percent(RELIANCE_PART, 0)} of itself or more and with an interval that leaves out 0 (the "
    f"share by {percent(SHARE_RISE, 0, unit='')} points at least; relied on is a region with a "
    f"drop of {RELIED} standard deviations or more). Worse: "
    f"accuracy or AUC fell by {percent(WORSE, 0, unit='')} point or more, with an interval below 0."
)


@dataclass(frozen=True)
class Change:
    """A measure of two classifiers on the same images.

    Attributes:
        before, after: of the reference and of the other one.
        low, high: 95% interval of after minus before, paired over images. It speaks of other
            images, not of other trainings.
    """

    before: float
    after: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class Verdict:
    """What changed from a reference to a guided classifier; the thresholds are in ``THRESHOLDS``.

    Attributes:
        reference, guided: names of the two.
        region: the guided region.
        energy: share of Grad-CAM energy in it, over the images with the attribute that show it; a
            dead map counts 0. None where there are fewer than two such images, as below.
        share: the region's share of the reliance, see
            :func:`fastcam.evaluation.reliance_result.relied_share`; None if it was not measured or
            is undefined, as below.
        other: the drop when the one other region is hidden that the reference relies on most: it is
            chosen on every second image and measured on the rest, so that being chosen for a large
            drop does not make it fall.
        other_region: its name.
        accuracy: of the attribute, over all images; its interval is that of
            :func:`fastcam.evaluation.bootstrap.gain_interval`.
        auc: of the attribute's score, over all images.
    """

    reference: str
    guided: str
    region: str
    energy: Change | None
    share: Change | None
    other: Change | None
    other_region: str | None
    accuracy: Change
    auc: Change | None

    @property
    def map_moved(self) -> bool:
        """Whether the map moved into the region."""
        e = self.energy
        return e is not None and e.low > MAP_RISE and e.after >= MAP_FACTOR * e.before

    @property
    def reliance_moved(self) -> bool | None:
        """Whether the reliance moved to the region, or away from the one that misled; None if it
        was not measured, or no region that was hidden raised the score."""
        share, other = self.share, self.other
        if share is None and other is None:
            return None
        if share is not None and share.high < 0:
            return False
        rose = share is not None and share.difference >= SHARE_RISE and _changed(share, +1)
        return rose or (other is not None and _changed(other, -1))

    @property
    def worse(self) -> bool:
        """Whether the network got worse."""
        measures = [self.accuracy] if self.auc is None else [self.accuracy, self.auc]
        return any(m.high < 0 and m.difference <= -WORSE for m in measures)

    @property
    def words(self) -> str:
        """The verdict, in words."""
        said = {True: "moved", False: "did not move", None: "is not known"}
        if self.energy is None or self.reliance_moved is None:
            map_moved = None if self.energy is None else self.map_moved
            moved = f"the map {said[map_moved]}, the reliance {said[self.reliance_moved]}"
        else:
            moved = {
                (True, True): "the map moved and the reliance moved",
                (True, False): "the map moved, the reliance did not",
                (False, True): "the reliance moved, the map did not",
                (False, False): "nothing moved",
            }[self.map_moved, self.reliance_moved]
        return f"the network got worse ({moved})" if self.worse else moved

    @property
    def evidence(self) -> str:
        """The numbers and intervals that the words rest on."""
        parts = [
            _shown(f"energy in {self.region}", self.energy, percent, points_range, " points"),
            _shown(f"share of the reliance in {self.region}", self.share, _two, _range, ""),
            # Chosen on the other half, so that it is not the drop of all that a table has.
            _shown(
                f"drop with {self.other_region} hidden, of every second image",
                self.other,
                _two,
                _range,
                "",
            ),
            _shown("accuracy", self.accuracy, percent, points_range, " points"),
            _shown("AUC", self.auc, percent, points_range, " points"),
        ]
        return "; ".join(part for part in parts if part)

    def __str__(self) -> str:
        return f"{self.guided} against {self.reference}: {self.words}. {self.evidence}."

    def to_json(self) -> dict[str, Any]:
        """As JSON values, the words among them."""
        return {**dataclasses.asdict(self), "words": self.words}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Verdict:
        """The reverse of :meth:`to_json`."""
        changes = ("energy", "share", "other", "accuracy", "auc")
        made = {k: values[k] and Change(**values[k]) for k in changes}
        return cls(**{k: v for k, v in values.items() if k != "words"} | made)


def _changed(change: Change, sign: int) -> bool:
    end = change.low if sign > 0 else change.high
    enough = sign * change.difference >= RELIANCE_PART * abs(change.before)
    return sign * end > 0 and enough


def _two(value: float) -> str:
    return number(value, 2)


def _range(low: float, high: float) -> str:
    return f"{number(low, 2, sign=True)} to {number(high, 2, sign=True)}"


def _shown(
    name: str,
    change: Change | None,
    value: Callable[[float], str],
    interval: Callable[[float, float], str],
    unit: str,
) -> str:
    if change is None:
        return ""
    ends = interval(change.low, change.high)
    return f"{name} {value(change.before)} → {value(change.after)} ({ends}{unit})"


def verdict(
    reference: Predictions,
    guided: Predictions,
    attributes: list[str],
    *,
    attribute: str,
    region: str,
    drops: tuple[RegionDrops, RegionDrops] | None = None,
    names: tuple[str, str] = ("control", "guided"),
) -> Verdict:
    """Say what changed from one classifier to another.

    Args:
        reference, guided: their predictions of the same images, with the maps in ``region``.
        attributes: names of the logits.
        attribute: whose map and score are meant.
        region: the guided region.
        drops: of both, on the same images; None leaves the reliance out.
        names: of both.

    Raises:
        ValueError: predictions or drops of different images, predictions without maps, or drops of
            another attribute, region or fill.
    """
    if not reference.labels.equal(guided.labels):
        raise ValueError("reference and guided: expected predictions of the same images")
    a = attribute_index(attributes, attribute)
    labels = reference.labels[:, a]
    right = [judged_right(p.logits[:, a], labels).double().numpy() for p in (reference, guided)]
    share = other = other_region = None
    if drops is not None:
        _check_alike(*drops, attribute, region)
        share = _share_change(*drops)
        other_region, other = _other_change(*drops)
    ends = gain_interval(right[1] - right[0])
    accuracy = Change(float(right[0].mean()), float(right[1].mean()), *ends)
    return Verdict(
        *names,
        region=region,
        energy=_energy_change(reference, guided, labels > 0.5),
        share=share,
        other=other,
        other_region=other_region,
        accuracy=accuracy,
        auc=auc_change(reference.ranking[:, a], guided.ranking[:, a], labels),
    )


def _energy_change(first: Predictions, second: Predictions, present: Tensor) -> Change | None:
    """Over the images that show the region to both, whose inputs may be cut differently."""
    energies = []
    for p in (first, second):
        if p.energy is None or p.visible is None:
            raise ValueError("predictions: expected them with the maps in a region, got none")
        present = present & p.visible
        energies.append(p.energy.nan_to_num(0).double())
    return _mean_change(*(energy[present].numpy() for energy in energies))


def _check_alike(first: RegionDrops, second: RegionDrops, attribute: str, region: str) -> None:
    kinds = [(d.attribute, d.region, d.fill, d.names) for d in (first, second)]
    if kinds[0] != kinds[1] or kinds[0][:2] != (attribute, region):
        raise ValueError(
            f"drops: expected the same two of {attribute} with region {region}, got {kinds}"
        )
    if not first.present.equal(second.present):
        raise ValueError("drops: expected those of the same images")


def _change(columns: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]) -> Change | None:
    """Change of a measure of the means of the ``columns`` [n, C]; None with fewer than two images,
    for which there is no interval: resampled, one is always the same.

    ``measure`` takes means [samples, C] and gives [samples, 2], before and after.
    """
    if len(columns) < 2 or not np.isfinite(columns).all():
        return None
    before, after = measure(columns.mean(0, keepdims=True))[0]
    drawn = np.diff(measure(bootstrap_means(columns)))[:, 0]
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite([before, after]).all() or not len(drawn):
        return None
    return Change(float(before), float(after), *percentiles(drawn))


def _mean_change(before: np.ndarray, after: np.ndarray) -> Change | None:
    return _change(np.stack([before, after], 1).astype(np.float64), lambda means: means)


def _counted(first: RegionDrops, second: RegionDrops, name: str) -> Tensor:
    """Images with the attribute that show the region to both: bool [N]."""
    return first.counted(name) & second.counted(name)


def _share_change(first: RegionDrops, second: RegionDrops) -> Change | None:
    counted = _counted(first, second, first.names[0])
    pairs = [d.in_deviations()[:2, counted].T.numpy() for d in (first, second)]
    return _change(
        np.concatenate(pairs, 1),
        lambda means: np.stack([shares(means[:, :2]), shares(means[:, 2:])], 1),
    )


def _other_change(first: RegionDrops, second: RegionDrops) -> tuple[str | None, Change | None]:
    """Name and change of the other region that the first classifier relies on most."""
    before = first.in_deviations()
    largest, chosen = RELIED, None
    for name in first.names[2:]:
        row = first.index(name)
        half = before[row, _counted(first, second, name)][::2]
        if first.inside[row] <= APART and len(half) and float(half.mean()) > largest:
            largest, chosen = float(half.mean()), name
    if chosen is None:
        return None, None
    row, rest = first.index(chosen), _counted(first, second, chosen)
    rest[rest.nonzero()[::2]] = False
    if int(rest.sum()) < 2:  # as in _change
        return None, None
    columns = [
        replace(d, names=(chosen,), drops=d.drops[row, None], visible=rest[None]).columns()
        for d in (first, second)
    ]
    change = _change(
        np.concatenate(columns, 1),
        lambda means: np.concatenate([mean_drops(half) for half in np.split(means, 2, 1)], 1),
    )
    if change is None or change.before < RELIED:
        return None, None
    return chosen, change


def auc_change(before: Tensor, after: Tensor, labels: Tensor) -> Change | None:
    """Area under the ROC curve of two scores [N] of the same images.

    None with fewer than two images of a kind, for which there is no interval.

    Source:
        DeLong et al., "Comparing the Areas under Two or More Correlated Receiver Operating
        Characteristic Curves": the variance from each image's share of images of the other kind
        that it is ranked right against.
    """
    present = (labels > 0.5).numpy()
    if min(present.sum(), (~present).sum()) < 2:
        return None
    parts = [_ranked_right(s.double().numpy(), present) for s in (before, after)]
    before_area, after_area = (float(with_it.mean()) for with_it, _ in parts)
    changes = [second - first for first, second in zip(*parts, strict=True)]
    reach = 1.96 * sum(float(x.var(ddof=1)) / len(x) for x in changes) ** 0.5
    gain = after_area - before_area
    return Change(before_area, after_area, gain - reach, gain + reach)


def _ranked_right(scores: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image with and without: the share of the other kind on its right side."""

    def below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        ordered = np.sort(others)
        sides = [np.searchsorted(ordered, values, side) for side in ("left", "right")]
        return (sides[0] + sides[1]) / (2 * len(others))

    with_it, without = scores[present], scores[~present]
    return below(with_it, without), 1 - below(without, with_it)


def as_markdown(verdicts: Sequence[Verdict], tables: Sequence[Table]) -> str:
    """Verdicts, what their words mean, and the tables that they are of."""
    words = [f"{verdict}\n" for verdict in verdicts]
    meaning = [f"{THRESHOLDS}\n"] if words else []
    return "\n".join([*words, *meaning, *(table.to_markdown() for table in tables)])
