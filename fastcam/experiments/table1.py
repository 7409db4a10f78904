"""Yang et al., Table 1, with controls, other losses and what the networks rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from fastcam.experiments.arms import BEFORE, CONTROL, Arm, table1_arms
from fastcam.experiments.measures import (
    IN_DEVIATIONS,
    MEASURES,
    Change,
    Measured,
    Spread,
    all_diverged,
    column,
    measure,
)
from fastcam.experiments.settings import Pair
from fastcam.experiments.study import Study
from fastcam.models import load_checkpoint
from fastcam.report import Table
from fastcam.report.figure import new_figure
from fastcam.report.numbers import MISSING, number

#: Of the paper's columns.
QUOTED = ("test", "E1", "E2")


@dataclass(frozen=True)
class Table1:
    """The networks of each pair, measured in each training.

    Attributes:
        measured: by pair, then network.
        arms: by pair, how the networks were fine-tuned.
        counts: by pair, the number of test images in E1, E2 and without the attribute, by training.
    """

    pairs: tuple[Pair, ...]
    measured: Mapping[str, Measured]
    arms: Mapping[str, list[Arm]]
    counts: Mapping[str, list[dict[str, int]]]

    def tables(self) -> list[Table]:
        """For each pair: the networks, and each minus its control."""
        found = []
        for pair in self.pairs:
            found += [self._networks(pair), self._changes(pair)]
        return found

    def _networks(self, pair: Pair) -> Table:
        measured = self.measured[pair.slug]
        header = ["network", *MEASURES, "Yang et al.: test, E1, E2"]
        rows = []
        for network in measured:
            quoted = pair.quoted.get(network)
            paper = MISSING if quoted is None else ", ".join(f"{v:.2f}" for v in quoted)
            if all_diverged(measured, network):
                cells = ["diverged"] * len(MEASURES)
            else:
                cells = [
                    _spread(Spread.of(column(measured, network, name)), name) for name in MEASURES
                ]
            rows.append([network, *cells, paper])
        n = self.counts[pair.slug][0]
        sizes = ", ".join(f"{name} {count}" for name, count in n.items())
        seeds = len(self.counts[pair.slug])
        title = (
            f"{pair.attribute} & {pair.other}, toward the {pair.region} "
            f"({seeds} training{'s' if seeds > 1 else ''}; images in the first: {sizes}); percent, "
            "drops in standard deviations of the score"
        )
        return Table(header, rows, title)

    def _changes(self, pair: Pair) -> Table:
        measured = self.measured[pair.slug]
        rows = []
        for network in measured:
            if network in (BEFORE, CONTROL) or all_diverged(measured, network):
                continue
            cells = [
                _change(
                    Change.of(column(measured, network, name), column(measured, CONTROL, name)),
                    name,
                )
                for name in MEASURES
            ]
            rows.append([network, *cells])
        title = f"{pair.attribute}: minus the control, points (95% t interval over trainings)"
        return Table(["network", *MEASURES], rows, title)

    def to_json(self) -> dict[str, Any]:
        """Every number of every training."""
        return {
            "pairs": {
                pair.slug: {
                    "attribute": pair.attribute,
                    "other": pair.other,
                    "region": pair.region,
                    "networks": {
                        name: list(values) for name, values in self.measured[pair.slug].items()
                    },
                    "arms": {
                        arm.name: {"guidance": dict(arm.guidance), "train": dict(arm.train)}
                        for arm in self.arms[pair.slug]
                    },
                    "images": self.counts[pair.slug],
                    "quoted from Yang et al.": {k: list(v) for k, v in pair.quoted.items()},
                }
                for pair in self.pairs
            }
        }

    def figure(self) -> Figure:
        """For each pair: share of the reliance that lies in the region, against accuracy."""
        figure = new_figure(5.2 * len(self.pairs), 4.2)
        axes = figure.subplots(1, len(self.pairs), squeeze=False)[0]
        for axis, pair in zip(axes, self.pairs, strict=True):
            measured = self.measured[pair.slug]
            for index, network in enumerate(measured):
                points = [
                    (m["energy"], m["relies on region"])
                    for m in measured[network]
                    if m is not None
                    and m["energy"] is not None
                    and m["relies on region"] is not None
                ]
                if points:
                    x, y = zip(*points, strict=True)
                    marker = "osD^vPX*<>hd"[index % 12]
                    axis.plot(
                        [100 * v for v in x], [100 * v for v in y], marker, label=network, ms=7
                    )
            axis.set_title(f"{pair.attribute}: {pair.region}", fontsize=10)
            axis.set_xlabel(f"Grad-CAM energy in the {pair.region}, %")
            axis.set_ylabel("share of the reliance that lies there, %")
            axis.grid(alpha=0.3)
        axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
        return figure


def _spread(spread: Spread, name: str) -> str:
    if spread.mean is None:
        return MISSING
    scale, digits = (1.0, 2) if name in IN_DEVIATIONS else (100.0, 1)
    text = number(scale * spread.mean, digits)
    if spread.deviation is not None:
        text += f" ± {number(scale * spread.deviation, digits)}"
    return text


def _change(change: Change, name: str) -> str:
    if change.mean is None:
        return MISSING
    scale, digits = (1.0, 2) if name in IN_DEVIATIONS else (100.0, 1)
    text = number(scale * change.mean, digits, sign=True)
    if change.low is not None and change.high is not None:
        low, high = (number(scale * v, digits, sign=True) for v in (change.low, change.high))
        text += f" ({low} to {high})"
    return text


def table1(study: Study) -> Table1:
    """Train and judge every network of Table 1."""
    measured: dict[str, dict[str, list[Any]]] = {}
    counts: dict[str, list[dict[str, int]]] = {}
    arms = {pair.slug: table1_arms(pair) for pair in study.pairs}
    for seed in range(study.config.seeds):
        start = study.base(seed)
        attributes = load_checkpoint(start).attributes
        for pair in study.pairs:
            rows = study.rows(seed, pair, arms[pair.slug], start)
            control = rows[CONTROL]
            if control is None:
                raise ValueError(f"seed {seed}: the control of {pair.attribute} diverged")
            table = measured.setdefault(pair.slug, {})
            for name, judged in rows.items():
                found = None if judged is None else measure(judged, control, pair, attributes)
                table.setdefault(name, []).append(found)
            counts.setdefault(pair.slug, []).append(_counts(control, pair, attributes))
    return Table1(study.pairs, measured, arms, counts)


def _counts(judged: Any, pair: Pair, attributes: list[str]) -> dict[str, int]:
    from fastcam.evaluation.scores import subset_rows

    rows = subset_rows(judged.predictions.labels, attributes, pair.attribute, pair.other)
    return {name: len(rows[name]) for name in ("all", "E1", "E2", "not a")}
