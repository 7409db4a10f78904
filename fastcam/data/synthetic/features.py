"""Brows, eyes, nose and mouth, and the make-up on them."""

from __future__ import annotations

import numpy as np

from .canvas import Mask, ribbon
from .geometry import EYE_X, spline
from .stage import Stage, ellipse, mix


def draw_blush(stage: Stage) -> None:
    """Blush over both cheeks, never on the lips."""
    makeup, shape = stage.face.makeup, stage.face.shape
    if makeup is None:
        return
    for s in (-1.0, 1.0):
        y = 21.0 - 3.0 * max(shape.smile, 0.0)
        cheek = stage.blob(s * 0.66 * shape.width, y, 12.5, 6.5, 4.5, turn=-s * 0.45)
        cheek = cheek.within(stage.cover).within(stage.lips, outside=True)
        stage.canvas.fill(cheek, np.array(makeup.blush) * stage.light, makeup.blush_opacity)


def draw_brows(stage: Stage) -> None:
    """Tapered brows with single hairs."""
    face, canvas, rng = stage.face, stage.canvas, stage.rng
    points = stage.head.landmarks[17:27]
    strength = 0.72
    color = np.array(face.hair.brow_color)
    if face.makeup is not None:
        color = mix(color, color * 0.42, face.makeup.brows)
        strength += 0.28 * face.makeup.brows
    thick = face.shape.brow_thickness
    taper = np.array([0.9, 2.6, 3.9, 4.4, 3.4]) * thick
    for side in (0, 1):
        half = points[5 * side : 5 * side + 5]
        widths = taper if side == 0 else taper[::-1]
        mask = stage.stroke(half, list(widths), 0.55)
        canvas.fill(mask, color, 0.80 * strength)
        hairs = []
        path, width = spline(half, 6), np.interp(np.linspace(0, 1, 25), np.linspace(0, 1, 5), widths)
        outward = -1.0 if side == 0 else 1.0
        for _ in range(int(16 + 10 * thick)):
            i = int(rng.integers(1, 24))
            x, y = path[i] + (0.0, rng.uniform(-0.42, 0.42) * width[i])
            tip = (x + outward * rng.uniform(1.2, 2.6), y - rng.uniform(0.2, 1.6))
            hairs.append(ribbon(stage.surface([(x, y), tip]), 0.55 * stage.view.unit))
        canvas.fill(canvas.mask(hairs), color * 0.7, 0.65 * strength)


def draw_eyes(stage: Stage) -> None:
    """Lids, eyeballs, lashes, eye shadow and liner."""
    for side in (0, 1):
        _draw_eye(stage, side)


def _draw_eye(stage: Stage, side: int) -> None:
    face, canvas = stage.face, stage.canvas
    s = -1.0 if side == 0 else 1.0
    p = stage.head.landmarks[36:42] if side == 0 else stage.head.landmarks[42:48][[3, 2, 1, 0, 5, 4]]
    outer, inner = p[0], p[3]  # the order is now outer, top, top, inner, bottom, bottom on both sides
    upper, lower = spline(p[:4], 6), spline(p[[3, 4, 5, 0]], 6)
    skin = np.array(face.skin.color)
    makeup = face.makeup
    socket = stage.blob(s * (EYE_X - 0.5), -3.5, 11.0, 5.0, 3.2)
    canvas.shade(socket, (0.86, 0.78, 0.76), 0.6)
    if makeup is not None:
        _draw_eye_shadow(stage, s, upper, outer)
    crease = upper * (1.04, 1.0) - (s * 0.8, 2.4) - np.stack([0 * upper[:, 0], 0.8 * np.sin(np.linspace(0, np.pi, len(upper)))], 1)
    canvas.shade(stage.stroke(crease[2:-2:3], [0.4, 1.2, 1.0, 0.3], 0.4), (0.58, 0.46, 0.42), face.eyes.crease)

    opening = stage.surface(np.concatenate([upper, lower[1:-1]]))
    eyeball = canvas.mask(opening)
    clip = canvas.coverage(opening)
    white = mix((0.93, 0.92, 0.91), skin, 0.12)
    canvas.fill(eyeball, white * np.clip(stage.light, 0.55, 1.05))
    corner = canvas.mask(stage.surface(ellipse(inner[0], inner[1], 1.6, 1.2)), 0.3).within(clip)
    canvas.fill(corner, mix((0.78, 0.50, 0.48), skin, 0.3), 0.8)
    for end in (outer, inner):
        canvas.shade(canvas.mask(stage.surface(ellipse(end[0], end[1], 3.0, 3.0)), 1.2).within(clip), 0.72, 0.7)

    eyes = face.eyes
    x, y = s * EYE_X + eyes.gaze[0], 0.2 + eyes.gaze[1] - 0.4 * (face.shape.eye_open - 1.0)
    iris = np.array(eyes.iris)

    def disc(dx: float, dy: float, r: float, blur: float = 0.0) -> Mask:
        return canvas.mask(stage.flat(ellipse(x + dx, y + dy, r, r), 41.0), blur).within(clip)

    canvas.fill(disc(0, 0, eyes.iris_size, 0.15), iris * 0.42)
    canvas.fill(disc(0, 0, eyes.iris_size * 0.82, 0.3), iris)
    canvas.fill(disc(0, 1.2, eyes.iris_size * 0.55, 0.7), np.clip(iris * 1.45, 0, 1), 0.7)
    canvas.fill(disc(0, 0, eyes.iris_size * 0.42, 0.1), (0.03, 0.03, 0.035))
    lx = face.light.direction[0]
    canvas.fill(disc(1.4 * (1 if lx >= 0 else -1), -1.5, 0.85, 0.12), (1.0, 1.0, 1.0), 0.92)
    lid = canvas.mask(ribbon(stage.surface(upper), 3.0 * stage.view.unit), 0.8).within(clip)
    canvas.shade(lid, 0.50, 0.75)

    dark = mix((0.10, 0.07, 0.06), skin, 0.10)
    lashes = eyes.lashes if makeup is None else 1.0
    width = 0.75 + 0.55 * eyes.lashes
    if makeup is not None:
        width = 1.5 + 0.9 * makeup.liner
    canvas.fill(stage.stroke(upper[::3], [0.9 * width, width, width, 0.4 * width], 0.22), dark, 0.55 + 0.4 * lashes)
    under = stage.stroke(lower[::3], [0.4, 0.7, 0.8] if makeup is None else [0.5, 1.0, 1.3], 0.3)
    canvas.fill(under, dark, 0.30 if makeup is None else 0.35 + 0.45 * makeup.liner)
    if makeup is not None:
        wing = [tuple(upper[3]), tuple(outer), (outer[0] + s * 3.8, outer[1] - 2.2)]
        canvas.fill(stage.stroke(wing, [1.2, width, 0.3], 0.2), dark, 0.5 + 0.5 * makeup.liner)
        hairs = []
        for i in range(1, len(upper) - 4, 2):
            root = upper[i]
            out = s * (2.4 - 3.2 * i / len(upper))
            tip = (root[0] + out, root[1] - 1.4 - 2.2 * makeup.lashes * (1.0 - 0.5 * i / len(upper)))
            hairs.append(ribbon(stage.surface([tuple(root), tip]), np.array([0.75, 0.3]) * stage.view.unit))
        canvas.fill(canvas.mask(hairs), dark, 0.85)


