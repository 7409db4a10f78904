"""The face itself: skin, chin, cheeks, wrinkles."""

from __future__ import annotations

import math

import numpy as np

from .canvas import ribbon
from .geometry import spline
from .stage import Stage, ellipse, face_outline


def draw_face(stage: Stage) -> None:
    """Skin with its light."""
    face, canvas, head = stage.face, stage.canvas, stage.head
    skin, shape = face.skin, face.shape
    color = np.array(skin.color, dtype=np.float32)
    if shape.double_chin:
        _draw_double_chin_pad(stage, color)
    outline = stage.surface(face_outline(head))
    variation = 1.0 + np.float32(skin.blotches) * stage.noise(14)
    paint = color * variation[..., None] * stage.light
    paint += (np.float32(0.55 * skin.gloss) * stage.gloss * (0.45 + 0.55 * float(color.mean())))[..., None]
    canvas.fill(canvas.mask(outline), paint)

    jaw = spline(head.landmarks[:17], 4)
    rim = canvas.mask(ribbon(stage.surface(jaw), 7.0 * stage.view.unit), 3.5).within(stage.cover)
    canvas.shade(rim, (0.80, 0.70, 0.67), 0.55)
    if shape.double_chin:
        crease = stage.stroke(head.landmarks[4:13], [0.5, 2.2, 3.0, 2.2, 0.5], 0.9)
        canvas.shade(crease, (0.62, 0.50, 0.47), 0.75 * shape.double_chin)
    _draw_cheeks(stage)
    _draw_age(stage)
    if skin.freckles:
        _draw_freckles(stage)


def _draw_double_chin_pad(stage: Stage, color: np.ndarray) -> None:
    """The fold of skin under the chin, lit on its own with a shadow beneath."""
    canvas, shape = stage.canvas, stage.face.shape
    jaw = stage.head.landmarks[3:14].copy()
    drop = 11.0 * shape.double_chin * np.sin(np.linspace(0.0, math.pi, len(jaw))) ** 0.8
    jaw[:, 1] += drop
    jaw = np.concatenate([spline(jaw, 4), [(20.0, 40.0), (-20.0, 40.0)]])
    z = 16.0
    canvas.shade(canvas.mask(stage.flat(jaw + (0.0, 5.0), z), 3.0), (0.66, 0.55, 0.52), 0.8)
    canvas.fill(canvas.mask(stage.flat(jaw, z), 0.4), color * (0.90, 0.85, 0.83))
    roll = ellipse(0.0, shape.chin + 5.0 * shape.double_chin, 15.0, 2.4)
    canvas.shade(canvas.mask(stage.flat(roll, z), 2.0), (1.14, 1.12, 1.11), 0.8)


def _draw_cheeks(stage: Stage) -> None:
    face, canvas = stage.face, stage.canvas
    shape, skin = face.shape, face.skin
    lift = 3.0 * max(shape.smile, 0.0)
    for s in (-1.0, 1.0):
        x = s * (0.60 * shape.width)
        if skin.rosy > 0.02:
            cheek = stage.blob(x, 23.0 - lift, 9.5, 8.0, 4.5).within(stage.cover).within(stage.lips, outside=True)
            canvas.shade(cheek, (1.04, 0.72, 0.72), 0.75 * skin.rosy)
        if shape.cheekbones > 0.3:
            ridge = stage.blob(s * 29.5, 15.0 - lift, 9.0, 3.2, 2.6, turn=-s * 0.42).within(stage.cover)
            canvas.shade(ridge, (1.16, 1.15, 1.14), 0.9 * shape.cheekbones)
            hollow = stage.blob(s * 31.5, 31.0 - 0.5 * lift, 9.5, 3.4, 2.8, turn=-s * 0.62).within(stage.cover)
            canvas.shade(hollow.within(stage.lips, outside=True), (0.80, 0.71, 0.69), 0.75 * shape.cheekbones)
        if shape.fullness > 0.5:
            apple = stage.blob(s * 28.0, 33.0, 7.0, 6.0, 4.5).within(stage.cover).within(stage.lips, outside=True)
            canvas.shade(apple, (1.07, 1.06, 1.05), shape.fullness)
    if skin.rosy > 0.02:
        canvas.shade(stage.blob(0.0, 0.75 * shape.nose_length, 5.0, 4.0, 2.5), (1.03, 0.80, 0.80), 0.6 * skin.rosy)


def _draw_age(stage: Stage) -> None:
    """Folds beside the mouth, lines of the forehead and the eyes, bags under the eyes."""
    face, canvas = stage.face, stage.canvas
    shape, age = face.shape, face.skin.wrinkles
    smile = max(shape.smile, 0.0)
    dark = (0.70, 0.58, 0.55)
    n, my, mw = shape.nose_length, shape.mouth_y, shape.mouth_width + 3.2 * smile
    for s in (-1.0, 1.0):
        fold = [(s * 10.0 * shape.nose_width, n - 5.0), (s * (mw - 1.0), n + 4.0), (s * (mw + 4.2), my - 1.0)]
        mask = stage.stroke(fold, [0.5, 1.6, 0.5], 0.7).within(stage.lips, outside=True)
        canvas.shade(mask, dark, 0.16 + 0.36 * smile + 0.45 * age)
        if face.skin.bags > 0.15:
            bag = [(s * 12.0, 5.6), (s * 19.0, 9.0), (s * 27.0, 6.4)]
            canvas.shade(stage.stroke(bag, [0.6, 2.6, 0.6], 0.8), (0.70, 0.58, 0.62), 0.75 * face.skin.bags)
            canvas.shade(stage.blob(s * 19.0, 5.0, 7.0, 2.0, 1.2), (0.80, 0.70, 0.76), 0.7 * face.skin.bags)
        if age > 0.3:
            for k in (-1.0, 0.0, 1.0):
                crow = [(s * 29.5, 0.5 + 1.2 * k), (s * 35.0, -0.5 + 3.4 * k)]
                canvas.shade(stage.stroke(crow, [0.9, 0.3], 0.3), dark, 0.5 * age)
            marionette = [(s * (mw + 1.5), my + 3.0), (s * (mw + 2.5), my + 13.0)]
            canvas.shade(stage.stroke(marionette, [1.2, 0.4], 0.6), dark, 0.5 * age)
    if age > 0.3:
        for k in range(3):
            y = -25.0 - 6.5 * k
            line = [(-22.0 + 2.0 * k, y + 1.5), (-8.0, y), (8.0, y + 0.5), (22.0 - 2.0 * k, y + 1.5)]
            canvas.shade(stage.stroke(line, [0.3, 1.2, 1.0, 0.3], 0.45), dark, 0.45 * age)
            canvas.shade(stage.stroke(np.array(line) + (0.0, 1.6), 0.9, 0.5), 1.08, 0.6 * age)


def _draw_freckles(stage: Stage) -> None:
    canvas, rng = stage.canvas, stage.rng
    spots = []
    for _ in range(46):
        x, y = rng.normal(0.0, 17.0), rng.normal(17.0, 7.0)
        if abs(x) < 38.0 and 8.0 < y < 33.0:
            spots.append(stage.surface(ellipse(x, y, rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.7))))
    canvas.shade(canvas.mask(spots, 0.2), (0.80, 0.64, 0.52), stage.face.skin.freckles)
