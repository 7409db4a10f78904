"""Faces with their Grad-CAM: the attended set outlined in red, the region in blue.

As in Yang et al., Fig. 4 and 6.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from fastcam.report.figure import ATTENDED, REGION, literal, new_figure


@dataclass(frozen=True)
class ExplainedFace:
    """An image and what one or more classifiers see in it.

    Attributes:
        image: uint8 [H, W, 3].
        cams: by classifier, normalised Grad-CAM [h, w] in [0, 1]; all zero for a dead map.
        scores: by classifier, the probability that it gives the attribute.
        rectangles: [R, 4], the region as (x0, y0, x1, y1) in pixels of ``image``; R may be 0.
        caption: stands above the image.
        mask: the region as a mask, [H, W] in [0, 1], in place of ``rectangles``; or None.
        judged: by classifier, what its map and score are of, where that is not the figure's title.
    """

    image: np.ndarray
    cams: Mapping[str, np.ndarray]
    scores: Mapping[str, float]
    rectangles: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    caption: str = ""
    mask: np.ndarray | None = None
    judged: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_region(self) -> bool:
        """Whether there is a region to outline."""
        return len(self.rectangles) > 0 or self.mask is not None


def faces_figure(
    faces: Sequence[ExplainedFace],
    *,
    threshold: float = 0.5,
    title: str = "",
    across: int | None = None,
    headings: Sequence[str] = (),
) -> Figure:
    """One column a face, one row a classifier, below a row of the plain images.

    Args:
        faces: all with the same classifiers.
        threshold: cells above it are outlined in red.
        title: stands above the figure.
        across: so many faces beside one another, the next ones below; None puts all in a row.
        headings: for each such block what stands before its images in place of "image".

    Raises:
        ValueError: no faces, or faces with different classifiers.
    """
    if not faces:
        raise ValueError("there is no face to draw")
    models = list(faces[0].cams)
    if any(list(f.cams) != models for f in faces):
        raise ValueError("faces: expected all to be explained by the same classifiers")
    columns = min(across or len(faces), len(faces))
    blocks = [faces[i : i + columns] for i in range(0, len(faces), columns)]
    rows = (1 + len(models)) * len(blocks)
    side = 1.35 if columns > 4 else 2.2
    ratio = faces[0].image.shape[0] / faces[0].image.shape[1]
    figure = new_figure(max(side * columns + 0.5, 5.0), side * ratio * rows + 0.95)
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, block in enumerate(blocks):
        own = axes[number * (1 + len(models)) :][: 1 + len(models)]
        for column, face in enumerate(block):
            _image(own[0, column], face)
            own[0, column].set_title(_caption(face.caption, side), fontsize=7)
            for row, model in enumerate(models, 1):
                axis = own[row, column]
                _image(axis, face)
                _heat(axis, face, face.cams[model], threshold)
                score = f"{100 * face.scores[model]:.0f}%"
                if model in face.judged:
                    score = "\n".join(_wrapped(f"{face.judged[model]} {score}", side, 8))
                axis.set_xlabel(score, fontsize=8, labelpad=2)
        for axis in own[:, len(block) :].flat:
            axis.set_axis_off()
        first = headings[number] if number < len(headings) else "image"
        for row, name in enumerate((first, *models)):
            size = 10 if row or not headings else 8
            beside = "\n".join(_wrapped(name, side * ratio, size))
            own[row, 0].set_ylabel(beside, fontsize=size)
    if title:
        figure.suptitle(literal(title), fontsize=12)
    handles = [
        Line2D([], [], color=ATTENDED, lw=1.8, label=f"Grad-CAM > {threshold:g} of its peak"),
        Line2D([], [], color=REGION, lw=1.8, label="chosen region"),
    ]
    shown = handles if any(f.has_region for f in faces) else handles[:1]
    figure.legend(handles=shown, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


# Points of an inch; width of a letter as a share of the font's size; lines of a caption at most.
_INCH, _LETTER, _LINES = 72, 0.62, 3


def _caption(text: str, width: float) -> str:
    """What stands above an image of ``width`` inches: of many lines the last, as a path's end tells
    most."""
    lines = _wrapped(text, width, 7)
    kept = lines if len(lines) <= _LINES else ["…", *lines[1 - _LINES :]]
    return "\n".join(kept)


def _wrapped(text: str, length: float, size: float) -> list[str]:
    """A text in lines that do not reach over ``length`` inches, and so over its neighbours."""
    most = max(int(length * _INCH / (size * _LETTER)), 4)
    return [literal(line) for line in textwrap.wrap(text, most, break_on_hyphens=False)]


def _image(axis: Axes, face: ExplainedFace) -> None:
    height, width = face.image.shape[:2]
    axis.imshow(face.image, extent=(0, width, height, 0), interpolation="bilinear")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _heat(axis: Axes, face: ExplainedFace, cam: np.ndarray, threshold: float) -> None:
    height, width = face.image.shape[:2]
    alpha = 0.15 + 0.45 * np.clip(cam, 0, 1)
    axis.imshow(
        cam, extent=(0, width, height, 0), cmap="turbo", vmin=0, vmax=1, alpha=alpha,
        interpolation="bicubic",
    )  # fmt: skip
    for x0, y0, x1, y1 in face.rectangles:
        box = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=REGION, lw=1.6)
        axis.add_patch(box)
    if face.mask is not None:
        border = outline(face.mask > 0.5, width, height)
        axis.add_collection(LineCollection(border, colors=REGION, linewidths=1.6))
    lines = outline(cam > threshold, width, height)
    axis.add_collection(LineCollection(lines, colors=ATTENDED, linewidths=1.8))
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    if not np.any(cam):
        axis.text(
            width / 2, height / 2, "no evidence", ha="center", va="center", fontsize=7,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def outline(cells: np.ndarray, width: float, height: float) -> list[np.ndarray]:
    """The border of a set of cells.

    Args:
        cells: bool [h, w].
        width, height: of the image that the grid divides evenly.

    Returns:
        Line segments, each float [2, 2] of two (x, y) points in pixels.
    """
    rows, columns = cells.shape
    padded = np.pad(cells, 1)
    dx, dy = width / columns, height / rows
    lines = []
    for y, x in np.argwhere(padded[:, 1:] != padded[:, :-1]):  # left of cell (y - 1, x)
        lines.append(np.array([(x * dx, (y - 1) * dy), (x * dx, y * dy)]))
    for y, x in np.argwhere(padded[1:] != padded[:-1]):
        lines.append(np.array([((x - 1) * dx, y * dy), (x * dx, y * dy)]))
    return lines
