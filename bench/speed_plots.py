"""Plots of the measured results; matplotlib without pyplot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.targets import CAM, Record, slower
from fastcam._util.files import write_atomic

COLOURS = {"fused": "#1b6ca8", "eager": "#c8553d", "compiled": "#e0a458"}


def _families(records: Sequence[Record]) -> dict[str, list[Record]]:
    """cam_iou in float32 over at least three batches, by family."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["name"].startswith("cam_iou"):
            found.setdefault(record["family"], []).append(record)
    return {
        _short(family): sorted(members, key=lambda record: record["batch"])
        for family, members in found.items()
        if len(members) >= 3
    }


def _short(family: str) -> str:
    return family.replace(" T=1 float32 contiguous", "")


def _curves(axes: Axes, records: Sequence[Record], value: Callable[[Record], float]) -> None:
    for family, members in _families(records).items():
        axes.plot([m["batch"] for m in members], [value(m) for m in members], "o-", label=family)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("batch")
    axes.grid(alpha=0.3)


def _bound(axes: Axes, value: float, text: str) -> None:
    axes.axhline(value, color="black", linewidth=1, linestyle="--")
    axes.annotate(
        text, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
    )


def speedup(records: Sequence[Record]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, other, target, title in (
        (left, "eager", 3.0, "eager PyTorch / fused"),
        (right, "compiled", 2.0, "torch.compile / fused"),
    ):
        _curves(axes, records, slower(other, "fused"))
        _bound(axes, target, f"target at batch 256: {target:g}")
        axes.set_ylim(bottom=0)
        axes.set_title(f"cam_iou, forward + backward: {title}", fontsize=10)
    left.set_ylabel("times as long")
    left.legend(fontsize=8)
    return figure


def limit(records: Sequence[Record]) -> Figure:
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    _curves(axes, records, slower("fused", "byte limit"))
    _bound(axes, 1.5, "target at batch 256: 1.5")
    _bound(axes, 1.0, "bytes moved by plain loops")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title("cam_iou, forward + backward: fused / byte limit", fontsize=10)
    axes.set_ylabel("times as long")
    axes.legend(fontsize=8)
    return figure


def memory(records: Sequence[Record]) -> Figure:
    """Peak beyond inputs and gradients, of the largest batch of each family."""
    chosen: dict[str, Record] = {}
    for record in records:
        known = chosen.get(record.get("family", ""))
        if "peaks" not in record or (known and known["batch"] >= record["batch"]):
            continue
        if record["name"] == CAM or not (known and known["name"] == CAM):
            chosen[record["family"]] = record
    figure = Figure(figsize=(8, 0.5 + 0.55 * max(1, len(chosen))), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(COLOURS):
        axes.barh(
            [row + 0.27 * (index - 1) for row in range(len(chosen))],
            [max(record["peaks"][name][0], 1) / 2**20 for record in chosen.values()],
            height=0.25,
            color=COLOURS[name],
            label=name,
        )
    axes.set_yticks(range(len(chosen)), _names(chosen.values()), fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("peak MiB beyond inputs and gradients, forward + backward")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8)
    return figure


def _names(records: Iterable[Record]) -> list[str]:
    return [record["name"].replace(" float32", "").replace(" contiguous", "") for record in records]


def save(folder: Path, records: Sequence[Record]) -> None:
    """``speedup.png``, ``limit.png``, ``memory.png``; none of what was not measured."""
    figures: dict[str, Any] = {}
    if _families(records):
        figures |= {"speedup": speedup(records), "limit": limit(records)}
    if any("peaks" in record for record in records):
        figures["memory"] = memory(records)
    for name, figure in figures.items():
        write_atomic(folder / f"{name}.png", partial(figure.savefig, dpi=110))
