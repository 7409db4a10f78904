"""The head in space: shape, surface, pose, and the 68 landmarks.

Head coordinates: origin between the pupils, x to the viewer's right, y down, z toward the viewer,
one unit = one pixel of a 178×218 CelebA image (pupils 39 apart). Everything that is drawn is a
curve in these coordinates, projected by `View`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

FRAME = (178.0, 218.0)
EYES_MIDPOINT = (88.5, 111.0)
EYE_X = 19.5
_TABLE_X = np.arange(-60.0, 60.5, 0.5)
_TABLE_Y = np.arange(-85.0, 95.5, 0.5)


@dataclass(frozen=True)
class Pose:
    """Angles in radians; `scale` about and `shift` (pixels of the 178×218 frame) of the eyes'
    midpoint."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Shape:
    """Measures of the head in head units (see the module's docstring); the defaults are an average
    face."""

    width: float = 46.0  # half width at the ears
    chin: float = 77.0  # y of the chin
    squareness: float = 2.2  # exponent of the jaw's super-ellipse
    fullness: float = 0.0  # 0 lean .. 1 chubby: lower cheeks
    double_chin: float = 0.0
    cheekbones: float = 0.0
    brow_y: float = -13.0
    brow_arch: float = 3.0
    brow_tilt: float = 0.0
    brow_thickness: float = 1.0
    brow_ridge: float = 0.0
    eye_width: float = 8.8
    eye_open: float = 1.0
    eye_tilt: float = 0.0
    nose_length: float = 28.0
    nose_width: float = 1.0
    nose_tip: float = 1.0  # width of the tip; small is pointy
    nose_height: float = 1.0
    mouth_y: float = 42.5
    mouth_width: float = 16.0
    upper_lip: float = 4.0
    lower_lip: float = 5.6
    mouth_open: float = 0.0
    smile: float = 0.0  # 0 neutral .. 1 broad; slightly negative turns the corners down
    asymmetry: float = 0.0


def spline(points: np.ndarray, samples: int = 6, closed: bool = False) -> np.ndarray:
    """Catmull-Rom curves through `points` [...,P,D] with `samples` points for each span."""
    p = np.asarray(points, dtype=np.float64)
    if closed:
        p = np.concatenate([p[..., -1:, :], p, p[..., :2, :]], axis=-2)
    else:
        first, last = 2 * p[..., :1, :] - p[..., 1:2, :], 2 * p[..., -1:, :] - p[..., -2:-1, :]
        p = np.concatenate([first, p, last], axis=-2)
    spans = p.shape[-2] - 3
    windows = np.stack([p[..., i : spans + i, :] for i in range(4)], axis=-2)
    curve = (_spline_basis(samples) @ windows).reshape(*p.shape[:-2], spans * samples, p.shape[-1])
    return curve if closed else np.concatenate([curve, p[..., -2:-1, :]], axis=-2)


