"""Glasses and hats."""

from __future__ import annotations

import math

import numpy as np

from .canvas import ribbon
from .geometry import EYE_X, moved, spline
from .stage import Stage, ellipse, mix


def draw_glasses(stage: Stage) -> None:
    """Clear or dark glasses in front of the eyes."""
    kit, canvas, unit = stage.face.accessories, stage.canvas, stage.view.unit
    if not kit.glasses:
        return
    z, w = 47.0, stage.face.shape.width
    rx, ry = kit.lens_size
    frame = np.array(kit.frame)
    cx, cy = EYE_X + 1.5, 1.2
    rx = min(rx, cx - 3.0)
    lines = []
    for s in (-1.0, 1.0):
        rim = ellipse(s * cx, cy, rx, ry, power=kit.roundness)
        lens = stage.flat(rim, z)
        mask = canvas.mask(lens)
        if kit.glasses == "dark":
            tint = mix((0.03, 0.03, 0.04), frame, 0.12)
            canvas.fill(mask, tint, 0.93)
            glow = canvas.mask(
                stage.flat(ellipse(s * cx, cy + 0.55 * ry, 0.8 * rx, 0.35 * ry), z), 2.2
            )
            canvas.fill(
                glow.within(canvas.coverage(lens)), mix(tint, stage.face.skin.color, 0.5), 0.35
            )
        else:
            canvas.fill(mask, (1.0, 1.0, 1.0), 0.05)
        streak = np.array([(-0.55, -0.8), (-0.15, -0.8), (-0.5, 0.8), (-0.9, 0.8)]) * (
            rx * 0.8,
            ry * 0.9,
        ) + (s * cx, cy)
        gleam = canvas.mask(stage.flat(streak, z), 0.6).within(canvas.coverage(lens))
        canvas.fill(gleam, (1.0, 1.0, 1.0), 0.16)
        lines.append(ribbon(stage.flat(np.concatenate([rim, rim[:2]]), z), kit.frame_width * unit))
        hinge = np.array([(s * (cx + rx - 0.5), cy - 0.35 * ry), (s * (w + 0.5), -3.0)])
        ends = stage.view.project(hinge, np.array([z, 4.0]))
        lines.append(ribbon(ends, np.array([1.0, 0.8]) * kit.frame_width * 1.3 * unit))
    bridge = spline(
        np.array(
            [
                (-(cx - rx + 0.3), cy - 0.2 * ry),
                (0.0, cy - 0.42 * ry),
                (cx - rx + 0.3, cy - 0.2 * ry),
            ]
        ),
        6,
    )
    lines.append(ribbon(stage.flat(bridge, z + 1.0), kit.frame_width * unit))
    shadow = [moved(line, 0.0, 1.6 * unit) for line in lines]
    canvas.shade(canvas.mask(shadow, 0.9).within(stage.cover), 0.72, 0.5)
    canvas.fill(canvas.mask(lines, 0.1), frame)
    light = [line - (0.0, 0.35 * unit) for line in lines[::2]]
    canvas.shade(canvas.mask(light, 0.2), 1.25, 0.4)


def draw_hat(stage: Stage) -> None:
    """A knitted cap, or a hat with a brim."""
    kit, canvas, unit = stage.face.accessories, stage.canvas, stage.view.unit
    if not kit.hat:
        return
    w = stage.face.shape.width + 0.75 * stage.face.hair.volume + 3.0
    color = np.array(kit.hat_color)
    lx = stage.face.light.direction[0]
    t = np.linspace(0.0, math.pi, 25)
    height = 62.0 if kit.hat == "beanie" else 56.0
    power = 0.85 if kit.hat == "beanie" else 0.55
    arc = np.stack(
        [
            -(w + 1.0) * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power,
            -32.0 - height * np.sin(t) ** power,
        ],
        axis=1,
    )
    crown = np.concatenate([arc, [(0.6 * w, -27.0), (0.0, -25.5), (-0.6 * w, -27.0)]])
    z = 6.0
    brow = stage.flat(moved(crown, 0.0, 6.0), z + 10.0)
    canvas.shade(canvas.mask(brow, 3.0).within(stage.cover), (0.60, 0.52, 0.50), 0.75)
    canvas.fill(canvas.mask(stage.flat(crown, z), 0.2), color)
    clip = canvas.coverage(stage.flat(crown, z))
    for s in (-1.0, 1.0):
        side = canvas.mask(stage.flat(ellipse(s * w, -55.0, 15.0, 45.0), z), 9.0).within(clip)
        canvas.shade(side, 0.62, float(np.clip(0.55 - 0.6 * s * lx, 0.0, 1.0)))
    canvas.shade(
        canvas.mask(stage.flat(ellipse(14.0 * lx, -72.0, 20.0, 9.0), z), 6.0).within(clip),
        1.22,
        0.8,
    )
    edge = np.array(
        [(-w - 1.0, -34.0), (-0.6 * w, -31.0), (0.0, -30.0), (0.6 * w, -31.0), (w + 1.0, -34.0)]
    )
    if kit.hat == "beanie":
        ribs = [
            ribbon(
                stage.flat(
                    spline(np.array([(x * 0.25, -93.0), (x * 0.9, -65.0), (x, -30.0)]), 6), z
                ),
                0.9 * unit,
            )
            for x in np.linspace(-0.9, 0.9, 17) * w
        ]
        canvas.shade(canvas.mask(ribs, 0.3).within(clip), 0.78, 0.7)
        band = ribbon(stage.flat(spline(edge - (0.0, 2.0), 6), z + 6.0), 13.0 * unit)
        canvas.shade(canvas.mask(moved(band, 0.0, 1.5 * unit), 1.0), 0.6, 0.5)
        canvas.fill(canvas.mask(band, 0.2), color * 0.9)
        stitches = [
            ribbon(stage.flat(np.array([(x, -40.0), (x, -26.0)]), z + 6.0), 0.8 * unit)
            for x in np.linspace(-1.0, 1.0, 27) * w
        ]
        canvas.shade(canvas.mask(stitches, 0.25).within(canvas.coverage(band)), 0.80, 0.7)
    else:
        ribbon_band = ribbon(stage.flat(spline(edge - (0.0, 7.0), 6), z + 4.0), 10.0 * unit)
        canvas.fill(canvas.mask(ribbon_band, 0.2).within(clip), color * 0.45)
        brim = np.array([
            (-w - 24.0, -33.0), (-0.7 * w, -37.0), (0.0, -36.0), (0.7 * w, -37.0),
            (w + 24.0, -33.0), (0.8 * w, -25.0), (0.0, -20.5), (-0.8 * w, -25.0),
        ])  # fmt: skip
        brim_shape = stage.flat(spline(brim, 6, closed=True), z + 14.0)
        canvas.shade(
            canvas.mask(moved(brim_shape, 0.0, 4.0 * unit), 3.0).within(stage.cover),
            (0.62, 0.55, 0.53),
            0.8,
        )
        canvas.fill(canvas.mask(brim_shape, 0.2), color * 0.92)
        lip = ribbon(stage.flat(spline(moved(brim[4:], 0.0, -1.0), 6), z + 14.0), 1.6 * unit)
        canvas.shade(canvas.mask(lip, 0.5), 0.7, 0.7)
