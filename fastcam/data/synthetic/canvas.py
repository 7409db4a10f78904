"""A float RGB canvas with anti-aliased, optionally blurred shapes drawn through Pillow masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastcam._extras import require

SUPERSAMPLING = 4
Color = tuple[float, float, float]


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


class Canvas:
    """`image`: float32 [H,W,3] in sRGB, 0..1."""

    def __init__(self, size: tuple[int, int], unit: float):
        self.image_module = require("PIL.Image", "train")
        self.draw_module = require("PIL.ImageDraw", "train")
        self.filter_module = require("PIL.ImageFilter", "train")
        self.width, self.height = size
        self.unit = unit
        self.image = np.zeros((self.height, self.width, 3), dtype=np.float32)

    def mask(
        self, polygons: np.ndarray | list[np.ndarray], blur: float = 0.0, tones: np.ndarray | None = None
    ) -> Mask:
        """Coverage of one or more polygons [P,2] (pixels); `blur` is a Gaussian's sigma in head units.

        With `tones` (one value in 0..1 for each polygon) a later polygon replaces an earlier one instead of joining it.
        """
        shapes = [polygons] if isinstance(polygons, np.ndarray) else polygons
        sigma = float(blur * self.unit)
        margin = int(math.ceil(3.0 * sigma)) + 1
        every = np.concatenate(shapes) if shapes else np.zeros((1, 2))
        low, high = every.min(axis=0), every.max(axis=0)
        x0, y0 = max(int(low[0]) - margin, 0), max(int(low[1]) - margin, 0)
        x1 = min(int(math.ceil(high[0])) + margin, self.width)
        y1 = min(int(math.ceil(high[1])) + margin, self.height)
        if x1 <= x0 or y1 <= y0 or not shapes:
            return Mask(np.zeros((0, 0), dtype=np.float32), 0, 0)
        k = SUPERSAMPLING
        # pixels cut off by the frame still count for the blur: draw them, then crop
        pad = margin if sigma > 0 else 0
        box = ((x1 - x0 + 2 * pad) * k, (y1 - y0 + 2 * pad) * k)
        layer = self.image_module.new("L", box, 0)
        pen = self.draw_module.Draw(layer)
        for i, shape in enumerate(shapes):
            corners = (shape - (x0 - pad, y0 - pad)) * k - 0.5
            fill = 255 if tones is None else int(round(255 * float(tones[i])))
            pen.polygon([(float(x), float(y)) for x, y in corners], fill=fill)
        layer = layer.reduce(k)
        if sigma > 0:
            layer = layer.filter(self.filter_module.GaussianBlur(sigma))
        alpha = np.asarray(layer, dtype=np.float32) * (1.0 / 255.0)
        if pad:
            alpha = alpha[pad:-pad, pad:-pad]
        return Mask(alpha, x0, y0)

    def coverage(self, polygons: np.ndarray | list[np.ndarray], blur: float = 0.0) -> np.ndarray:
        """Like `mask`, as a full-size array [H,W]."""
        full = np.zeros((self.height, self.width), dtype=np.float32)
        mask = self.mask(polygons, blur)
        full[mask.window] = mask.alpha
        return full

    def fill(self, mask: Mask, color: Color | np.ndarray, opacity: float = 1.0) -> None:
        """Lay a colour (or a full-size image) over the canvas."""
        part = self.image[mask.window]
        alpha = (mask.alpha * np.float32(opacity))[..., None]
        paint = np.asarray(color, dtype=np.float32)
        if paint.ndim == 3:
            paint = paint[mask.window]
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
    """Outline [2P,2] of a stroke along `path` [P,2] whose full width is `widths` ([P] or one number)."""
    direction = np.gradient(path, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    normal = direction[:, ::-1] * (-1.0, 1.0)
    half = 0.5 * np.broadcast_to(widths, (len(path),))[:, None]
    return np.concatenate([path + normal * half, (path - normal * half)[::-1]])