def moved(points: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Points [...,2] shifted."""
    return points + np.array((dx, dy))


def mirrored(points: np.ndarray | list[tuple[float, float]]) -> np.ndarray:
    """A curve [P,2] of the viewer's right side and its mirror image on the left: [2,P,2], left
    first."""
    points = np.asarray(points, dtype=np.float64)
    return np.stack([points * (-1.0, 1.0), points])


@functools.lru_cache(maxsize=32)
def _spline_basis(samples: int) -> np.ndarray:
    """Weights [samples,4] of four neighbouring points along the span between the middle two."""
    t = np.arange(samples) / samples
    powers = np.stack([np.ones_like(t), t, t**2, t**3], axis=1)
    return powers @ (0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]))


def resample(curve: np.ndarray, count: int) -> np.ndarray:
    """`count` points at equal arc length along an open curve [P,2], both ends included."""
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0.0, s[-1], count)
    return np.stack([np.interp(at, s, curve[:, k]) for k in range(curve.shape[1])], axis=1)


class Head:
    """Curves and surface of one head.

    `landmarks` [68,2] holds dlib's 68 points in head coordinates.
    """

    def __init__(self, shape: Shape):
        self.shape = shape
        self._table = self._surface()
        points = np.empty((68, 2))
        points[0:17] = self._jaw()
        points[17:27] = self._brows()
        points[27:36] = self._nose()
        points[36:48] = self._eyes()
        points[48:68] = self._mouth()
        self.landmarks = points

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height z of the face's surface over (x, y): bilinear look-up in a table of half a head
        unit a cell."""
        u = np.clip((x - _TABLE_X[0]) * 2.0, 0.0, len(_TABLE_X) - 1.001)
        v = np.clip((y - _TABLE_Y[0]) * 2.0, 0.0, len(_TABLE_Y) - 1.001)
        i, j = u.astype(np.intp), v.astype(np.intp)
        u, v = u - i, v - j
        table, cell = self._table, j * len(_TABLE_X) + i
        top = table[cell] * (1.0 - u) + table[cell + 1] * u
        cell = cell + len(_TABLE_X)
        return top * (1.0 - v) + (table[cell] * (1.0 - u) + table[cell + 1] * u) * v

    def _surface(self) -> np.ndarray:
        """The look-up table, row by row. Gaussians are separable, so their sum is one matrix
        product."""
        s = self.shape
        cx, cy, sx, sy, height = np.array(_surface_bumps(s)).T[:, :, None]
        gx = np.exp(-0.5 * ((_TABLE_X - cx) / sx) ** 2)
        gy = height * np.exp(-0.5 * ((_TABLE_Y - cy) / sy) ** 2)
        base = 1.0 - (_TABLE_X / (s.width * 1.22)) ** 2 - ((_TABLE_Y[:, None] - 8.0) / 98.0) ** 2
        return np.maximum(45.0 * base + gy.T @ gx, -30.0).ravel()

    def _jaw(self) -> np.ndarray:
        s = self.shape
        t = np.linspace(0.0, math.pi, 241)
        e = 2.0 / s.squareness
        x = -s.width * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** e
        y = s.chin * np.sin(t) ** e
        swell = np.exp(-0.5 * ((y / s.chin - 0.62) / 0.22) ** 2)
        x = x * (1.0 + (0.065 * s.fullness - 0.035 * s.cheekbones) * swell)
        x = x * (1.0 - 0.10 * swell * (1 - s.fullness))
        return resample(np.stack([x, y], axis=1), 17)

    def _brows(self) -> np.ndarray:
        s = self.shape
        u = np.linspace(0.0, 1.0, 5)  # outer .. inner
        x = -35.5 + 27.0 * u
        bow = np.array([-0.75, 0.40, 1.0, 0.75, 0.10])
        y = s.brow_y + 1.8 - s.brow_arch * bow + s.brow_tilt * (0.5 - u)
        left = np.stack([x, y], axis=1)
        right = left[::-1] * (-1, 1)
        right[:, 1] += s.asymmetry
        return np.concatenate([left, right])

    def _nose(self) -> np.ndarray:
        s = self.shape
        bridge_y = np.array([0.0, 0.27, 0.53, 0.78]) * s.nose_length + 0.2
        bridge = np.stack([np.zeros(4), bridge_y], axis=1)
        wx = np.array([-8.8, -4.4, 0.0, 4.4, 8.8]) * s.nose_width
        wy = s.nose_length + np.array([-0.8, 0.9, 2.0, 0.9, -0.8])
        return np.concatenate([bridge, np.stack([wx, wy], axis=1)])

    def _eyes(self) -> np.ndarray:
        s = self.shape
        top, bottom = 4.1 * s.eye_open, 2.5 * s.eye_open
        w = s.eye_width
        # outer, top, top, inner, bottom, bottom
        x = np.array([-w, -0.36 * w, 0.36 * w, w, 0.36 * w, -0.36 * w])
        y = np.array([0.0, -top * 0.92, -top, 0.6, bottom * 0.8, bottom])
        y = y + s.eye_tilt * x / w
        left = np.stack([x - EYE_X, y], axis=1)
        order = [3, 2, 1, 0, 5, 4]
        right = left[order] * (-1, 1)
        return np.concatenate([left, right])

    def _mouth(self) -> np.ndarray:
        s = self.shape
        w = s.mouth_width + 3.2 * max(s.smile, 0.0)
        inner = w - 1.8
        up, down = 0.36 * s.mouth_open, 0.64 * s.mouth_open

        def bend(x: np.ndarray) -> np.ndarray:  # corners up when smiling
            return -4.6 * s.smile * ((np.abs(x) / w) ** 1.7 - 0.25)

        def gap(x: np.ndarray) -> np.ndarray:
            return np.clip(1.0 - (x / inner) ** 2, 0.0, None) ** (1.0 if s.smile > 0.3 else 1.6)

        xo = w * np.array([-1, -0.60, -0.22, 0, 0.22, 0.60, 1, 0.58, 0.26, 0, -0.26, -0.58])
        full = np.array([0, -0.66, -1.0, -0.80, -1.0, -0.66, 0, 0.72, 0.97, 1.0, 0.97, 0.72])
        thick = np.where(full < 0, s.upper_lip, s.lower_lip) * (1.0 - 0.16 * max(s.smile, 0.0))
        opened = np.where(full < 0, -up, np.where(full > 0, down, 0.0)) * gap(xo)
        outer = np.stack([xo, s.mouth_y + bend(xo) + full * thick + opened], axis=1)
        xi = np.array([-inner, -0.34 * w, 0.0, 0.34 * w, inner, 0.34 * w, 0.0, -0.34 * w])
        side = np.array([0, -up, -up, -up, 0, down, down, down])
        dip = np.array([0, 0, 0.5, 0, 0, 0, 0.5, 0])
        inside = np.stack([xi, s.mouth_y + bend(xi) + side * gap(xi) + dip], axis=1)
        mouth = np.concatenate([outer, inside])
        mouth[:, 1] += s.asymmetry * mouth[:, 0] / w * 0.6
        return mouth


def _surface_bumps(s: Shape) -> list[tuple[float, float, float, float, float]]:
    """(x, y, sigma x, sigma y, height) of the Gaussians that model the face on its base
    ellipsoid."""
    n, h = s.nose_length, s.nose_height
    my = s.mouth_y
    bumps = [
        (0.0, 0.30 * n, 3.6 * s.nose_width, 0.36 * n, 6.5 * h),
        (0.0, 0.76 * n, 4.6 * s.nose_tip * s.nose_width, 0.17 * n, 10.5 * h),
        (0.0, my, 15.0, 8.0, 3.6),
        (0.0, my + s.lower_lip + 5.0 + 0.6 * s.mouth_open, 10.0, 3.0, -2.6),
        (0.0, s.chin - 9.0, 10.0, 6.5, 4.2 + 1.5 * s.double_chin),
    ]
    for side in (-1.0, 1.0):
        bumps += [
            (side * 6.6 * s.nose_width, n - 2.6, 2.8 * s.nose_width, 3.0, 4.6 * h),
            (side * 18.5, 1.0, 10.0, 7.0, -5.0),
            (side * EYE_X, 0.5, 7.0, 4.6, 3.0),
            (side * 18.0, s.brow_y + 1.0, 12.0, 4.0, 2.0 + 2.0 * s.brow_ridge),
            (
                side * 27.0,
                24.0 - 3.0 * s.smile,
                11.0,
                10.0,
                2.6 + 3.2 * s.fullness + 1.8 * max(s.smile, 0.0),
            ),
            (side * 31.0, 16.0, 9.0, 5.5, 4.6 * s.cheekbones),
            (
                side * 30.0,
                36.0,
                9.0,
                9.0,
                -3.4 * s.cheekbones * (1.0 - 0.7 * s.fullness) + 2.2 * s.fullness,
            ),
        ]
    return bumps


class View:
    """Projects head coordinates into an image of `size` (width, height) pixels."""

    def __init__(self, pose: Pose, size: tuple[int, int], eye_depth: float):
        self.size = size
        self.zoom = (size[0] / FRAME[0], size[1] / FRAME[1])
        self.unit = pose.scale * 0.5 * (self.zoom[0] + self.zoom[1])  # pixels for one head unit
        cy, sy = math.cos(pose.yaw), math.sin(pose.yaw)
        cp, sp = math.cos(pose.pitch), math.sin(pose.pitch)
        turn = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
        nod = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
        self.rotation = nod @ turn
        self.center = self.rotation[:2] @ (0.0, 0.0, eye_depth)
        cr, sr = math.cos(pose.roll) * pose.scale, math.sin(pose.roll) * pose.scale
        self.plane = np.array([[cr, -sr], [sr, cr]])
        self.origin = np.add(EYES_MIDPOINT, pose.shift)
        # all of the above as one affine map of (x, y, z)
        affine = np.diag(self.zoom) @ self.plane @ self.rotation[:2]
        self._to_image, self._per_depth = affine[:, :2].T, affine[:, 2]
        self._offset = (self.origin - self.plane @ self.center) * self.zoom

    def project(self, points: np.ndarray, z: np.ndarray | float) -> np.ndarray:
        """Head points [...,2] at depth `z` ([...] or one number) -> image pixels [...,2]."""
        flat = points @ self._to_image + np.multiply.outer(z, self._per_depth)
        return flat + self._offset

    def unproject(self, head: Head, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Head (x, y, z) of the surface seen at every `step`-th pixel: three arrays
        [ceil(H/step), ceil(W/step)].

        The surface is met by fixed-point iteration, which converges for the small angles of `Pose`
        sampling.
        """
        w, h = self.size
        px = (np.arange(-(-w // step)) + 0.5) * step / self.zoom[0] - self.origin[0]
        py = (np.arange(-(-h // step)) + 0.5) * step / self.zoom[1] - self.origin[1]
        gx, gy = np.meshgrid(px.astype(np.float32), py.astype(np.float32))
        back = np.linalg.inv(self.plane)
        u = (back[0, 0] * gx + back[0, 1] * gy + self.center[0]).astype(np.float32)
        v = (back[1, 0] * gx + back[1, 1] * gy + self.center[1]).astype(np.float32)
        r = self.rotation
        inverse = np.linalg.inv(r[:2, :2])
        x, y = u, v
        for _ in range(3):
            z = head.depth(x, y)
            du, dv = u - r[0, 2] * z, v - r[1, 2] * z
            x, y = inverse[0, 0] * du + inverse[0, 1] * dv, inverse[1, 0] * du + inverse[1, 1] * dv
        return x, y, head.depth(x, y)


def project_landmarks(head: Head, view: View) -> np.ndarray:
    """dlib's 68 points in image pixels, float32 [68,2]."""
    points = head.landmarks
    return view.project(points, head.depth(points[:, 0], points[:, 1])).astype(np.float32)
