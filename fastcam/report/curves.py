"""Training curves from run histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastcam.report.figure import COLORS, literal, new_figure

Record = Mapping[str, float]

#: Panel title, metrics in it (first: solid line; second: dots), and whether it is a share.
_PANELS = (
    ("attribute loss (BCE)", ("train/loss_a", "valid/loss"), False),
    ("accuracy, validation", ("valid/accuracy", "valid/accuracy_target"), True),
    ("Grad-CAM loss", ("train/loss_g",), False),
    ("energy in the region, validation", ("valid/energy",), True),
    ("dead maps", ("train/dead", "valid/dead"), True),
    ("gradient norm, sharpness", ("train/grad_norm", "train/sharpness"), False),
)
_NAMES = {
    "train/loss_a": "training", "valid/loss": "validation", "valid/accuracy": "all attributes",
    "valid/accuracy_target": "guided attribute", "train/dead": "training",
    "valid/dead": "validation", "train/grad_norm": "gradient norm", "train/sharpness": "sharpness",
}  # fmt: skip


def curves_figure(histories: Mapping[str, Sequence[Record]], title: str = "") -> Figure:
    """One line a run in a panel for each metric that any run logged, against the step.

    Args:
        histories: by run, records as :func:`fastcam.training.history.read_history` gives them.
        title: stands above the figure.

    Raises:
        ValueError: no run logged anything.
    """
    logged = {key for records in histories.values() for record in records for key in record}
    panels = [p for p in _PANELS if logged.intersection(p[1])]
    if not panels:
        raise ValueError("there is no metric to draw")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.6 * columns, 2.6 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, metrics, share) in zip(axes, panels, strict=False):
        for color, (run, records) in zip(cycle(COLORS), histories.items(), strict=False):
            for metric, style in zip(metrics, ("-", "o--"), strict=False):
                _line(axis, records, metric, style, color, run, len(metrics) > 1)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        if share:
            axis.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g}%")
        if "train/grad_norm" in metrics:
            axis.set_yscale("log")
        axis.legend(fontsize=7, frameon=False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    if title:
        figure.suptitle(literal(title), fontsize=12)
    return figure


def _line(
    axis: Axes,
    records: Sequence[Record],
    metric: str,
    style: str,
    color: str,
    run: str,
    several: bool,
) -> None:
    points = [(r["step"], r[metric]) for r in records if metric in r]
    if not points:
        return
    x, y = zip(*points, strict=True)
    label = literal(f"{run}, {_NAMES[metric]}" if several else run)
    sparse = "o-" if len(points) < 8 and style == "-" else style
    axis.plot(x, y, sparse, color=color, lw=1.2, ms=3.5, label=label)
