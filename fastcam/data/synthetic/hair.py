"""Hair on the head and on the face. Hair is a sheet between an outer and an inner curve; its strands run in between."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Mask, ribbon
from .geometry import resample, spline
from .stage import Stage, ellipse, mix

_SAMPLES = 30


def _sheet(stage: Stage, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Outer and inner curve (pixels) of the hair on one side of the parting, from the parting to the ends."""
    hair, w = stage.face.hair, stage.face.shape.width
    top = -77.0 - hair.volume
    part = hair.part * side  # in the side's own frame, where x grows outward
    wide = w + 1.5 + 0.75 * hair.volume
    line = hair.hairline - 12.0 * hair.recede
    temple = (0.60 * w, line - 2.0) if hair.recede else (0.72 * w, hair.hairline + 13.0)
    start_out, start_in = (part, top), (part, line - 1.0)
    if hair.cut in ("short", "up", "bald"):
        outer = [start_out, (0.50 * w + 0.4 * part, top + 4.0), (wide - 3.0, -48.0), (w + 2.6, -20.0), (w + 0.6, 2.0)]
        inner = [start_in, (0.36 * w + 0.5 * part, line + 1.0), temple, (0.90 * w, -20.0), (0.955 * w, 2.0)]
    else:
        end = hair.length
        flare = 5.0 if hair.cut == "long" else 1.0
        tuck = (1.0 - 0.10 * hair.in_front) * w
        outer = [
            start_out, (0.52 * w + 0.4 * part, top + 3.0), (wide - 1.0, -46.0), (wide + 3.0, -8.0),
            (wide + 3.0 + flare, 0.5 * end), (wide + flare * 1.5 - (6.0 if hair.cut == "bob" else 0.0), end),
        ]  # fmt: skip
        inner = [
            start_in, (0.34 * w + 0.5 * part, line + 2.0), temple, (0.93 * w, -14.0), (tuck, 0.45 * end),
            (tuck * (0.98 if hair.cut == "long" else 0.94), end - 2.0),
        ]  # fmt: skip
    flip = np.array([side, 1.0])
    curves = []
    for knots, inside in ((outer, False), (inner, True)):
        curve = resample(spline(np.array(knots) * flip, 8), _SAMPLES)
        if inside:
            z = np.minimum(stage.head.depth(curve[:, 0], curve[:, 1]), 30.0) + 1.0
            curves.append(stage.view.project(curve, z))
        else:
            curves.append(stage.flat(curve, -10.0))
    return curves[0], curves[1]


