"""Hair on the head: a sheet between an outer and an inner curve, strands in between."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Mask, ribbon, ribbons
from .geometry import moved, resample, spline
from .stage import Stage, ellipse, mix

_SAMPLES = 24
_TAPER = np.interp(np.linspace(0.0, 1.0, _SAMPLES), [0.0, 0.14, 0.4, 1.0], [0.15, 0.8, 1.0, 0.35])


def _sheet(stage: Stage, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Outer and inner curve (pixels) of the hair on one side of the parting, from the parting to
    the ends."""
    hair, w = stage.face.hair, stage.face.shape.width
    top = -77.0 - hair.volume
    part = hair.part * side  # in the side's own frame, where x grows outward
    wide = w + 1.5 + 0.75 * hair.volume
    line = hair.hairline - 12.0 * hair.recede
    temple = (0.60 * w, line - 2.0) if hair.recede else (0.72 * w, hair.hairline + 13.0)
    start_out, start_in = (part, top), (part, line - 1.0)
    if hair.cut in ("short", "up", "bald"):
        outer = [
            start_out,
            (0.50 * w + 0.4 * part, top + 4.0),
            (wide - 3.0, -48.0),
            (w + 2.6, -20.0),
            (w + 0.6, 2.0),
        ]
        inner = [
            start_in,
            (0.36 * w + 0.5 * part, line + 1.0),
            temple,
            (0.90 * w, -20.0),
            (0.955 * w, 2.0),
        ]
    else:
        end = hair.length
        flare, inward = (5.0, 0.0) if hair.cut == "long" else (1.0, 6.0)
        tuck = (1.0 - 0.10 * hair.in_front) * w
        outer = [
            start_out, (0.52 * w + 0.4 * part, top + 3.0), (wide - 1.0, -46.0), (wide + 3.0, -8.0),
            (wide + 3.0 + flare, 0.5 * end), (wide + 1.5 * flare - inward, end),
        ]  # fmt: skip
        inner = [
            start_in, (0.34 * w + 0.5 * part, line + 2.0), temple, (0.93 * w, -14.0),
            (tuck, 0.45 * end), (tuck * (0.98 if hair.cut == "long" else 0.94), end - 2.0),
        ]  # fmt: skip
    flip = np.array([side, 1.0])
    curves = []
    for knots, inside in ((outer, False), (inner, True)):
        curve = resample(spline(np.array(knots) * flip, 6), _SAMPLES)
        if inside:
            z = np.minimum(stage.head.depth(curve[:, 0], curve[:, 1]), 30.0) + 1.0
            curves.append(stage.view.project(curve, z))
        else:
            curves.append(stage.flat(curve, -10.0))
    return curves[0], curves[1]


def _wave(
    stage: Stage, curves: np.ndarray, phase: np.ndarray | float, strength: np.ndarray | float
) -> np.ndarray:
    """Bend strands [S,P,2] sideways, more toward their ends; phase and strength for each strand or
    for all."""
    if stage.face.hair.wave <= 0.0:
        return curves
    s = np.linspace(0.0, 1.0, curves.shape[1])
    reach = np.concatenate([curves[:, :1], curves, curves[:, -1:]], axis=1)
    normal = (reach[:, 2:] - reach[:, :-2])[..., ::-1] * (-1.0, 1.0)
    normal /= np.sqrt((normal * normal).sum(axis=2, keepdims=True)) + 1e-9
    phase, strength = np.atleast_1d(phase)[:, None], np.atleast_1d(strength)[:, None]
    bend = (
        strength
        * stage.view.unit
        * np.clip(s * 2.0 - 0.15, 0.0, 1.0)
        * np.sin(2 * math.pi * (3.4 * s + phase))
    )
    return curves + normal * bend[..., None]


def _paint(
    stage: Stage, body: list[np.ndarray], strands: list[np.ndarray], level: float = 1.0
) -> Mask:
    """Fill a sheet and its strands with shades of the hair's colour."""
    canvas, hair, rng = stage.canvas, stage.face.hair, stage.rng
    shapes = body + strands
    spread = 0.10 + 0.13 * hair.mess
    tones = np.concatenate(
        [np.full(len(body), 0.46), np.clip(rng.normal(0.5, spread, len(strands)), 0.12, 0.95)]
    )
    cover, tone = canvas.tones(shapes, tones)
    color = np.array(hair.color, dtype=np.float32)
    lift = np.float32(0.07) * np.clip(tone - 0.5, 0.0, None)[..., None]
    depth = 1.16 - 0.55 * float(color.mean())  # light hair shows less of its strands
    shade = ((1.0 + depth * (tone - 0.5)) * level).astype(np.float32)
    canvas.fill(cover, color * shade[..., None] + lift)
    return cover


