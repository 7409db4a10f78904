"""Behind the face: background, clothes, neck, ears."""

from __future__ import annotations

import math

import numpy as np

from .geometry import moved
from .stage import Points, Stage, ellipse, mix


def draw_background(stage: Stage) -> None:
    """A wall in soft light, out-of-focus lamps, or two blurred fields."""
    canvas, scene, rng = stage.canvas, stage.face.scene, stage.rng
    w, h = canvas.width, canvas.height
    a, b, c = (np.array(color, dtype=np.float32) for color in scene.colors)
    ax, ay = math.cos(scene.angle), math.sin(scene.angle)
    gx = np.linspace(-0.5, 0.5, w, dtype=np.float32)[None, :] * np.float32(ax)
    gy = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None] * np.float32(ay)
    ramp = np.clip(gx + gy + 0.5, 0.0, 1.0)
    if scene.pattern == "split":
        ramp = 1.0 / (1.0 + np.exp(-(ramp - 0.5) * 24.0))
    ramp = np.clip(ramp + 0.05 * stage.noise(4), 0.0, 1.0)[..., None]
    canvas.image[:] = a + (b - a) * ramp
    if scene.pattern == "bokeh":
        for _ in range(9):
            x, y = rng.uniform(0, w), rng.uniform(0, h)
            radius = rng.uniform(6.0, 20.0) * stage.view.unit
            mask = canvas.mask(ellipse(x, y, radius, radius), blur=rng.uniform(0.8, 3.0))
            canvas.fill(mask, mix(c, a, rng.uniform(0.0, 0.6)), rng.uniform(0.15, 0.45))


def draw_body(stage: Stage) -> None:
    """Neck, shoulders, clothes, tie and necklace."""
    face, canvas = stage.face, stage.canvas
    shape, male = face.shape, face.attributes["Male"]
    skin = np.array(face.skin.color)
    half = (30.0 if male else 25.0) + 4.5 * shape.fullness
    z = -6.0
    side = [
        (half, 35.0),
        (half * 0.97, 70.0),
        (half * 1.03, 88.0),
        (half + 16.0, 97.0),
        (95.0, 108.0),
        (110.0, 150.0),
    ]
    outline = np.array(side + [(-x, y) for x, y in reversed(side)])
    body = canvas.mask(stage.body(outline, z))
    canvas.fill(body, skin * 0.86)
    cover = canvas.coverage(stage.body(outline, z))
    lx = face.light.direction[0]
    for s in (-1.0, 1.0):
        edge = canvas.mask(stage.body(ellipse(s * half * 1.02, 80.0, 8.0, 40.0), z), 5.0)
        canvas.shade(edge.within(cover), 0.66 - 0.14 * s * lx, 0.75)
    jaw = stage.head.landmarks[1:16] * (0.98, 1.0) + (2.0 * -lx, 9.0)
    jaw = np.concatenate([jaw, [(40.0, 10.0), (-40.0, 10.0)]])
    canvas.shade(canvas.mask(stage.body(jaw, 8.0), 4.5).within(cover), (0.62, 0.52, 0.50), 0.85)
    collar = stage.body([(-9.0, 100.0), (0.0, 103.5), (9.0, 100.0)], z)
    canvas.shade(canvas.mask(collar, 2.0).within(cover), 0.8, 0.6)
    if face.accessories.necklace:
        _draw_necklace(stage, half, z)
    _draw_clothes(stage, half, z)


