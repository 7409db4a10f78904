"""The tone curve g(M; n, β) that transforms masks (Kimura & Tanaka, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from fastcam import functional
from fastcam.report import Table
from fastcam.report.figure import COLORS, new_figure

POINTS = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
#: Kimura & Tanaka, Fig. 3, draw n = 0 and 4 with β from 0 to 1; n = 1 with β = 0 is linear.
PAIRS = ((1.0, 0.0), (0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (4.0, 0.0), (4.0, 0.5), (4.0, 1.0))
STYLES = ("-", "--", ":", "-.")

Pair = tuple[float, float]


def check_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs as floats; ValueError naming one that is no (n, β), both >= 0 and finite."""
    if not pairs:
        raise ValueError("pairs: expected at least one (n, β)")
    checked = []
    for pair in pairs:
        n, beta = map(float, pair)
        if not (0 <= n < float("inf") and 0 <= beta < float("inf")):
            raise ValueError(f"pairs: expected n and β finite and >= 0, got ({n:g}, {beta:g})")
        checked.append((n, beta))
    return checked


def pair_name(pair: Pair) -> str:
    """Such as ``n = 2, β = 0.5``."""
    return f"n = {pair[0]:g}, β = {pair[1]:g}"


def pair_styles(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Line styles, no two alike: a colour for each n, a dash for each β."""
    ns, betas = sorted({n for n, _ in pairs}), sorted({b for _, b in pairs})
    colors: Sequence[Any] = COLORS
    if len(ns) > len(COLORS):
        colors = [colormaps["turbo"](0.05 + 0.9 * i / (len(ns) - 1)) for i in range(len(ns))]
    more = range(2, 2 + max(len(betas) - len(STYLES), 0))
    dashes = [*STYLES, *((0, (6, 1.5, *(1, 1.5) * dots)) for dots in more)]
    return [{"color": colors[ns.index(n)], "ls": dashes[betas.index(b)]} for n, b in pairs]


@dataclass(frozen=True)
class ToneCurves:
    """Curves of g for J pairs (n, β)."""

    pairs: list[Pair]

    def values(self, masks: Sequence[float]) -> list[list[float]]:
        """g at ``masks``, one list for each pair."""
        points = torch.tensor(masks, dtype=torch.float64)
        return [functional.tone_curve(points, n, b).tolist() for n, b in self.pairs]

    def tables(self) -> list[Table]:
        """g at some values of the mask."""
        rows = [
            [pair_name(p), *(f"{v:.3f}" for v in values)]
            for p, values in zip(self.pairs, self.values(POINTS), strict=True)
        ]
        return [Table(["g(M; n, β) at M =", *(f"{m:g}" for m in POINTS)], rows)]

    def figure(self) -> Figure:
        """One line a pair."""
        figure = new_figure(6.4, 4.2)
        axis = figure.subplots()
        masks = torch.linspace(0, 1, 401).tolist()
        curves = zip(self.pairs, self.values(masks), pair_styles(self.pairs), strict=True)
        for pair, values, style in curves:
            axis.plot(masks, values, lw=1.6, label=pair_name(pair), **style)
        axis.set_xlabel("mask M")
        axis.set_ylabel("g(M; n, β)")
        axis.grid(alpha=0.25)
        figure.legend(loc="outside right center", fontsize=8, frameon=False)
        return figure

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        masks = [i / 20 for i in range(21)]
        return {
            "mask": masks,
            "curves": [
                {"n": n, "beta": b, "g": g}
                for (n, b), g in zip(self.pairs, self.values(masks), strict=True)
            ],
        }


def tone_curves(pairs: Sequence[Pair] = PAIRS) -> ToneCurves:
    """Curves of g (Kimura & Tanaka, eq. 7 and 8); no model is needed.

    Args:
        pairs: (n, β), both >= 0.

    Raises:
        ValueError: no pair, or one out of range.
    """
    return ToneCurves(check_pairs(pairs))