def _draw_eye_shadow(stage: Stage, s: float, upper: np.ndarray, outer: np.ndarray) -> None:
    makeup, canvas = stage.face.makeup, stage.canvas
    assert makeup is not None
    reach = 0.62 * (stage.face.shape.brow_y + 4.0)
    lid = upper.copy()
    lid[:, 1] += reach * np.sin(np.linspace(0.10, np.pi * 0.97, len(lid))) ** 0.7
    lid[:, 0] += s * 1.5
    patch = np.concatenate([[(outer[0] + s * 3.0, outer[1] - 1.5)], upper, lid[::-1]])
    paint = np.array(makeup.shadow) * stage.light
    canvas.fill(canvas.mask(stage.surface(patch), 1.3).within(stage.cover), paint, makeup.shadow_opacity)
    under = stage.blob(s * (EYE_X + 2.0), 3.6, 7.0, 1.0, 0.9)
    canvas.fill(under.within(stage.cover), paint, 0.45 * makeup.shadow_opacity)


def draw_nose(stage: Stage) -> None:
    """Nostrils, wings and the shadow beneath; the rest of the nose is in the light."""
    canvas, shape = stage.canvas, stage.face.shape
    n, w = shape.nose_length, shape.nose_width
    lx = stage.face.light.direction[0]
    below = stage.blob(-1.5 * lx, n + 3.6, 7.5 * w, 2.2, 1.7).within(stage.lips, outside=True)
    canvas.shade(below, (0.70, 0.58, 0.55), 0.70)
    for s in (-1.0, 1.0):
        wing = [(s * 8.2 * w, n - 6.0), (s * 9.3 * w, n - 3.0), (s * 8.6 * w, n + 0.2), (s * 6.6 * w, n + 0.8)]
        canvas.shade(stage.stroke(wing, [0.4, 1.3, 1.5, 0.5], 0.55), (0.58, 0.45, 0.42), 0.62)
        canvas.shade(stage.blob(s * 4.1 * w, n + 0.6, 2.3 * w, 1.1, 0.45, turn=s * 0.25), (0.30, 0.18, 0.16), 0.75)
        flank = stage.blob(s * 7.0, 0.35 * n, 2.2, 0.30 * n, 2.0)
        canvas.shade(flank, (0.82, 0.73, 0.70), 0.35 - 0.30 * s * lx)
    tip = stage.blob(0.8 * lx, 0.74 * n, 2.0 * shape.nose_tip, 1.8, 1.2)
    canvas.shade(tip, (1.22, 1.22, 1.22), 0.35 + 0.5 * stage.face.skin.gloss)
    ridge = stage.stroke([(0.6 * lx, 0.05 * n), (0.6 * lx, 0.55 * n)], 2.2, 1.1)
    canvas.shade(ridge, (1.12, 1.12, 1.12), 0.5)


