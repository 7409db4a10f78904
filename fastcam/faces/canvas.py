"""A float RGB canvas with anti-aliased, optionally blurred shapes drawn through Pillow masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastcam._util.extras import require

SUPERSAMPLING = 4
Color = tuple[float, float, float]
Polygons = np.ndarray | Sequence[np.ndarray]
_SOLID = [0] + [255] * 255
_NOTHING = np.zeros((0, 0), dtype=np.float32)


@dataclass
class Mask:
    """Coverage in [0, 1] of the canvas rows `y0:y1`, columns `x0:x1`."""

    alpha: np.ndarray
    x0: int
    y0: int

    @property
    def window(self) -> tuple[slice, slice]:
        h, w = self.alpha.shape
        return slice(self.y0, self.y0 + h), slice(self.x0, self.x0 + w)

    def within(self, clip: np.ndarray | None, outside: bool = False) -> Mask:
        """This mask times a full-size coverage `clip` (or its complement)."""
        if clip is None:
            return self
        part = clip[self.window]
        return Mask(self.alpha * (1.0 - part if outside else part), self.x0, self.y0)


class _Box(NamedTuple):
    x0: int
    y0: int
    x1: int
    y1: int
    margin: int


def _listed(polygons: Polygons) -> tuple[np.ndarray, list[int]]:
    """All corners in one array [C,2], and how many belong to each polygon."""
    if isinstance(polygons, np.ndarray):
        shape = polygons.shape
        return polygons.reshape(-1, 2), [shape[-2]] * (shape[0] if len(shape) == 3 else 1)
    corners = np.concatenate(polygons) if len(polygons) else np.zeros((0, 2))
    return corners, [len(p) for p in polygons]


class Canvas:
    """`image`: float32 [H,W,3] in sRGB, 0..1."""

    def __init__(self, size: tuple[int, int], unit: float):
        self.image_module = require("PIL.Image", "train")
        self.draw_module = require("PIL.ImageDraw", "train")
        self.filter_module = require("PIL.ImageFilter", "train")
        self.width, self.height = size
        self.unit = unit
        self.image = np.zeros((self.height, self.width, 3), dtype=np.float32)

    def mask(self, polygons: Polygons, blur: float = 0.0) -> Mask:
        """Coverage of a polygon [P,2] or several (a list, or [S,P,2]) in pixels; `blur` is a sigma
        in head units."""
        corners, counts = _listed(polygons)
        sigma = float(blur * self.unit)
        box = self._box(corners, sigma)
        if box is None:
            return Mask(_NOTHING, 0, 0)
        # a blur hides the steps of a coarser drawing
        k = SUPERSAMPLING if sigma < 0.8 else 2 if sigma < 2.5 else 1
        layer = self._draw(corners, counts, [255] * len(counts), box, k)
        return Mask(self._shrink(layer, k, sigma, box.margin), box.x0, box.y0)

    def tones(self, polygons: Polygons, tones: np.ndarray) -> tuple[Mask, np.ndarray]:
        """Overlapping polygons with a tone each (0..1), the later one on top: their coverage and
        the tone seen."""
        corners, counts = _listed(polygons)
        box = self._box(corners, 0.0)
        if box is None:
            return Mask(_NOTHING, 0, 0), _NOTHING
        k = 3
        levels = (1.5 + 253.0 * np.clip(tones, 0.0, 1.0)).astype(int).tolist()
        layer = self._draw(corners, counts, levels, box, k)
        cover = self._shrink(layer.point(_SOLID), k, 0.0, 0)
        tone = self._shrink(layer, k, 0.0, 0) / np.maximum(cover, 1e-3)
        return Mask(cover, box.x0, box.y0), tone

    def _box(self, corners: np.ndarray, sigma: float) -> _Box | None:
        """Where the shapes and their blur touch the canvas."""
        if not len(corners):
            return None
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        margin = math.ceil(3.0 * sigma)
        x0, y0 = max(int(left) - margin - 1, 0), max(int(top) - margin - 1, 0)
        x1 = min(math.ceil(right) + margin + 1, self.width)
        y1 = min(math.ceil(bottom) + margin + 1, self.height)
        return _Box(x0, y0, x1, y1, margin) if x1 > x0 and y1 > y0 else None

    def _draw(
        self, corners: np.ndarray, counts: list[int], levels: list[int], box: _Box, k: int
    ) -> Any:
        # what lies just outside the frame still counts for the blur: it is drawn, then cropped
        pad = box.margin
        layer = self.image_module.new(
            "L", ((box.x1 - box.x0 + 2 * pad) * k, (box.y1 - box.y0 + 2 * pad) * k), 0
        )
        pen = self.draw_module.Draw(layer)
        origin = (box.x0 - pad + 0.5 / k, box.y0 - pad + 0.5 / k)
        flat = ((corners - origin) * k).ravel().tolist()
        start = 0
        for count, level in zip(counts, levels, strict=True):
            pen.polygon(flat[start : start + 2 * count], fill=level)
            start += 2 * count
        return layer

    def _shrink(self, layer: Any, k: int, sigma: float, pad: int) -> np.ndarray:
        if k > 1:
            layer = layer.reduce(k)
        if sigma > 0:
            layer = layer.filter(self.filter_module.GaussianBlur(sigma))
        alpha = np.asarray(layer, dtype=np.float32) * np.float32(1.0 / 255.0)
        return alpha[pad:-pad, pad:-pad] if pad else alpha

    def coverage(self, polygons: Polygons) -> np.ndarray:
        """Like `mask`, as a full-size array [H,W]."""
        full = np.zeros((self.height, self.width), dtype=np.float32)
        mask = self.mask(polygons)
        full[mask.window] = mask.alpha
        return full

    def fill(
        self,
        mask: Mask,
        color: Color | np.ndarray,
        opacity: float = 1.0,
        light: np.ndarray | None = None,
    ) -> None:
        """Lay a colour (or an image of the mask's size) times a full-size `light` on the canvas."""
        part = self.image[mask.window]
        alpha = (mask.alpha * np.float32(opacity))[..., None]
        paint = np.asarray(color, dtype=np.float32)
        if light is not None:
            paint = paint * light[mask.window]
        part += (paint - part) * alpha

    def shade(self, mask: Mask, factor: Color | float, opacity: float = 1.0) -> None:
        """Multiply the canvas under the mask by `factor` (< 1 darkens, > 1 lightens)."""
        part = self.image[mask.window]
        alpha = (mask.alpha * np.float32(opacity))[..., None]
        part *= 1.0 + (np.asarray(factor, dtype=np.float32) - 1.0) * alpha

    def resize(self, field: np.ndarray) -> np.ndarray:
        """A small field [h,w] or [h,w,3] enlarged smoothly to the canvas."""
        if field.ndim == 3:
            return np.stack([self.resize(field[..., c]) for c in range(field.shape[2])], axis=2)
        small = self.image_module.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        large = small.resize((self.width, self.height), self.image_module.Resampling.BICUBIC)
        return np.asarray(large, dtype=np.float32)


def ribbon(path: np.ndarray, widths: np.ndarray | float) -> np.ndarray:
    """Outline [2P,2] of a stroke along `path` [P,2] whose full width is `widths` ([P] or one
    number)."""
    return ribbons(path[None], np.broadcast_to(widths, (1, len(path))))[0]


def ribbons(paths: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Outlines [S,2P,2] of strokes along `paths` [S,P,2] with full widths [S,P]."""
    reach = np.concatenate([paths[:, :1], paths, paths[:, -1:]], axis=1)
    normal = (reach[:, 2:] - reach[:, :-2])[..., ::-1] * (-1.0, 1.0)
    length = np.sqrt((normal * normal).sum(axis=2)) + 1e-9
    normal *= (0.5 * widths / length)[..., None]
    return np.concatenate([paths + normal, (paths - normal)[:, ::-1]], axis=1)
