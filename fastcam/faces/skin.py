"""The face itself: skin, chin, cheeks, wrinkles."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Mask, ribbon
from .geometry import mirrored, moved, spline
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
    paint += (np.float32(0.55 * skin.gloss) * stage.gloss * (0.45 + 0.15 * float(color.mean())))[
        ..., None
    ]
    whole = canvas.mask(outline)
    canvas.fill(whole, paint[whole.window])

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
    jaw = stage.head.landmarks[4:13].copy()
    jaw[:, 1] += 10.5 * shape.double_chin * np.sin(np.linspace(0.0, math.pi, len(jaw))) ** 0.9
    jaw = np.concatenate([spline(jaw, 4) * (0.97, 1.0), [(20.0, 40.0), (-20.0, 40.0)]])
    pad = stage.surface(jaw, lift=-4.0)
    canvas.shade(canvas.mask(moved(pad, 0.0, 5.0 * stage.view.unit), 3.0), (0.66, 0.55, 0.52), 0.8)
    canvas.fill(canvas.mask(pad, 0.4), color * (0.84, 0.77, 0.75))
    roll = ellipse(0.0, shape.chin + 5.0 * shape.double_chin, 15.0, 2.4)
    canvas.shade(canvas.mask(stage.surface(roll, lift=-4.0), 2.0), (1.14, 1.12, 1.11), 0.8)


def _draw_cheeks(stage: Stage) -> None:
    """Natural red, cheekbones with the hollow beneath, full lower cheeks."""
    canvas, shape, rosy = stage.canvas, stage.face.shape, stage.face.skin.rosy
    lift = 3.0 * max(shape.smile, 0.0)

    def cheeks(x: float, y: float, rx: float, ry: float, blur: float, turn: float = 0.0) -> Mask:
        return (
            stage.blobs(x, y, rx, ry, blur, turn)
            .within(stage.cover)
            .within(stage.lips, outside=True)
        )

    canvas.shade(
        cheeks(0.60 * shape.width, 23.0 - lift, 9.5, 8.0, 4.5), (1.04, 0.72, 0.72), 0.75 * rosy
    )
    if shape.cheekbones > 0.3:
        canvas.shade(
            cheeks(29.5, 15.0 - lift, 9.0, 3.2, 2.6, -0.42),
            (1.16, 1.15, 1.14),
            0.9 * shape.cheekbones,
        )
        hollow = cheeks(31.5, 31.0 - 0.5 * lift, 9.5, 3.4, 2.8, -0.62)
        canvas.shade(hollow, (0.80, 0.71, 0.69), 0.75 * shape.cheekbones)
    if shape.fullness > 0.5:
        canvas.shade(cheeks(28.0, 33.0, 7.0, 6.0, 4.5), (1.07, 1.06, 1.05), shape.fullness)
    canvas.shade(
        stage.blob(0.0, 0.75 * shape.nose_length, 5.0, 4.0, 2.5), (1.03, 0.80, 0.80), 0.6 * rosy
    )


def _draw_age(stage: Stage) -> None:
    """Folds beside the mouth, lines of the forehead and the eyes, bags under the eyes."""
    face, canvas = stage.face, stage.canvas
    shape, age, bags = face.shape, face.skin.wrinkles, face.skin.bags
    smile = max(shape.smile, 0.0)
    dark = (0.70, 0.58, 0.55)
    n, my, mw = shape.nose_length, shape.mouth_y, shape.mouth_width + 3.2 * smile
    folds = mirrored(
        [(10.0 * shape.nose_width, n - 5.0), (mw - 1.0, n + 4.0), (mw + 4.2, my - 1.0)]
    )
    mask = stage.stroke(folds, [0.5, 1.6, 0.5], 0.7).within(stage.lips, outside=True)
    canvas.shade(mask, dark, 0.16 + 0.36 * smile + 0.45 * age)
    if bags > 0.15:
        rims = mirrored([(12.0, 6.6), (19.0, 10.0), (27.0, 7.2)])
        canvas.shade(stage.stroke(rims, [0.6, 2.6, 0.6], 0.8), (0.70, 0.58, 0.62), 0.75 * bags)
        canvas.shade(stage.blobs(19.0, 6.0, 7.0, 2.0, 1.2), (0.80, 0.70, 0.76), 0.7 * bags)
    if age < 0.3:
        return
    crows = [mirrored([(30.0, 0.5 + 1.2 * k), (35.5, -0.5 + 3.4 * k)]) for k in (-1.0, 0.0, 1.0)]
    canvas.shade(stage.stroke(np.concatenate(crows), [0.9, 0.3], 0.3), dark, 0.5 * age)
    marionettes = mirrored([(mw + 1.5, my + 3.0), (mw + 2.5, my + 13.0)])
    canvas.shade(stage.stroke(marionettes, [1.2, 0.4], 0.6), dark, 0.5 * age)
    lines = np.array(
        [
            [
                (-22 + 2 * k, -23.5 - 6.5 * k),
                (-8, -25 - 6.5 * k),
                (8, -24.5 - 6.5 * k),
                (22 - 2 * k, -23.5 - 6.5 * k),
            ]
            for k in range(3)
        ]
    )
    canvas.shade(stage.stroke(lines, [0.3, 1.2, 1.0, 0.3], 0.45), dark, 0.45 * age)
    canvas.shade(stage.stroke(moved(lines, 0.0, 1.6), 0.9, 0.5), 1.08, 0.6 * age)


def _draw_freckles(stage: Stage) -> None:
    canvas, rng = stage.canvas, stage.rng
    spots = []
    for _ in range(46):
        x, y = rng.normal(0.0, 17.0), rng.normal(17.0, 7.0)
        if abs(x) < 38.0 and 8.0 < y < 33.0:
            spots.append(stage.surface(ellipse(x, y, rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.7))))
    canvas.shade(canvas.mask(spots, 0.2), (0.80, 0.64, 0.52), stage.face.skin.freckles)