def _wave(stage: Stage, curve: np.ndarray, phase: float, strength: float) -> np.ndarray:
    """Bend a strand sideways, more toward its end."""
    if strength <= 0.0:
        return curve
    s = np.linspace(0.0, 1.0, len(curve))
    tangent = np.gradient(curve, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    normal = tangent[:, ::-1] * (-1.0, 1.0)
    bend = strength * stage.view.unit * np.clip(s * 2.0 - 0.15, 0.0, 1.0) * np.sin(2 * math.pi * (3.4 * s + phase))
    return curve + normal * bend[:, None]


def _paint(stage: Stage, body: list[np.ndarray], strands: list[np.ndarray], level: float = 1.0) -> Mask:
    """Fill a sheet and its strands with shades of the hair's colour."""
    canvas, hair, rng = stage.canvas, stage.face.hair, stage.rng
    shapes = body + strands
    spread = 0.10 + 0.13 * hair.mess
    tones = np.concatenate([np.full(len(body), 0.46), np.clip(rng.normal(0.5, spread, len(strands)), 0.12, 0.95)])
    cover = canvas.mask(shapes)
    tone = canvas.mask(shapes, tones=tones).alpha / np.maximum(cover.alpha, 1e-3)
    color = np.array(hair.color, dtype=np.float32)
    window = cover.window
    paint = np.zeros((canvas.height, canvas.width, 3), dtype=np.float32)
    lift = np.float32(0.07) * np.clip(tone - 0.5, 0.0, None)[..., None]
    paint[window] = color * ((0.42 + 1.16 * tone) * level)[..., None] + lift
    canvas.fill(cover, paint)
    return cover


def _strand_set(
    stage: Stage, outer: np.ndarray, inner: np.ndarray, count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outline and strands of a sheet between two curves."""
    hair, rng, unit = stage.face.hair, stage.rng, stage.view.unit
    phase = rng.uniform()
    body = [np.concatenate([_wave(stage, outer, phase, hair.wave), _wave(stage, inner, phase + 0.3, 0.6 * hair.wave)[::-1]])]
    strands = []
    for t in rng.permutation(np.linspace(0.0, 1.0, count)):
        t = float(np.clip(t + rng.normal(0.0, 0.02 + 0.02 * hair.mess), -0.02, 1.0))
        curve = outer * (1.0 - t) + inner * t
        curve = _wave(stage, curve, phase + 0.3 * t + rng.normal(0.0, 0.02), hair.wave * (1.0 - 0.4 * t))
        stop = len(curve) - int(rng.integers(0, 3))
        width = rng.uniform(0.9, 2.4) * unit * np.linspace(1.0, 0.35, stop)
        strands.append(ribbon(curve[:stop], width))
    return body, strands


def draw_back_hair(stage: Stage) -> None:
    """Hair behind the neck."""
    hair = stage.face.hair
    if hair.cut == "bald":
        return
    left, right = _sheet(stage, -1.0)[0], _sheet(stage, 1.0)[0]
    if hair.cut == "up":
        w = stage.face.shape.width
        bun = stage.flat(ellipse(hair.part * 0.3, -84.0 - hair.volume, 0.36 * w, 13.0), -25.0)
        mids = [stage.flat(ellipse(hair.part * 0.3, -84.0 - hair.volume, 0.36 * w * k, 13.0 * k), -25.0) for k in (0.82, 0.6, 0.36)]
        rings = [ribbon(np.concatenate([m, m[:3]]), 1.6 * stage.view.unit) for m in mids]
        _paint(stage, [bun], rings, 0.85)
    if hair.cut in ("long", "bob"):
        body, strands = [], []
        phase = stage.rng.uniform()
        a, b = _wave(stage, left, phase, hair.wave), _wave(stage, right, phase + 0.5, hair.wave)
        body.append(np.concatenate([a, b[::-1]]))
        for t in stage.rng.permutation(np.linspace(0.0, 1.0, 26)):
            curve = _wave(stage, a * (1 - t) + b * t, phase + t, 0.6 * hair.wave)
            strands.append(ribbon(curve[8:], 2.0 * stage.view.unit))
        _paint(stage, body, strands, 0.58)


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
    strands, tips = [], []
    sweep = 0.25 * hair.part
    for x in np.linspace(-0.90, 0.90, 46):
        end = (x * w + sweep, hair.bangs + 9.0 * x * x + rng.normal(0.0, 0.8 + 1.2 * hair.mess))
        knots = np.array([(0.55 * x * w + 0.5 * hair.part, top + 9.0), (0.92 * x * w + 0.3 * hair.part, -52.0), end])
        curve = spline(knots, 7)
        z = np.minimum(stage.head.depth(curve[:, 0], curve[:, 1]), 44.0) + 3.0
        path = _wave(stage, stage.view.project(curve, z), 0.1 * float(x), 0.4 * hair.wave)
        strands.append(ribbon(path, np.linspace(2.4, 0.7, len(path)) * rng.uniform(0.8, 1.5) * stage.view.unit))
        tips.append(path)
    body = np.concatenate([tips[0], [p[-1] - (0, 2.0) for p in tips[1:-1]], tips[-1][::-1], [p[0] for p in tips[::-1]]])
    low = body + (0.0, 2.2 * stage.view.unit)
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
        edge = canvas.mask(stage.flat(ellipse(s * (w + 6.0), -20.0, 9.0, 60.0), 0.0), 6.0).within(full)
        canvas.shade(edge, 0.68, float(np.clip(0.45 - 0.6 * s * lx, 0.0, 1.0)))


def draw_facial_hair(stage: Stage) -> None:
    """Stubble, beard, mustache, sideburns; the lips are drawn over them afterwards."""
    beard, canvas, shape = stage.face.facial_hair, stage.canvas, stage.face.shape
    color = np.array(stage.face.hair.brow_color)
    jaw = stage.head.landmarks
    my, mw, n, w = shape.mouth_y, shape.mouth_width, shape.nose_length, shape.width
    bottom = my + shape.lower_lip + 0.64 * shape.mouth_open
    cheeks = [(0.80 * w, 30.0), (0.55 * w, 39.0), (mw + 7.0, n + 8.0), (8.0, n + 4.0)]
    full = np.concatenate([jaw[3:14] * (0.985, 1.0) + (0.0, 1.0), cheeks, [(-x, y) for x, y in reversed(cheeks)]])
    if beard.stubble:
        area = canvas.mask(stage.surface(full), 3.0).within(stage.cover).within(stage.lips, outside=True)
        grain = np.clip(1.0 + 0.35 * stage.rng.normal(size=area.alpha.shape).astype(np.float32), 0.2, 1.8)
        canvas.fill(Mask(area.alpha * grain, area.x0, area.y0), mix(color, stage.face.skin.color, 0.18), beard.stubble)
    if beard.full:
        _draw_tuft(stage, full, 90, color, 0.90, stage.cover)
    elif beard.goatee:
        chin = np.array([(-9.0, bottom + 2.5), (0.0, bottom + 3.5), (9.0, bottom + 2.5), (13.5, bottom + 10.0), (10.0, shape.chin + 1.0),
                         (0.0, shape.chin + 3.0), (-10.0, shape.chin + 1.0), (-13.5, bottom + 10.0)])  # fmt: skip
        _draw_tuft(stage, chin, 46, color, 0.92 * beard.goatee, None)
    if beard.mustache:
        lip = my - shape.upper_lip - 0.36 * shape.mouth_open
        edge = my - 3.0 * shape.smile + 2.5
        half = [(0.0, n + 4.2), (6.5, n + 4.0), (mw - 1.0, lip + 0.5), (mw + 3.0, edge), (mw - 2.0, lip + 2.6), (4.0, lip + 1.5)]
        both = np.array(half + [(-x, y) for x, y in reversed(half)])
        _draw_tuft(stage, both, 46, color, 0.95 * beard.mustache, None)
    if beard.sideburns:
        for s in (-1.0, 1.0):
            strip = np.array([(s * 0.99 * w, -14.0), (s * 0.80 * w, -14.0), (s * 0.82 * w, 18.0), (s * 0.78 * w, 34.0), (s * 0.96 * w, 34.0)])
            _draw_tuft(stage, strip, 24, color, 0.92 * beard.sideburns, stage.cover)


def _draw_tuft(
    stage: Stage, area: np.ndarray, count: int, color: np.ndarray, opacity: float, clip: np.ndarray | None
) -> None:
    """A patch of short hair that grows downward."""
    canvas, rng = stage.canvas, stage.rng
    canvas.fill(canvas.mask(stage.surface(spline(area, 3, closed=True)), 1.1).within(clip), color, 0.80 * opacity)
    low, high = area.min(axis=0), area.max(axis=0)
    hairs = []
    for _ in range(count):
        x, y = rng.uniform(low[0], high[0]), rng.uniform(low[1], high[1])
        if _inside(area, x, y):
            tip = (x * 1.03 + rng.normal(0.0, 0.7), y + rng.uniform(2.0, 4.5))
            hairs.append(ribbon(stage.surface([(x, y), tip]), 0.7 * stage.view.unit))
    if hairs:
        half = len(hairs) // 2
        canvas.fill(canvas.mask(hairs[:half], 0.15).within(clip), color * 0.6, 0.6 * opacity)
        canvas.fill(canvas.mask(hairs[half:], 0.15).within(clip), np.clip(color * 1.5 + 0.03, 0, 1), 0.45 * opacity)


def _inside(polygon: np.ndarray, x: float, y: float) -> bool:
    """Even-odd rule."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    crosses = (a[:, 1] > y) != (b[:, 1] > y)
    rise = np.where(crosses, b[:, 1] - a[:, 1], 1.0)
    return bool(np.count_nonzero(crosses & (x < (b[:, 0] - a[:, 0]) * (y - a[:, 1]) / rise + a[:, 0])) % 2)
