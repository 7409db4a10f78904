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
    check.fraction("level", level)
    check.at_least("samples", samples, 1)
    rng = np.random.default_rng(seed)
    # One sample at a time: all at once would take samples × N indices.
    means = [data[rng.integers(0, len(data), len(data))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