def _draw_clothes(stage: Stage, half: float, z: float) -> None:
    def place(points: Points, z: float) -> np.ndarray:
        return moved(stage.body(points, z), 0.0, -4.0 * stage.view.unit)

    canvas, scene, tie = stage.canvas, stage.face.scene, stage.face.accessories.necktie
    cloth = np.array(scene.clothes)
    depth = {"round": 101.0, "v": 116.0, "shirt": 106.0}[scene.collar]
    neckline = [
        (-half - 13.0, 93.0),
        (-half - 2.0, 97.0 if scene.collar == "v" else 99.0),
        (0.0, depth),
    ]
    neckline += [(-x, y) for x, y in reversed(neckline[:-1])]
    outline = np.array([*neckline, (95.0, 106.0), (130.0, 160.0), (-130.0, 160.0), (-95.0, 106.0)])
    shirt = scene.collar == "shirt"
    white = np.array([0.90, 0.91, 0.93])
    canvas.fill(canvas.mask(place(outline, z), 0.3), mix(cloth, white, 0.85) if shirt else cloth)
    fold = canvas.mask(place(np.array([*neckline, (40.0, 120.0), (-40.0, 120.0)]), z), 1.5)
    canvas.shade(fold, 0.82, 0.5)
    if shirt:
        for s in (-1.0, 1.0):
            jacket = np.array(
                [
                    (s * (half + 15.0), 90.0),
                    (s * 22.0, 125.0),
                    (s * 130.0, 160.0),
                    (s * 95.0, 104.0),
                ]
            )
            canvas.fill(canvas.mask(place(jacket, z + 2), 0.3), cloth)
            flap = np.array(
                [
                    (s * (half + 3.0), 84.0),
                    (s * (half + 1.0), 92.0),
                    (s * 3.0, 101.0),
                    (s * 13.0, 113.0),
                    (s * (half + 7), 96.0),
                ]
            )
            edge = canvas.mask(place(flap, z + 4), 0.9)
            canvas.shade(edge, 0.6, 0.6)
            canvas.fill(canvas.mask(place(flap, z + 4), 0.25), mix(cloth, white, 0.93))
    if tie:
        color = np.array(stage.face.accessories.tie_color)
        knot = np.array(
            [(-6.5, 97.0), (6.5, 97.0), (4.2, 107.0), (9.0, 140.0), (-9.0, 140.0), (-4.2, 107.0)]
        )
        canvas.fill(canvas.mask(place(knot, z + 6), 0.3), color)
        shade = np.array([(0.5, 97.0), (6.5, 97.0), (4.2, 107.0), (9.0, 140.0), (0.5, 140.0)])
        canvas.shade(canvas.mask(place(shade, z + 6), 0.8), 0.7, 0.7)


def _draw_necklace(stage: Stage, half: float, z: float) -> None:
    canvas, metal = stage.canvas, np.array(stage.face.accessories.metal)
    t = np.linspace(0.06, math.pi - 0.06, 17)
    curve = np.stack([-(half + 1.0) * np.cos(t), 82.0 + 13.0 * np.sin(t) ** 0.9], axis=1)
    for i, (x, y) in enumerate(curve):
        bead = 1.5 if i != 8 else 2.6
        canvas.shade(
            canvas.mask(stage.body(ellipse(x + 0.4, y + 1.2, bead, bead), z), 0.7), 0.5, 0.6
        )
        canvas.fill(canvas.mask(stage.body(ellipse(x, y, bead, bead), z)), metal * 0.9)
        canvas.fill(
            canvas.mask(stage.body(ellipse(x - 0.4, y - 0.4, 0.6, 0.6), z)),
            mix(metal, (1, 1, 1), 0.7),
        )


def draw_ears(stage: Stage) -> None:
    """Both ears, half hidden by the head."""
    face, canvas = stage.face, stage.canvas
    skin = np.array(face.skin.color)
    for s in (-1.0, 1.0):
        x = s * (face.shape.width + 0.5)
        level = 0.88 + 0.16 * s * face.light.direction[0]
        ear = canvas.mask(stage.flat(ellipse(x, 8.0, 5.2, 13.0, turn=s * 0.16), -2.0))
        canvas.fill(ear, np.clip(skin * (level, level * 0.93, level * 0.90), 0, 1))
        inner = canvas.mask(
            stage.flat(ellipse(x + s * 0.8, 7.0, 2.4, 8.0, turn=s * 0.16), -2.0), 1.0
        )
        canvas.shade(inner, (0.72, 0.60, 0.57), 0.6)


def draw_earrings(stage: Stage) -> None:
    """Studs or hoops under the ear lobes, over the hair so that they are seen."""
    face, canvas = stage.face, stage.canvas
    kind, metal = face.accessories.earrings, np.array(face.accessories.metal)
    if not kind:
        return
    for s in (-1.0, 1.0):
        x, y = s * (face.shape.width + 1.5), 22.5
        if kind == "stud":
            canvas.shade(canvas.mask(stage.flat(ellipse(x, y + 0.8, 3.0, 3.0), 0.0), 0.8), 0.5, 0.6)
            canvas.fill(canvas.mask(stage.flat(ellipse(x, y, 2.6, 2.6), 0.0)), metal)
            canvas.fill(
                canvas.mask(stage.flat(ellipse(x - 0.7, y - 0.8, 1.0, 1.0), 0.0)),
                (1.0, 1.0, 1.0),
                0.8,
            )
        else:
            outer, inner = ellipse(x, y + 7.0, 5.0, 7.5), ellipse(x, y + 7.0, 3.4, 5.9)[::-1]
            ring = np.concatenate([outer, outer[:1], inner, inner[:1]])
            canvas.shade(canvas.mask(stage.flat(moved(ring, 0.6, 0.8), 0.0), 0.6), 0.5, 0.5)
            canvas.fill(canvas.mask(stage.flat(ring, 0.0)), metal)
