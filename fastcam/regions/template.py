"""The template face, and what turns other annotations into its 68 points.

Landmarks are dlib's 68 points, ``[N, 68, 2]``, (x, y) in pixels, in continuous coordinates: an
image spans [0, width] x [0, height] and the centre of its first pixel lies at (0.5, 0.5). Left is
always the viewer's left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcam._util import checks as check

TEMPLATE_SIZE = (178, 218)
"""Width and height of the frame in which the template stands: an aligned CelebA image."""

# Mean of the points that dlib finds on 11,660 aligned CelebA images (faces of the training split,
# pixel indices + 0.5), made symmetric about x = 89.
# fmt: off
_TEMPLATE = np.array([
    # jaw, left to right
    (45.13, 113.63), (45.51, 125.27), (46.79, 136.88), (49.02, 148.36), (53.32, 159.06),
    (60.14, 168.42), (68.59, 176.36), (78.16, 182.84), (89.00, 184.73), (99.84, 182.84),
    (109.41, 176.36), (117.86, 168.42), (124.68, 159.06), (128.98, 148.36), (131.21, 136.88),
    (132.49, 125.27), (132.87, 113.63),
    # left and right eyebrow
    (53.68, 104.65), (59.24, 100.18), (66.68, 99.07), (74.29, 100.32), (81.49, 103.36),
    (96.51, 103.36), (103.71, 100.32), (111.32, 99.07), (118.76, 100.18), (124.32, 104.65),
    # bridge of the nose downward, wings left to right
    (89.00, 112.18), (89.00, 119.74), (89.00, 127.31), (89.00, 135.03),
    (80.55, 139.88), (84.59, 141.46), (89.00, 142.89), (93.41, 141.46), (97.45, 139.88),
    # left and right eye, clockwise
    (62.47, 113.08), (67.17, 110.29), (72.85, 110.45), (77.67, 114.23), (72.36, 115.16),
    (66.83, 115.07),
    (100.33, 114.23), (105.15, 110.45), (110.83, 110.29), (115.53, 113.08), (111.17, 115.07),
    (105.64, 115.16),
    # outer lips clockwise from the left corner
    (71.46, 153.33), (77.90, 150.79), (84.34, 149.64), (89.00, 150.67), (93.66, 149.64),
    (100.10, 150.79), (106.54, 153.33), (100.40, 160.10), (94.05, 163.06), (89.00, 163.60),
    (83.95, 163.06), (77.60, 160.10),
    # inner lips
    (74.17, 153.84), (84.29, 153.47), (89.00, 153.93), (93.71, 153.47), (103.83, 153.84),
    (93.80, 157.22), (89.00, 157.79), (84.20, 157.22),
])
# fmt: on
_TEMPLATE.flags.writeable = False

MIRROR_68: NDArray[np.int64] = np.array(
    [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # eyebrows
        *range(27, 31),  # bridge
        *range(35, 30, -1),  # wings
        *(45, 44, 43, 42, 47, 46),  # left eye <- right eye
        *(39, 38, 37, 36, 41, 40),  # right eye <- left eye
        *range(54, 47, -1),  # upper lip
        *range(59, 54, -1),  # lower lip
        *range(64, 59, -1),  # inner upper lip
        *range(67, 64, -1),  # inner lower lip
    ]
)
"""Point i of a mirrored face is point MIRROR_68[i] of the face."""
MIRROR_68.flags.writeable = False


def _positive(value: float, name: str) -> float:
    check.number(name, value, "above 0", lambda x: bool(0 < x < np.inf))
    return float(value)


def _real(
    value: ArrayLike, name: str, shape: str, rank: int, last: tuple[int, int]
) -> NDArray[Any]:
    """Real numbers of a shape: ``rank`` dimensions, more with a rank below 0, of which the last two
    are given."""
    try:
        points = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors elsewhere
        raise TypeError(f"{name}: expected an array {shape}: {error}") from None
    if points.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers {shape}, got {points.dtype}")
    fits = points.ndim == rank if rank > 0 else points.ndim >= -rank
    if not fits or points.shape[-2:] != last:
        raise ValueError(f"{name}: expected shape {shape}, got {list(points.shape)}")
    return points


def template_landmarks(
    width: float = TEMPLATE_SIZE[0], height: float = TEMPLATE_SIZE[1]
) -> NDArray[np.float32]:
    """Mean face in an image of the given size, in pixels.

    Args:
        width: the image's width; the template is stretched to it.
        height: the image's height.

    Returns:
        float32 [68, 2], (x, y) in pixels.

    Raises:
        TypeError, ValueError: a size that is no positive number.
    """
    scale = (
        _positive(width, "width") / TEMPLATE_SIZE[0],
        _positive(height, "height") / TEMPLATE_SIZE[1],
    )
    return (_TEMPLATE * scale).astype(np.float32)


def five_points(landmarks: ArrayLike) -> NDArray[Any]:
    """CelebA's five points of faces with 68: eye centres, tip of the nose, corners of the mouth.

    Args:
        landmarks: [N, 68, 2].

    Returns:
        [N, 5, 2] in the order left eye, right eye, nose, left and right corner of the mouth.

    Raises:
        TypeError, ValueError: no real numbers, or another shape.
    """
    points = _real(landmarks, "landmarks", "[N, 68, 2]", 3, (68, 2))
    return np.stack(
        [
            points[:, 36:42].mean(1),
            points[:, 42:48].mean(1),
            points[:, 30],
            points[:, 48],
            points[:, 54],
        ],
        axis=1,
    )


def landmarks_from_five_points(
    points: ArrayLike,
    width: float = TEMPLATE_SIZE[0],
    height: float = TEMPLATE_SIZE[1],
) -> NDArray[np.float32]:
    """68 points from CelebA's five: the template, moved by the similarity that fits them best.

    Five points determine a similarity (rotation, scale, shift; least squares) well, and anything
    looser badly. A face with a NaN or infinite point becomes NaN.

    Args:
        points: [N, 5, 2] in pixels: left eye, right eye, nose, left and right corner of the mouth
            (left is the viewer's left, the order of CelebA's table).
        width: width of the images, which sets the template's proportions.
        height: height of the images.

    Returns:
        float32 [N, 68, 2] in pixels.

    Raises:
        TypeError, ValueError: no real numbers, another shape, or a size that is not positive.
    """
    target = _real(points, "points", "[N, 5, 2]", 3, (5, 2)).astype(np.float64)
    template = template_landmarks(width, height).astype(np.float64)
    anchors = five_points(template[None])[0]

    # A similarity of the plane is z -> a z + b with complex a and b.
    def to_complex(xy: NDArray[Any]) -> NDArray[Any]:
        return xy[..., 0] + 1j * xy[..., 1]

    source, goal = to_complex(anchors), to_complex(target)
    centre, goal_centre = source.mean(), goal.mean(-1, keepdims=True)
    offsets = source - centre
    with np.errstate(invalid="ignore"):
        a = (goal - goal_centre) @ offsets.conj() / (offsets @ offsets.conj()).real
        moved = a[:, None] * (to_complex(template) - centre) + goal_centre
    moved[~np.isfinite(target).all((1, 2))] = complex(np.nan, np.nan)
    return np.stack([moved.real, moved.imag], axis=-1).astype(np.float32)


def flip_landmarks(landmarks: ArrayLike, width: float) -> NDArray[Any]:
    """Landmarks of the horizontally mirrored image.

    x becomes width - x, and the points change places (:data:`MIRROR_68`), so that names with left
    and right keep meaning the viewer's.

    Args:
        landmarks: [..., 68, 2] in pixels.
        width: the image's width.

    Returns:
        A new array of the same shape; floating dtypes are kept, integers become float32.

    Raises:
        TypeError, ValueError: no real numbers, another shape, or a width that is not positive.
    """
    points = _real(landmarks, "landmarks", "[..., 68, 2]", -2, (68, 2))
    if points.dtype.kind != "f":
        points = points.astype(np.float32)
    flipped = points[..., MIRROR_68, :]
    flipped[..., 0] = _positive(width, "width") - flipped[..., 0]
    return flipped
