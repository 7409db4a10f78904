"""Brows, eyes, nose and mouth, and the make-up on them."""

from __future__ import annotations

import numpy as np

from .canvas import Mask
from .geometry import EYE_X, mirrored, moved, spline
from .stage import Stage, ellipse, mix


def draw_blush(stage: Stage) -> None:
    """Blush over both cheeks, never on the lips."""
    makeup, shape = stage.face.makeup, stage.face.shape
    if makeup is None:
        return
    y = 21.0 - 3.0 * max(shape.smile, 0.0)
    cheeks = stage.blobs(0.66 * shape.width, y, 12.5, 6.5, 4.5, turn=-0.45)
    cheeks = cheeks.within(stage.cover).within(stage.lips, outside=True)
    stage.canvas.fill(cheeks, makeup.blush, makeup.blush_opacity, stage.light)


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
        path = spline(half, 6)
        width = np.interp(np.linspace(0, 1, 25), np.linspace(0, 1, 5), widths)
        outward = -1.0 if side == 0 else 1.0
        count = int(16 + 10 * thick)
        at = rng.integers(1, 24, count)
        roots = path[at] + np.stack(
            [np.zeros(count), rng.uniform(-0.42, 0.42, count) * width[at]], axis=1
        )
        growth = np.stack(
            [outward * rng.uniform(1.2, 2.6, count), -rng.uniform(0.2, 1.6, count)], axis=1
        )
        hairs = stage.hairs(roots, roots + growth, 0.55)
        canvas.fill(canvas.mask(hairs), color * 0.7, 0.65 * strength)


def draw_eyes(stage: Stage) -> None:
    """Lids, eyeballs and lashes, with eye shadow, liner and longer lashes where make-up is worn."""
    face, canvas, makeup, eyes = stage.face, stage.canvas, stage.face.makeup, stage.face.eyes
    skin = np.array(face.skin.color)
    # right eye: outer, top, top, inner, bottom, bottom
    p = stage.head.landmarks[42:48][[3, 2, 1, 0, 5, 4]]
    upper, lower = spline(p[:4], 6), spline(p[[3, 4, 5, 0]], 6)
    canvas.shade(stage.blobs(EYE_X - 0.5, -3.8, 11.0, 5.0, 3.2), (0.86, 0.78, 0.76), 0.6)
    if makeup is not None:
        _draw_eye_shadow(stage, upper)
    crease = upper * (1.04, 1.0) - (0.8, 2.4)
    crease[:, 1] -= 0.8 * np.sin(np.linspace(0, np.pi, len(upper)))
    canvas.shade(
        stage.stroke(mirrored(crease[2:-2:3]), [0.4, 1.2, 1.0, 0.3], 0.4),
        (0.58, 0.46, 0.42),
        eyes.crease,
    )

    openings = stage.surface(mirrored(np.concatenate([upper, lower[1:-1]])))
    clip = canvas.coverage(openings)
    white = mix((0.93, 0.92, 0.91), skin, 0.12)
    canvas.fill(canvas.mask(openings), white, light=stage.soft_light)
    canvas.fill(
        stage.blobs(p[3, 0], p[3, 1], 1.6, 1.2, 0.3).within(clip),
        mix((0.78, 0.50, 0.48), skin, 0.3),
        0.8,
    )
    canvas.shade(stage.blobs(p[3, 0], p[3, 1], 3.0, 3.0, 1.2).within(clip), 0.72, 0.7)
    canvas.shade(stage.blobs(p[0, 0], p[0, 1], 3.0, 3.0, 1.2).within(clip), 0.72, 0.7)

    iris, y = np.array(eyes.iris), eyes.gaze[1] - 0.4 * face.shape.eye_open + 0.4

    def discs(dx: float, dy: float, r: float, blur: float = 0.0) -> Mask:
        both = [ellipse(s * EYE_X + eyes.gaze[0] + dx, y + dy, r, r) for s in (-1.0, 1.0)]
        return canvas.mask(stage.flat(np.stack(both), 41.0), blur).within(clip)

    canvas.fill(discs(0, 0, eyes.iris_size, 0.15), iris * 0.42)
    canvas.fill(discs(0, 0, eyes.iris_size * 0.82, 0.3), iris)
    canvas.fill(discs(0, 1.2, eyes.iris_size * 0.55, 0.7), np.clip(iris * 1.45, 0, 1), 0.7)
    canvas.fill(discs(0, 0, eyes.iris_size * 0.42, 0.1), (0.03, 0.03, 0.035))
    canvas.fill(
        discs(1.4 if face.light.direction[0] >= 0 else -1.4, -1.5, 0.95, 0.12),
        (1.0, 1.0, 1.0),
        0.92,
    )
    canvas.shade(stage.stroke(mirrored(upper[::3]), 3.0, 0.8).within(clip), 0.50, 0.75)

    dark = mix((0.10, 0.07, 0.06), skin, 0.10)
    lashes = eyes.lashes if makeup is None else 1.0
    width = 0.75 + 0.55 * eyes.lashes if makeup is None else 1.5 + 0.9 * makeup.liner
    line = stage.stroke(mirrored(upper[::3]), [0.9 * width, width, width, 0.4 * width], 0.22)
    canvas.fill(line, dark, 0.55 + 0.4 * lashes)
    under = stage.stroke(
        mirrored(lower[::3]), [0.4, 0.7, 0.8] if makeup is None else [0.5, 1.0, 1.3], 0.3
    )
    canvas.fill(under, dark, 0.30 if makeup is None else 0.35 + 0.45 * makeup.liner)
    if makeup is not None:
        wing = np.stack([upper[3], p[0], p[0] + (3.8, -2.2)])
        canvas.fill(
            stage.stroke(mirrored(wing), [1.2, width, 0.3], 0.2), dark, 0.5 + 0.5 * makeup.liner
        )
        at = np.arange(1, len(upper) - 4, 2)
        along = at / len(upper)
        growth = np.stack(
            [2.4 - 3.2 * along, -1.4 - 2.2 * makeup.lashes * (1.0 - 0.5 * along)], axis=1
        )
        roots, tips = mirrored(upper[at]), mirrored(upper[at] + growth)
        canvas.fill(
            canvas.mask(stage.hairs(roots.reshape(-1, 2), tips.reshape(-1, 2), 0.75, 0.3)),
            dark,
            0.85,
        )


