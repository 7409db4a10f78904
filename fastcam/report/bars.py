"""Bars beside each other, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from fastcam.report.figure import COLORS, literal, new_figure

#: A value and the ends of its interval; None where there is none.
Bar = tuple[float, float, float] | None


def bars_figure(
    names: Sequence[str], models: Mapping[str, Sequence[Bar]], label: str, title: str = ""
) -> Figure:
    """One group of horizontal bars a name, from the top, with one bar a model.

    Args:
        names: of the groups.
        models: by model, a bar for each name.
        label: of the values.
        title: stands above the figure.

    Raises:
        ValueError: a model with more or fewer bars than names.
    """
    figure = new_figure(7, 0.6 + (0.13 * len(models) + 0.12) * len(names))
    axis = figure.subplots()
    places = np.arange(len(names), dtype=float)
    height = 0.8 / max(len(models), 1)
    for i, (color, (model, bars)) in enumerate(zip(cycle(COLORS), models.items(), strict=False)):
        values = [bar or (np.nan,) * 3 for bar in bars]
        middle, low, high = np.array(values, float).reshape(-1, 3).T
        if len(middle) != len(names):
            raise ValueError(f"models: expected {len(names)} bars of {model}, got {len(middle)}")
        axis.barh(
            places + (i - (len(models) - 1) / 2) * height, middle, height, label=literal(model),
            color=color, xerr=np.stack([middle - low, high - middle]),
            error_kw={"elinewidth": 0.8, "ecolor": "#444"},
        )  # fmt: skip
    axis.set_yticks(places, [literal(name) for name in names], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="#888", linewidth=0.8)
    axis.set_xlabel(literal(label), fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.25)
    axis.legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(literal(title), fontsize=11)
    return figure
