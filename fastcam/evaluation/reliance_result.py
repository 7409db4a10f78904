"""What hiding regions showed, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastcam.evaluation.bootstrap import bootstrap_means, percentiles
from fastcam.report.numbers import MISSING, number
from fastcam.report.table import Table


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% bootstrap interval over images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class HiddenRegion:
    """What hiding one region does to the score.

    Attributes:
        name: of the region.
        images: how many images have the attribute and show the region.
        drop: mean of score minus score with the region hidden over those images, in standard
            deviations of the score; above 0 the region speaks for the attribute. None without such
            an image, and where the score is constant, as below.
        low, high: its 95% bootstrap interval over images, of which the standard deviation is
            another for other images, too. None of a single image, which says nothing of others.
        change: mean absolute change over all images that show the region, with and without the
            attribute, in standard deviations.
    """

    name: str
    images: int
    drop: float | None
    low: float | None
    high: float | None
    change: float | None

    @property
    def bar(self) -> tuple[float, float, float] | None:
        """Drop, low and high; None where there is none."""
        if self.drop is None or self.low is None or self.high is None:
            return None
        return self.drop, self.low, self.high

    @classmethod
    def of(cls, name: str, drops: np.ndarray, drawn: np.ndarray, change: float) -> HiddenRegion:
        """From the ``drops`` [n] of the images with the attribute, and their mean in bootstrap
        draws [S]; NaN says undefined."""
        mean = low = high = None
        if len(drops) and np.isfinite(drops).all():
            mean = float(drops.mean())
            drawn = drawn[np.isfinite(drawn)]
            if len(drops) > 1 and len(drawn):
                low, high = percentiles(drawn)
        return cls(name, len(drops), mean, low, high, change if np.isfinite(change) else None)


@dataclass(frozen=True)
class Reliance:
    """What a classifier's score of one attribute relies on.

    Attributes:
        attribute: whose score (logit).
        region: the guided region, or None.
        fill: what was shown in place of what was hidden: ``"mean"``, ``"blur"`` or ``"swap"``.
        images: how many images were measured, with and without the attribute.
        deviation: standard deviation of the score over the images as they are.
        hidden: what hiding each region does; with a guided region the first is that one, and the
            second all but it.
        share: the guided region's share of the reliance, see :func:`relied_share`; None without a
            guided region, and where undefined.
    """

    attribute: str
    region: str | None
    fill: str
    images: int
    deviation: float
    hidden: tuple[HiddenRegion, ...]
    share: Estimate | None = None

    def __getitem__(self, name: str) -> HiddenRegion:
        """The hidden region of that name; KeyError if there is none."""
        for hidden in self.hidden:
            if hidden.name == name:
                return hidden
        raise KeyError(name)

    def table(self) -> Table:
        """One row a hidden region."""
        rows = [[h.name, _drop(h), number(h.change, 2), str(h.images)] for h in self.hidden]
        return Table(
            ["hidden", "drop (95% interval)", "absolute change, all images", "images"],
            rows,
            f"Drop of the score of {self.attribute}, in its standard deviations "
            f"({fill_name(self.fill)})",
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Reliance:
        """The reverse of :meth:`to_json`."""
        share = values["share"]
        hidden = tuple(HiddenRegion(**h) for h in values["hidden"])
        return cls(**{**values, "hidden": hidden, "share": share and Estimate(**share)})


def relied_share(inside: np.ndarray, outside: np.ndarray) -> Estimate | None:
    """Share of the reliance that lies in a region.

    The mean drop when the region is hidden, over the sum of that and the mean drop when all else
    is; a mean below 0 counts as 0. The unit of the drops does not matter.

    Args:
        inside, outside: drops [n] of the same images when the region and all but it are hidden.

    Returns:
        The share in [0, 1] with the paired bootstrap interval over images (of one image, which says
        nothing of others, 0 to 1); None without an image, and where neither mean is above 0.
    """

    pairs = np.stack([inside, outside], 1)
    if not len(pairs):
        return None
    value = shares(pairs.mean(0, keepdims=True))[0]
    drawn = shares(bootstrap_means(pairs))
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(drawn):
        return None
    return Estimate(float(value), *(percentiles(drawn) if len(pairs) > 1 else (0.0, 1.0)))


def shares(means: np.ndarray) -> np.ndarray:
    """The share [S] of mean drops inside and outside [S, 2]; NaN where neither is above 0."""
    kept = means.clip(min=0)
    total = kept.sum(1)
    return np.divide(kept[:, 0], total, out=np.full(len(means), np.nan), where=total > 0)


def fill_name(fill: str) -> str:
    """What is shown in place of what is hidden, in words."""
    words = {"mean": "the mean colour", "blur": "a blur", "swap": "another image"}
    return f"{words[fill]} in its place"


def reliance_table(models: Mapping[str, Reliance]) -> Table:
    """One column a model, one row a hidden region: its drop, with the interval.

    Raises:
        ValueError: no model, or models of which other things were measured.
    """
    if not models:
        raise ValueError("there is no reliance to tabulate")
    first = next(iter(models.values()))
    what = {
        (r.attribute, r.region, r.fill, tuple(h.name for h in r.hidden)) for r in models.values()
    }
    if len(what) > 1:
        raise ValueError(
            f"reliance on different things cannot be compared: {sorted(map(str, what))}"
        )
    rows = [
        [
            f"{name} hidden (n = {_counts([r[name].images for r in models.values()])})",
            *(_drop(r[name]) for r in models.values()),
        ]
        for name in (h.name for h in first.hidden)
    ]
    if first.region is not None:
        rows.insert(0, [f"share of the reliance in {first.region}", *map(_share, models.values())])
    title = (
        f"Drop of the score of {first.attribute} in its standard deviations "
        f"({fill_name(first.fill)}; 95% intervals; {first.images} images)"
    )
    return Table(["", *models], rows, title)


def _counts(images: Sequence[int]) -> str:
    """One number, or that of each model: what is cut off for one may be seen by another."""
    return ", ".join(map(str, images if len(set(images)) > 1 else images[:1]))


def _drop(hidden: HiddenRegion) -> str:
    return number(hidden.drop, 2) if hidden.bar is None else _cell(hidden.bar)


def _share(reliance: Reliance) -> str:
    share = reliance.share
    return _cell(None if share is None else (share.value, share.low, share.high))


def _cell(bar: tuple[float, float, float] | None) -> str:
    if bar is None:
        return MISSING
    value, low, high = (number(x, 2) for x in bar)
    return f"{value} ({low} to {high})"