def _draw_eye_shadow(stage: Stage, upper: np.ndarray) -> None:
    makeup, canvas = stage.face.makeup, stage.canvas
    assert makeup is not None
    outer = upper[0]
    lid = upper.copy()
    lid[:, 1] += (
        0.62
        * (stage.face.shape.brow_y + 3.0)
        * np.sin(np.linspace(0.10, np.pi * 0.97, len(lid))) ** 0.7
    )
    lid[:, 0] += 1.5
    patch = np.concatenate([[moved(outer, 3.0, -1.5)], upper, lid[::-1]])
    lids = canvas.mask(stage.surface(mirrored(patch)), 1.3).within(stage.cover)
    canvas.fill(lids, makeup.shadow, makeup.shadow_opacity, stage.light)
    under = stage.blobs(EYE_X + 2.0, 4.0, 7.0, 1.0, 0.9).within(stage.cover)
    canvas.fill(under, makeup.shadow, 0.45 * makeup.shadow_opacity, stage.light)


def draw_nose(stage: Stage) -> None:
    """Nostrils, wings and the shadow beneath; the rest of the nose is in the light."""
    canvas, shape = stage.canvas, stage.face.shape
    n, w = shape.nose_length, shape.nose_width
    lx = stage.face.light.direction[0]
    below = stage.blob(-1.5 * lx, n + 3.6, 7.5 * w, 2.2, 1.7).within(stage.lips, outside=True)
    canvas.shade(below, (0.70, 0.58, 0.55), 0.70)
    wings = mirrored(
        [(8.2 * w, n - 6.0), (9.3 * w, n - 3.0), (8.6 * w, n + 0.2), (6.6 * w, n + 0.8)]
    )
    canvas.shade(stage.stroke(wings, [0.4, 1.3, 1.5, 0.5], 0.55), (0.58, 0.45, 0.42), 0.62)
    canvas.shade(
        stage.blobs(4.1 * w, n + 0.6, 2.3 * w, 1.1, 0.45, turn=0.25), (0.30, 0.18, 0.16), 0.75
    )
    shaded = stage.blob(-7.0 * np.sign(lx), 0.35 * n, 2.2, 0.30 * n, 2.0)
    canvas.shade(shaded, (0.82, 0.73, 0.70), 0.35 + 0.30 * abs(lx))
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
    inside = canvas.coverage(outline)
    canvas.fill(natural, lips.natural, 0.92, stage.soft_light)
    shadow = stage.blob(
        0.0, shape.mouth_y + shape.lower_lip + 0.64 * shape.mouth_open + 3.0, 9.0, 1.4, 1.3
    )
    canvas.shade(shadow.within(inside, outside=True), (0.74, 0.63, 0.60), 0.6)
    stick = face.lipstick
    if stick is not None:
        canvas.fill(canvas.mask(outline, 0.25), stick.color, stick.opacity, stage.soft_light)

    upper = stage.surface(np.concatenate([top, inner_top[::-1]]))
    canvas.shade(canvas.mask(upper, 0.5).within(inside), (0.84, 0.80, 0.80), 0.8)
    x = np.linspace(-0.8, 0.8, 9) * shape.mouth_width + rng.uniform(-0.6, 0.6, 9)
    y = np.interp(x, inner_bottom[::-1, 0], inner_bottom[::-1, 1])
    creases = stage.hairs(
        np.stack([x, y + 0.4], 1), np.stack([x * 1.03, y + 0.72 * shape.lower_lip], 1), 0.5
    )
    canvas.shade(
        canvas.mask(creases, 0.2).within(inside),
        0.72,
        lips.creases * (2.0 if stick is None else 1.0),
    )
    low_y = float(inner_bottom[:, 1].max()) + 0.46 * shape.lower_lip
    sheen = lips.sheen if stick is None else max(lips.sheen, stick.gloss)
    lx = face.light.direction[0]
    shine = stage.blob(2.5 * lx, low_y, 5.2, 0.9, 0.75).within(inside)
    canvas.fill(shine, (1.0, 0.95, 0.93), 0.55 * sheen)

    if shape.mouth_open > 0.5:
        _draw_open_mouth(stage, inner_top, inner_bottom)
    line = 0.5 * (inner_top + inner_bottom[::-1]) if shape.mouth_open <= 0.5 else inner_top
    dark = np.array(face.skin.color) * (0.36, 0.20, 0.19)
    canvas.fill(stage.stroke(line[::4], [0.8, 1.3, 1.3, 1.3, 0.8], 0.3), dark, 0.8)
    corners = np.stack([ellipse(x, y, 1.5, 1.1) for x, y in (p[0], p[6])])
    canvas.shade(canvas.mask(stage.surface(corners), 0.8), (0.55, 0.42, 0.40), 0.7)


