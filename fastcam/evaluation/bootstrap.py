"""Confidence intervals of a mean over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcam._util import checks as check


def bootstrap_interval(
    values: np.ndarray | Sequence[float],
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` [N].

    For a comparison of two classifiers give the differences, image by image: that is the paired
    bootstrap. The interval speaks of other images, not of other trainings.

    Raises:
        ValueError: no values, or a level or number of samples out of range.
    """
    data = np.asarray(values, np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError(f"values: expected [N] with N >= 1, got shape {list(data.shape)}")
    return percentiles(bootstrap_means(data, samples=samples, seed=seed), level=level)


def gain_interval(gains: np.ndarray) -> tuple[float, float]:
    """95% interval of the mean of ``gains`` [N], N >= 1: of each image -1, 0 or 1.

    The paired bootstrap; where all images gain the same, of which every resample is the same, too,
    that of Bonett and Price, which counts one more image of each kind that differs (with 20 images
    none of which differs, still ±13 points); of one image -1 to 1.

    Source:
        Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial
        Proportions Based on Paired Data".
    """
    count = len(gains)
    if count < 2:
        return -1.0, 1.0
    if (gains != gains[0]).any():
        return bootstrap_interval(gains)
    up, down = (((gains == sign).sum() + 1) / (count + 2) for sign in (1, -1))
    reach = 1.96 * ((up + down - (up - down) ** 2) / (count + 2)) ** 0.5
    return max(float(up - down - reach), -1.0), min(float(up - down + reach), 1.0)


def bootstrap_means(values: np.ndarray, *, samples: int = 2000, seed: int = 0) -> np.ndarray:
    """Means over images drawn with replacement: [samples, ...] from ``values`` [N, ...], N >= 1.

    Columns are drawn together: a function of their means has its paired bootstrap from the rows.

    Raises:
        ValueError: a number of samples below 1.
    """
    check.at_least("samples", samples, 1)
    rng = np.random.default_rng(seed)
    # One sample at a time: all at once would take samples × N indices.
    draws = [values[rng.integers(0, len(values), len(values))].mean(0) for _ in range(samples)]
    return np.stack(draws)


def percentiles(draws: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of bootstrap draws [samples].

    Raises:
        ValueError: a level outside (0, 1).
    """
    check.fraction("level", level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
