"""What every drawing function needs: the canvas, the projected head, its light, and a few
coverages."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .canvas import Canvas, Color, Mask, ribbons
from .face import Face
from .geometry import EYE_X, Head, View, mirrored, project_landmarks, spline

Points = np.ndarray | list[tuple[float, float]]


class Stage:
    """One face in the making.

    Attributes:
        face: what to draw.
        head, view, canvas: see their classes.
        landmarks: float32 [68,2], pixels.
        light: float32 [H,W,3], the factor that light puts on a colour of the face's surface.
        soft_light: the same with less contrast, for eyeballs and lips.
        gloss: float32 [H,W], the face's specular highlight for a gloss of one.
        cover: float32 [H,W], coverage of the face from the jaw to the skull.
        lips: float32 [H,W], coverage of the lips and the mouth, a little widened: nothing but the
            mouth is drawn there.
    """

    def __init__(self, face: Face, size: tuple[int, int]):
        self.face = face
        self.head = Head(face.shape)
        eye_depth = float(self.head.depth(np.array(EYE_X), np.array(0.0)))
        self.view = View(face.pose, size, eye_depth)
        half = replace(face.pose, yaw=0.6 * face.pose.yaw, pitch=0.0, roll=0.6 * face.pose.roll)
        self._trunk = View(half, size, eye_depth)
        self.canvas = Canvas(size, self.view.unit)
        self.rng = np.random.default_rng(face.texture)
        self.landmarks = project_landmarks(self.head, self.view)
        self.light, self.gloss = self._light()
        self.soft_light = np.clip(self.light, 0.45, 1.10)
        self.cover = self.canvas.coverage(self.surface(face_outline(self.head)))
        mouth = self.landmarks[48:60].astype(np.float64)
        center = mouth.mean(axis=0)
        self.lips = self.canvas.coverage(center + (mouth - center) * (1.16, 1.30))

    def surface(self, points: Points, lift: float = 0.0) -> np.ndarray:
        """Head points [...,2] on the face's surface -> pixels [...,2]."""
        points = np.asarray(points, dtype=np.float64)
        return self.view.project(points, self.head.depth(points[..., 0], points[..., 1]) + lift)

    def flat(self, points: Points, z: float) -> np.ndarray:
        """Head points [...,2] at one depth -> pixels [...,2]."""
        return self.view.project(np.asarray(points, dtype=np.float64), z)

    def body(self, points: Points, z: float) -> np.ndarray:
        """Points [...,2] of neck and shoulders at one depth -> pixels; the trunk follows the head
        only in part."""
        return self._trunk.project(np.asarray(points, dtype=np.float64), z)

    def blob(self, x: float, y: float, rx: float, ry: float, blur: float = 0.0) -> Mask:
        """An ellipse on the face's surface."""
        return self.canvas.mask(self.surface(ellipse(x, y, rx, ry)), blur)

    def blobs(
        self, x: float, y: float, rx: float, ry: float, blur: float = 0.0, turn: float = 0.0
    ) -> Mask:
        """An ellipse on the viewer's right half of the face and its mirror image."""
        return self.canvas.mask(self.surface(mirrored(ellipse(x, y, rx, ry, turn))), blur)

    def stroke(self, points: Points, widths: float | list[float], blur: float = 0.3) -> Mask:
        """A smooth line through `points` [P,2], or several [S,P,2]; `widths` in head units, spread
        evenly along it."""
        paths = spline(self.surface(points), 5)
        paths = paths if paths.ndim == 3 else paths[None]
        count = paths.shape[1]
        if isinstance(widths, list):
            width = np.interp(np.arange(count), np.linspace(0, count - 1, len(widths)), widths)
        else:
            width = np.full(count, widths)
        width *= self.view.unit
        return self.canvas.mask(ribbons(paths, np.broadcast_to(width, paths.shape[:2])), blur)

    def hairs(
        self, roots: np.ndarray, tips: np.ndarray, width: float, tip_width: float | None = None
    ) -> np.ndarray:
        """Outlines [S,4,2] (pixels) of short straight hairs on the face's surface, from `roots` to
        `tips` [S,2]."""
        ends = self.surface(np.stack([roots, tips], axis=1))
        widths = np.array([width, width if tip_width is None else tip_width]) * self.view.unit
        return ribbons(ends, np.broadcast_to(widths, ends.shape[:2]))

    def noise(self, cells: int) -> np.ndarray:
        """Slow random field of about unit variance, float32 [H,W]."""
        rows = max(2, round(cells * self.canvas.height / self.canvas.width))
        return self.canvas.resize(self.rng.normal(size=(rows, cells)).astype(np.float32))

    def _light(self) -> tuple[np.ndarray, np.ndarray]:
        step = max(1, round(2.0 * self.view.unit))
        x, y, z = self.view.unproject(self.head, step)
        r = self.view.rotation
        toward = (r[2, 0] * x + r[2, 1] * y + r[2, 2] * z).astype(np.float32) * np.float32(
            self.view.unit
        )
        dy, dx = np.gradient(toward, float(step))
        length = np.sqrt(dx * dx + dy * dy + 1.0)
        lx, ly, lz = self.face.light.direction
        facing = (-dx * lx - dy * ly + lz) / length
        wrap = np.clip((facing + 0.30) / 1.30, 0.0, None)
        level = 1.0 - self.face.light.contrast * (1.0 - wrap / ((lz + 0.30) / 1.30))
        level = np.clip(level, 0.25, 1.16)
        # light that has passed through skin is red: shadows keep more red than blue
        small = np.stack([level**0.86, level**1.06, level**1.14], axis=2)
        half = np.array([lx, ly, lz + 1.0])
        half /= math.sqrt(float((half**2).sum()))
        shine = np.clip((-dx * half[0] - dy * half[1] + half[2]) / length, 0.0, 1.0) ** 22
        return self.canvas.resize(small), np.clip(self.canvas.resize(shine), 0.0, 1.0)


def face_outline(head: Head) -> np.ndarray:
    """Jaw line and skull in head coordinates."""
    w = head.shape.width
    t = np.linspace(0.0, math.pi, 25)[1:-1]
    top = np.stack(
        [w * 0.99 * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.80, -76.0 * np.sin(t) ** 0.84],
        axis=1,
    )
    return np.concatenate([spline(head.landmarks[:17], 4), top])


_ANGLES = np.arange(32) * (2.0 * math.pi / 32)
_CIRCLE = (np.cos(_ANGLES), np.sin(_ANGLES))


def ellipse(
    x: float, y: float, rx: float, ry: float, turn: float = 0.0, power: float = 2.0
) -> np.ndarray:
    """Super-ellipse with half axes `rx`, `ry`, turned by `turn` radians: [32,2]."""
    c, s = _CIRCLE
    if power != 2.0:
        c, s = np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)
    ex, ey = rx * c, ry * s
    ct, st = math.cos(turn), math.sin(turn)
    return np.stack([x + ct * ex - st * ey, y + st * ex + ct * ey], axis=1)


def mix(a: Color | np.ndarray, b: Color | np.ndarray, share: float) -> np.ndarray:
    """`a` with `share` of it replaced by `b`."""
    return np.asarray(a) + (np.asarray(b) - np.asarray(a)) * share
