"""Randomness as a function of what is drawn, not of when: a seed of many parts, draws of items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def derive_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every part (integers ≥ 0) and on their order."""
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def uniforms(seed: int, items: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Draws of many items at once, each a function of the seed and the item alone.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, Figure 16), started anew for each item.

    Args:
        seed: at least 0.
        items: integers [N].
        count: draws of each.

    Returns:
        float64 [N, count], uniform in [0, 1).
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    start = _mixed(_mixed(np.asarray(items).astype(np.uint64) + step) + np.uint64(seed))
    states = start[:, None] + step * np.arange(1, count + 1, dtype=np.uint64)
    return (_mixed(states) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result depends on every bit of ``x``; one to one."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