def _strand_set(
    stage: Stage, outer: np.ndarray, inner: np.ndarray, count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outline and strands of a sheet between two curves."""
    hair, rng = stage.face.hair, stage.rng
    phase, wave = rng.uniform(), hair.wave
    edges = _wave(
        stage,
        np.stack([outer, inner]),
        np.array([phase, phase + 0.3]),
        np.array([wave, 0.6 * wave]),
    )
    t = rng.permutation(np.linspace(0.0, 1.0, count)) + rng.normal(
        0.0, 0.02 + 0.02 * hair.mess, count
    )
    t = np.clip(t, -0.02, 1.0)[:, None, None]
    curves = outer * (1.0 - t) + inner * t
    t = t[:, 0, 0]
    curves = _wave(
        stage, curves, phase + 0.3 * t + rng.normal(0.0, 0.02, count), wave * (1.0 - 0.4 * t)
    )
    widths = rng.uniform(0.9, 2.4, count)[:, None] * stage.view.unit * _TAPER
    return [np.concatenate([edges[0], edges[1][::-1]])], list(ribbons(curves, widths))


def draw_back_hair(stage: Stage) -> None:
    """Hair behind the neck."""
    hair = stage.face.hair
    if hair.cut == "bald":
        return
    left, right = _sheet(stage, -1.0)[0], _sheet(stage, 1.0)[0]
    if hair.cut == "up":
        w = stage.face.shape.width
        bun = stage.flat(ellipse(hair.part * 0.3, -84.0 - hair.volume, 0.36 * w, 13.0), -25.0)
        mids = [
            stage.flat(ellipse(hair.part * 0.3, -84.0 - hair.volume, 0.36 * w * k, 13.0 * k), -25.0)
            for k in (0.82, 0.6, 0.36)
        ]
        rings = [ribbon(np.concatenate([m, m[:3]]), 1.6 * stage.view.unit) for m in mids]
        _paint(stage, [bun], rings, 0.85)
    if hair.cut in ("long", "bob"):
        phase = stage.rng.uniform()
        a, b = _wave(stage, np.stack([left, right]), np.array([phase, phase + 0.5]), hair.wave)
        t = stage.rng.permutation(np.linspace(0.0, 1.0, 26))
        curves = a * (1 - t[:, None, None]) + b * t[:, None, None]
        curves = _wave(stage, curves, phase + t, 0.6 * hair.wave)[:, 6:]
        strands = list(ribbons(curves, np.full(curves.shape[:2], 2.0 * stage.view.unit)))
        _paint(stage, [np.concatenate([a, b[::-1]])], strands, 0.58)


def draw_front_hair(stage: Stage) -> None:
    """Hair over the head and beside the face, and the fringe."""
    hair, canvas = stage.face.hair, stage.canvas
    if hair.cut == "bald":
        return
    hat = bool(stage.face.accessories.hat)
    sheets = [_sheet(stage, s) for s in (-1.0, 1.0)]
    u = stage.view.unit
    drop = np.array([0.0, 2.6 * u])
    under = [np.concatenate([o, i[::-1] + drop]) for o, i in sheets]
    canvas.shade(canvas.mask(under, 2.4).within(stage.cover), (0.66, 0.56, 0.54), 0.7)
    bodies: list[np.ndarray] = []
    strands: list[np.ndarray] = []
    for outer, inner in sheets:
        b, s = _strand_set(stage, outer, inner, 40)
        bodies += b
        strands += s
    order = stage.rng.permutation(len(strands))
    sheet = _paint(stage, bodies, [strands[i] for i in order])
    if hair.bangs and not hat:
        _draw_bangs(stage)
    _shine(stage, sheet)


def _draw_bangs(stage: Stage) -> None:
    hair, canvas, rng = stage.face.hair, stage.canvas, stage.rng
    w, top = stage.face.shape.width, -77.0 - hair.volume
    x = np.linspace(-0.90, 0.90, 46)
    drop = rng.normal(0.0, 0.8 + 1.2 * hair.mess, len(x))
    ends = np.stack([x * w + 0.25 * hair.part, hair.bangs + 9.0 * x * x + drop], axis=1)
    mids = np.stack([0.92 * x * w + 0.3 * hair.part, np.full(len(x), -52.0)], axis=1)
    starts = np.stack([0.55 * x * w + 0.5 * hair.part, np.full(len(x), top + 9.0)], axis=1)
    curves = np.stack(
        [spline(np.stack(knots), 7) for knots in zip(starts, mids, ends, strict=True)]
    )
    flat = curves.reshape(-1, 2)
    z = np.minimum(stage.head.depth(flat[:, 0], flat[:, 1]), 44.0) + 3.0
    paths = _wave(
        stage, stage.view.project(flat, z).reshape(curves.shape), 0.1 * x, 0.4 * hair.wave
    )
    widths = (
        rng.uniform(0.8, 1.5, len(x))[:, None]
        * np.linspace(2.4, 0.7, paths.shape[1])
        * stage.view.unit
    )
    strands = ribbons(paths, widths)
    body = np.concatenate([paths[0], paths[1:-1, -1] - (0, 2.0), paths[-1][::-1], paths[::-1, 0]])
    low = moved(body, 0.0, 2.2 * stage.view.unit)
    canvas.shade(canvas.mask(low, 2.0).within(stage.cover), (0.66, 0.56, 0.54), 0.6)
    order = rng.permutation(len(strands))
    _paint(stage, [body], [strands[i] for i in order], 1.02)


def _shine(stage: Stage, sheet: Mask) -> None:
    """A soft bright arc on the crown, a dark side away from the light."""
    hair, canvas = stage.face.hair, stage.canvas
    full = np.zeros((canvas.height, canvas.width), dtype=np.float32)
    full[sheet.window] = sheet.alpha
    w = stage.face.shape.width
    lx = stage.face.light.direction[0]
    t = np.linspace(0.22 * math.pi, 0.78 * math.pi, 15) - 0.35 * lx
    arc = np.stack([-(w - 3.0) * np.cos(t), -6.0 - 60.0 * np.sin(t)], axis=1)
    band = canvas.mask(ribbon(stage.flat(arc, 12.0), 8.0 * stage.view.unit), 3.2).within(full)
    canvas.shade(band, 1.5, hair.shine)
    canvas.fill(band, mix(hair.color, (1.0, 1.0, 1.0), 0.4), 0.10 * hair.shine)
    for s in (-1.0, 1.0):
        edge = canvas.mask(stage.flat(ellipse(s * (w + 6.0), -20.0, 9.0, 60.0), 0.0), 6.0).within(
            full
        )
        canvas.shade(edge, 0.68, float(np.clip(0.45 - 0.6 * s * lx, 0.0, 1.0)))
