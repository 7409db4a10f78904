"""Stubble, beard, mustache, sideburns."""

from __future__ import annotations

import numpy as np

from .canvas import Mask
from .geometry import spline
from .stage import Stage, mix


def draw_facial_hair(stage: Stage) -> None:
    """Stubble, beard, mustache, sideburns; the lips are drawn over them afterwards."""
    beard, canvas, shape = stage.face.facial_hair, stage.canvas, stage.face.shape
    color = np.array(stage.face.hair.brow_color)
    jaw = stage.head.landmarks
    my, mw, n, w = shape.mouth_y, shape.mouth_width, shape.nose_length, shape.width
    bottom = my + shape.lower_lip + 0.64 * shape.mouth_open
    cheeks = [(0.80 * w, 30.0), (0.55 * w, 39.0), (mw + 7.0, n + 8.0), (8.0, n + 4.0)]
    full = np.concatenate(
        [jaw[3:14] * (0.985, 1.0) + (0.0, 1.0), cheeks, [(-x, y) for x, y in reversed(cheeks)]]
    )
    if beard.stubble:
        area = (
            canvas.mask(stage.surface(full), 3.0)
            .within(stage.cover)
            .within(stage.lips, outside=True)
        )
        grain = np.clip(
            1.0 + 0.35 * stage.rng.normal(size=area.alpha.shape).astype(np.float32), 0.2, 1.8
        )
        canvas.fill(
            Mask(area.alpha * grain, area.x0, area.y0),
            mix(color, stage.face.skin.color, 0.18),
            beard.stubble,
        )
    if beard.full:
        _draw_tuft(stage, full, 90, color, 0.90, stage.cover)
    elif beard.goatee:
        below = shape.chin
        chin = np.array([
            (-9.0, bottom + 2.5), (0.0, bottom + 3.5), (9.0, bottom + 2.5), (13.5, bottom + 10.0),
            (10.0, below + 1.0), (0.0, below + 3.0), (-10.0, below + 1.0), (-13.5, bottom + 10.0),
        ])  # fmt: skip
        _draw_tuft(stage, chin, 46, color, 0.92 * beard.goatee, None)
    if beard.mustache:
        lip = my - shape.upper_lip - 0.36 * shape.mouth_open
        edge = my - 3.0 * shape.smile + 2.5
        half = [
            (0.0, n + 4.2),
            (6.5, n + 4.0),
            (mw - 1.0, lip + 0.5),
            (mw + 3.0, edge),
            (mw - 2.0, lip + 2.6),
            (4.0, lip + 1.5),
        ]
        both = np.array(half + [(-x, y) for x, y in reversed(half)])
        _draw_tuft(stage, both, 46, color, 0.95 * beard.mustache, None)
    if beard.sideburns:
        for s in (-1.0, 1.0):
            strip = np.array(
                [
                    (s * 0.99 * w, -14.0),
                    (s * 0.80 * w, -14.0),
                    (s * 0.82 * w, 18.0),
                    (s * 0.78 * w, 34.0),
                    (s * 0.96 * w, 34.0),
                ]
            )
            _draw_tuft(stage, strip, 24, color, 0.92 * beard.sideburns, stage.cover)


def _draw_tuft(
    stage: Stage,
    area: np.ndarray,
    count: int,
    color: np.ndarray,
    opacity: float,
    clip: np.ndarray | None,
) -> None:
    """A patch of short hair that grows downward."""
    canvas, rng = stage.canvas, stage.rng
    canvas.fill(
        canvas.mask(stage.surface(spline(area, 3, closed=True)), 1.1).within(clip),
        color,
        0.80 * opacity,
    )
    low, high = area.min(axis=0), area.max(axis=0)
    roots = rng.uniform(low, high, (count, 2))
    growth = np.stack(
        [0.03 * roots[:, 0] + rng.normal(0.0, 0.7, count), rng.uniform(2.0, 4.5, count)], axis=1
    )
    inside = _inside(area, roots)
    hairs = stage.hairs(roots[inside], (roots + growth)[inside], 0.7)
    half = len(hairs) // 2
    canvas.fill(canvas.mask(hairs[:half], 0.15).within(clip), color * 0.6, 0.6 * opacity)
    canvas.fill(
        canvas.mask(hairs[half:], 0.15).within(clip),
        np.clip(color * 1.5 + 0.03, 0, 1),
        0.45 * opacity,
    )


def _inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points [S,2] lie in a polygon [P,2], by the even-odd rule: bool [S]."""
    a, b = polygon[None], np.roll(polygon, -1, axis=0)[None]
    x, y = points[:, :1], points[:, 1:]
    crosses = (a[..., 1] > y) != (b[..., 1] > y)
    rise = np.where(crosses, b[..., 1] - a[..., 1], 1.0)
    left = x < (b[..., 0] - a[..., 0]) * (y - a[..., 1]) / rise + a[..., 0]
    return np.count_nonzero(crosses & left, axis=1) % 2 == 1
