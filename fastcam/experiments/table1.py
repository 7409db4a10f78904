"""Yang et al., Table 1, with controls, other losses and what the networks rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from fastcam.experiments.arms import BEFORE, Arm, table1_arms
from fastcam.experiments.measures import Measured, collect, image_counts
from fastcam.experiments.settings import LIPSTICK, Pair
from fastcam.experiments.study import Study
from fastcam.experiments.tables import change_table, network_table, trainings
from fastcam.models import load_checkpoint
from fastcam.report import Table
from fastcam.report.figure import COLORS, new_figure
from fastcam.report.numbers import MISSING

#: What is quoted beside the networks, in this order.
_QUOTED = ("test", "E1", "E2", "sunglasses")
#: Yang et al., section 3: what their Table 1 leaves out, in percent.
_SECTION_3: Mapping[Pair, Mapping[str, Mapping[str, float]]] = {
    LIPSTICK: {
        BEFORE: {"sunglasses": 83.53},
        "iou": {"sunglasses": 86.61},
        "N_o": {"test": 56.88},
        "N_w": {"test": 93.14},
    }
}


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
            title = f"{pair.attribute}: minus the control, points"
            found += [self._networks(pair), change_table(self.measured[pair.slug], title)]
        return found

    def _networks(self, pair: Pair) -> Table:
        title = (
            f"{pair.attribute} & {pair.other}, toward the {pair.region}; "
            f"{trainings(self.counts[pair.slug])}"
        )
        quoted = self._quoted(pair)
        names = [n for n in _QUOTED if any(n in values for values in quoted.values())]
        beside = {
            network: ", ".join(f"{values[n]:.2f}" if n in values else MISSING for n in names)
            for network, values in quoted.items()
        }
        head = f"Yang et al., with their weights, not balanced: {', '.join(names)}"
        return network_table(self.measured[pair.slug], title, beside=beside or None, head=head)

    def _quoted(self, pair: Pair) -> dict[str, dict[str, float]]:
        """What the paper says, by network; of the IoU loss beside the weights as printed, too."""
        found = {n: dict(zip(_QUOTED, v, strict=False)) for n, v in pair.quoted.items()}
        for network, values in _SECTION_3.get(pair, {}).items():
            found[network] = {**found.get(network, {}), **values}
        if "iou" in found:
            found |= {a.name: found["iou"] for a in self.arms[pair.slug] if "w_g" in a.guidance}
        return found

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
                        arm.name: {
                            "guidance": dict(arm.guidance),
                            "train": dict(arm.train),
                            "note": arm.note,
                        }
                        for arm in self.arms[pair.slug]
                    },
                    "images": self.counts[pair.slug],
                    "quoted from Yang et al.": self._quoted(pair),
                }
                for pair in self.pairs
            }
        }

    def figure(self) -> Figure:
        """For each pair: share of the reliance in the region, against energy of the map there."""
        figure = new_figure(5.2 * len(self.pairs), 4.2)
        axes = figure.subplots(1, len(self.pairs), squeeze=False)[0]
        shown: dict[int, Any] = {}  # by the network's place, which has its marker in every plot
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
                    marker, color = "osD^vPX*<>hd"[index % 12], COLORS[index % len(COLORS)]
                    (shown[index],) = axis.plot(
                        [100 * v for v in x], [100 * v for v in y], marker, color=color, ms=7,
                        label=network.partition(", w_g")[0] + ", as printed" * (", w_g" in network),
                    )  # fmt: skip
            if not axis.lines:
                text = "no network's score drops\nwhen the region is hidden, or all but it"
                axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
            axis.set_title(f"{pair.attribute}: {pair.region}", fontsize=10)
            axis.set_xlabel(f"Grad-CAM energy in the {pair.region}, %")
            axis.set_ylabel("share of the reliance that lies there, %")
            axis.grid(alpha=0.3)
        handles = [shown[index] for index in sorted(shown)]
        if handles:
            axes[-1].legend(
                handles=handles, fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5)
            )
        return figure


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
            table = measured.setdefault(pair.slug, {})
            control = collect(table, rows, pair, attributes, f"seed {seed}, {pair.attribute}")
            counts.setdefault(pair.slug, []).append(image_counts(control, pair, attributes))
    return Table1(study.pairs, measured, arms, counts)
