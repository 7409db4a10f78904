"""SVG: the template face with its regions, cells over an image, curves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from html import escape

import numpy as np
from numpy.typing import NDArray

from fastcam.regions import REGION_NAMES, TEMPLATE_SIZE, rectangles, template_landmarks
from fastcam.studio.pointing import PAINT

Point = tuple[float, float]
#: Lines of a face through dlib's points: first, last, and whether they close.
_LINES = (
    (0, 16, False), (17, 21, False), (22, 26, False), (27, 30, False), (31, 35, False),
    (36, 41, True), (42, 47, True), (48, 59, True), (60, 67, True),
)  # fmt: skip


@lru_cache(maxsize=1)
def template_boxes() -> dict[str, tuple[float, float, float, float]]:
    """The ten regions of the template face in its frame (178 × 218): x, y, width, height."""
    found = rectangles(template_landmarks()[None])[0]
    boxes = {}
    for name, (x0, y0, x1, y1) in zip(REGION_NAMES, found.tolist(), strict=True):
        x0, y0 = max(x0, 0.0), max(y0, 0.0)
        width, height = min(x1, TEMPLATE_SIZE[0]) - x0, min(y1, TEMPLATE_SIZE[1]) - y0
        boxes[name] = (round(x0, 1), round(y0, 1), round(width, 1), round(height, 1))
    return boxes


@lru_cache(maxsize=1)
def template_path() -> str:
    """The template face as an SVG path."""
    points = template_landmarks()
    parts = []
    for first, last, closed in _LINES:
        line = " L".join(f"{x:.1f} {y:.1f}" for x, y in points[first : last + 1])
        parts.append(f"M{line}{' Z' if closed else ''}")
    top = points[[0, 16]].mean(0)
    reach = (points[16, 0] - points[0, 0]) / 2
    x, y = points[0]
    parts.append(
        f"M{x:.1f} {y:.1f} A{reach:.1f} {top[1] - 52:.1f} 0 0 1 {points[16, 0]:.1f} {y:.1f}"
    )
    return " ".join(parts)


def painted_path(painted: Collection[int]) -> str:
    """The painted squares as an SVG path in the template's frame."""
    columns, rows = PAINT
    width, height = TEMPLATE_SIZE[0] / columns, TEMPLATE_SIZE[1] / rows
    square = f"h{width:.2f}v{height:.2f}h{-width:.2f}z"
    return " ".join(
        f"M{c % columns * width:.2f} {c // columns * height:.2f}{square}" for c in painted
    )


def heat_svg(values: Mapping[str, float | None], label: str, unit: str) -> str:
    """The template face with each region as strong as its value.

    Args:
        values: by region.
        label: what a screen reader says of it.
        unit: behind each value, as ``"%"``.
    """
    top = max([v for v in values.values() if v is not None and v > 0], default=1.0)
    parts = [_open(*TEMPLATE_SIZE, label, "template")]
    for name, (x, y, width, height) in template_boxes().items():
        value = values.get(name)
        opacity = 0.0 if value is None else max(value, 0.0) / top
        said = "–" if value is None else f"{value:.1f}{unit}"
        parts.append(
            f'<rect class="heat" data-region="{name}" x="{x}" y="{y}" width="{width}" '
            f'height="{height}" fill-opacity="{0.9 * opacity:.3f}">'
            f"<title>{name.replace('_', ' ')}: {said}</title></rect>"
        )
    parts.append(f'<path class="face" d="{template_path()}"/></svg>')
    return "".join(parts)


def cells_svg(image: str, cells: NDArray[np.floating], label: str, number: int) -> str:
    """An image with the cells that a region covers, each as opaque as its share.

    Args:
        image: its address.
        cells: [h, w] in [0, 1].
        label: what a screen reader says of it.
        number: of the image; the cells' ids begin with it.
    """
    rows, columns = cells.shape
    side = 100.0
    dx, dy = side / columns, side / rows
    parts = [
        _open(side, side, label, "cells"),
        f'<image href="{image}" width="{side:g}" height="{side:g}" preserveAspectRatio="none"/>',
    ]
    for (row, column), share in np.ndenumerate(cells):
        covered = (
            f' data-share="{share:.4f}" fill-opacity="{0.75 * share:.3f}"' if share > 0 else ""
        )
        kind = "cell covered" if share > 0 else "cell"
        parts.append(
            f'<rect id="cell-{number}-{row}-{column}" class="{kind}" x="{column * dx:.2f}" '
            f'y="{row * dy:.2f}" width="{dx:.2f}" height="{dy:.2f}"{covered}/>'
        )
    return "".join([*parts, "</svg>"])


def curves_svg(
    lines: Mapping[str, Sequence[Point]],
    label: str,
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    marks: bool = False,
) -> str:
    """Lines on axes, with a legend.

    Args:
        lines: points by name; the n-th gets the style class ``line-n``.
        label: what a screen reader says of it.
        x_label, y_label: of the axes.
        x_range: what the x axis shows; None takes what the points need.
        marks: draw the points, too.
    """
    points = [p for line in lines.values() for p in line]
    low_x, high_x = x_range or _range([p[0] for p in points])
    low_y, high_y = _range([p[1] for p in points])
    width, height, left, bottom, top = 360.0, 210.0, 46.0, 34.0, 22.0

    def place(x: float, y: float) -> Point:
        across = (x - low_x) / (high_x - low_x) * (width - left - 10)
        up = (y - low_y) / (high_y - low_y) * (height - bottom - top)
        return left + across, height - bottom - up

    parts = [_open(width, height, label, "curves")]
    parts += _axes(place, (low_x, high_x), (low_y, high_y), (left, width - 10, height - bottom))
    parts.append(_text((left + width) / 2, height - 5, x_label, "middle"))
    parts.append(_text(2, 10, y_label))
    at = width - 12
    for number, (name, line) in reversed(list(enumerate(lines.items()))):
        places = [place(*p) for p in line]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        said = escape(name, quote=True)
        parts.append(f'<polyline class="line-{number}" data-line="{said}" points="{drawn}"/>')
        for x, y in places if marks else []:
            parts.append(f'<circle class="mark-{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
        parts.append(_text(at, 10, name, "end", f"name-{number}"))
        at -= 6.2 * len(name) + 12
    return "".join([*parts, "</svg>"])


def _axes(
    place: Callable[[float, float], Point], across: Point, up: Point, edges: tuple[float, ...]
) -> list[str]:
    """Lines at five heights, and numbers along both axes."""
    left, right, bottom = edges
    parts = []
    for i in range(5):
        x, y = (low + (high - low) * i / 4 for low, high in (across, up))
        at = place(across[0], y)[1]
        ends = f'x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"'
        parts.append(f'<line class="grid" {ends}/>')
        parts.append(_text(left - 5, at + 3.5, _short(y), "end"))
        parts.append(_text(place(x, up[0])[0], bottom + 13, _short(x), "middle"))
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "axis") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _open(width: float, height: float, label: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
    )