def draw_mouth(stage: Stage) -> None:
    """Lips, lipstick, teeth. Everything that lipstick changes lies within the lips' outline."""
    face, canvas, head = stage.face, stage.canvas, stage.head
    shape, lips, rng = face.shape, face.lips, stage.rng
    p = head.landmarks[48:68]
    top, bottom = spline(p[:7], 4), spline(p[[6, 7, 8, 9, 10, 11, 0]], 4)
    inner_top, inner_bottom = spline(p[[12, 13, 14, 15, 16]], 5), spline(p[[16, 17, 18, 19, 12]], 5)
    outline = stage.surface(np.concatenate([top, bottom[1:-1]]))
    natural = canvas.mask(outline, lips.edge)
    light = np.clip(stage.light, 0.4, 1.15)
    canvas.fill(natural, np.array(lips.natural) * light, 0.92)
    shadow = stage.blob(0.0, shape.mouth_y + shape.lower_lip + 0.64 * shape.mouth_open + 3.0, 9.0, 1.4, 1.3)
    canvas.shade(shadow.within(canvas.coverage(outline), outside=True), (0.74, 0.63, 0.60), 0.6)
    stick = face.lipstick
    if stick is not None:
        canvas.fill(canvas.mask(outline, 0.25), np.array(stick.color) * light, stick.opacity)

    inside = canvas.coverage(outline)
    upper = stage.surface(np.concatenate([top, inner_top[::-1]]))
    canvas.shade(canvas.mask(upper, 0.5).within(inside), (0.84, 0.80, 0.80), 0.8)
    creases = []
    for x in np.linspace(-0.8, 0.8, 9) * shape.mouth_width:
        x = float(x + rng.uniform(-0.6, 0.6))
        y = float(np.interp(x, inner_bottom[::-1, 0], inner_bottom[::-1, 1]))
        creases.append(ribbon(stage.surface([(x, y + 0.4), (x * 1.03, y + 0.72 * shape.lower_lip)]), 0.5 * stage.view.unit))
    canvas.shade(canvas.mask(creases, 0.2).within(inside), 0.72, lips.creases * (2.0 if stick is None else 1.0))
    low_y = float(inner_bottom[:, 1].max()) + 0.46 * shape.lower_lip
    sheen = lips.sheen if stick is None else max(lips.sheen, stick.gloss)
    lx = face.light.direction[0]
    shine = stage.blob(2.5 * lx, low_y, 5.2, 0.9, 0.75).within(inside)
    canvas.fill(shine, (1.0, 0.95, 0.93), 0.55 * sheen)

    if shape.mouth_open > 0.5:
        _draw_open_mouth(stage, inner_top, inner_bottom)
    line = 0.5 * (inner_top + inner_bottom[::-1]) if shape.mouth_open <= 0.5 else inner_top
    dark = np.array(face.skin.color) * (0.36, 0.20, 0.19)
    canvas.fill(stage.stroke(line[::3], [0.8, 1.3, 1.3, 1.3, 0.8], 0.3), dark, 0.8)
    for corner in (p[0], p[6]):
        canvas.shade(stage.blob(corner[0], corner[1], 1.5, 1.1, 0.8), (0.55, 0.42, 0.40), 0.7)


def _draw_open_mouth(stage: Stage, inner_top: np.ndarray, inner_bottom: np.ndarray) -> None:
    canvas, shape = stage.canvas, stage.face.shape
    gap = stage.surface(np.concatenate([inner_top, inner_bottom[1:-1]]))
    clip = canvas.coverage(gap)
    canvas.fill(canvas.mask(gap), (0.15, 0.05, 0.055))
    reach = shape.mouth_open * (0.80 if shape.smile > 0.3 else 0.42)
    teeth = np.concatenate([inner_top * (0.86, 1.0), inner_top[::-1] * (0.80, 1.0) + (0.0, reach)])
    canvas.fill(canvas.mask(stage.surface(teeth), 0.25).within(clip), (0.93, 0.91, 0.87), 0.94)
    gaps = [
        ribbon(stage.surface([(x, shape.mouth_y - 6.0), (x, shape.mouth_y + 6.0)]), 0.35 * stage.view.unit)
        for x in (-7.6, -4.4, 0.0, 4.4, 7.6)
    ]
    canvas.shade(canvas.mask(gaps, 0.15).within(clip), 0.80, 0.5)
    canvas.shade(canvas.mask(ribbon(stage.surface(inner_top), 2.0 * stage.view.unit), 0.6).within(clip), 0.55, 0.6)
    tongue = stage.blob(0.0, shape.mouth_y + 0.64 * shape.mouth_open, 6.5, 1.5, 0.7).within(clip)
    canvas.fill(tongue, (0.56, 0.24, 0.25), 0.6 if shape.smile < 0.3 else 0.3)