def _draw_open_mouth(stage: Stage, inner_top: np.ndarray, inner_bottom: np.ndarray) -> None:
    canvas, shape = stage.canvas, stage.face.shape
    gap = stage.surface(np.concatenate([inner_top, inner_bottom[1:-1]]))
    clip = canvas.coverage(gap)
    canvas.fill(canvas.mask(gap), (0.15, 0.05, 0.055))
    reach = shape.mouth_open * (0.80 if shape.smile > 0.3 else 0.42)
    teeth = np.concatenate([inner_top * (0.86, 1.0), inner_top[::-1] * (0.80, 1.0) + (0.0, reach)])
    canvas.fill(canvas.mask(stage.surface(teeth), 0.25).within(clip), (0.93, 0.91, 0.87), 0.94)
    x = np.array([-7.6, -4.4, 0.0, 4.4, 7.6])
    gaps = stage.hairs(
        np.stack([x, 0 * x + shape.mouth_y - 6.0], 1),
        np.stack([x, 0 * x + shape.mouth_y + 6.0], 1),
        0.35,
    )
    canvas.shade(canvas.mask(gaps, 0.15).within(clip), 0.80, 0.5)
    canvas.shade(stage.stroke(inner_top[::4], 2.0, 0.6).within(clip), 0.55, 0.6)
    tongue = stage.blob(0.0, shape.mouth_y + 0.64 * shape.mouth_open, 6.5, 1.5, 0.7).within(clip)
    canvas.fill(tongue, (0.56, 0.24, 0.25), 0.6 if shape.smile < 0.3 else 0.3)
