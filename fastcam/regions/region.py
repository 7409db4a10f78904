"""Regions of a face: named or drawn, as rectangles on an image and as grids for a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcam._util import checks as check
from fastcam._util.names import did_you_mean
from fastcam.regions._native import native
from fastcam.regions.template import TEMPLATE_SIZE, template_landmarks

REGION_NAMES = (
    "forehead",
    "left_eyebrow",
    "right_eyebrow",
    "left_eye",
    "right_eye",
    "nose",
    "left_cheek",
    "right_cheek",
    "mouth",
    "chin",
)
"""The ten rectangles, in the order of :func:`rectangles`; left is the viewer's left."""

#: Parts of a face that are hidden one after another to see what a score relies on: each of the ten,
#: and the pairs (what one eye tells the other tells as well, so that hiding one may cost nothing).
FACE_PARTS = (
    *REGION_NAMES,
    "left_eyebrow,right_eyebrow",
    "left_eye,right_eye",
    "left_cheek,right_cheek",
)

Box = tuple[float, float, float, float]


def rectangles(landmarks: ArrayLike) -> NDArray[Any]:
    """The ten named rectangles of each face.

    They are axis-aligned boxes around groups of dlib's points. Margins are shares of ux, the
    horizontal distance of the eye centres, and uy, the vertical distance from the eyes to the
    mouth (38 and 43 pixels on the template), so the rectangles move exactly with any resize, shift
    or horizontal flip of the image:

    * eyebrows: points 17-21 and 22-26, margins 0.08 ux and 0.10 uy;
    * eyes: points 36-41 and 42-47, margins 0.12 ux and 0.12 uy (lids and lashes, not the brow);
    * nose: points 27-35, margins 0.10 ux at the sides and 0.05 uy below;
    * mouth: points 48-59, margins 0.12 ux and 0.10 uy;
    * cheeks: from the jaw line (mean of 2, 3 and of 13, 14) to the nose, from the eye down to the
      mouth's rectangle; the cheek that a turned head hides has no width and covers nothing;
    * chin: jaw points 6-10, from the mouth's rectangle to 0.05 uy below the jaw;
    * forehead: points 18-25 pushed from 0.2 to 0.8 of the way from mouth to eyes, above the brows
      (dlib has no point on the hairline; fringes fall inside).

    They are meant for faces that stand upright within some 30 degrees.

    Args:
        landmarks: [N, 68, 2] in pixels, any real dtype.

    Returns:
        [N, 10, 4] (x0, y0, x1, y1) in pixels, not cut to the image; float32, or float64 if the
        landmarks are. A face with a NaN or infinite point has ten NaN rectangles.

    Raises:
        ValueError: another shape.
        TypeError: not real numbers.

    Source:
        Yang et al. use ten rectangles from dlib's points without giving their sides; these are
        ours.
    """
    return native.rectangles(landmarks)


def _shape2(value: Sequence[float], name: str, what: str) -> tuple[float, float]:
    try:
        first, second = value
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected ({what}), got {value!r}") from None
    return first, second


def grids(
    rects: ArrayLike,
    image_size: tuple[float, float],
    grid_size: tuple[int, int],
    mode: Literal["coverage", "binary"] = "coverage",
) -> NDArray[np.float32]:
    """Lay the union of each image's rectangles on a grid.

    Args:
        rects: [N, R, 4] (x0, y0, x1, y1) in pixels. What lies outside the image is cut off. A
            rectangle that is NaN in any side, or without x0 < x1 and y0 < y1, covers nothing.
        image_size: (height, width) of the images, in the rectangles' units.
        grid_size: (H, W) of the grid, whose cells divide the image evenly.
        mode: ``"coverage"``: the exact share of each cell that the union covers (where rectangles
            overlap, nothing is counted twice); ``"binary"``: 1 where the union overlaps the cell by
            more than a millionth of its area (less is rounding), else 0.

    Returns:
        float32 [N, H, W] in [0, 1]. The GIL is released while it is computed.

    Raises:
        ValueError: a shape, size or mode that does not fit.
        TypeError: not real numbers.
    """
    check.one_of("mode", mode, ("coverage", "binary"))
    height, width = _shape2(image_size, "image_size", "height, width")
    try:
        if isinstance(height, str | bytes) or isinstance(width, str | bytes):
            raise TypeError
        height, width = float(height), float(width)
    except (TypeError, ValueError, RuntimeError):  # the last: tensors without values
        message = f"image_size: expected two numbers (height, width), got {image_size!r}"
        raise TypeError(message) from None
    rows, cols = _shape2(grid_size, "grid_size", "H, W")
    for value in (rows, cols):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"grid_size: expected two integers (H, W), got {grid_size!r}")
        if value >= 2**31:
            raise ValueError(f"grid_size: expected at most 2147483647, got {grid_size!r}")
    return native.grid(rects, height, width, int(rows), int(cols), mode == "binary")


@dataclass(frozen=True)
class Region:
    """A choice of regions: any of the ten named ones, rectangles drawn on the template, or both.

    A drawn rectangle is given in fractions of the template frame
    (:func:`~fastcam.regions.template_landmarks`): x0, y0, x1, y1 between 0 and 1. Its four corners
    are carried to a face by the affine map that best fits the template's landmarks to the face's,
    where points near the rectangle weigh more (moving least squares), and the carried rectangle is
    the axis-aligned box around them. Being affine, it moves exactly with any resize (a square
    resize of a portrait image included) and narrows as the head turns; being local, it follows an
    open mouth. On real faces it meets the true rectangle of the same part better than one
    similarity for the whole face does (mean IoU over the ten parts .79 against .73; .70 for a
    rectangle that is not carried at all).

    Attributes:
        names: names from :data:`REGION_NAMES`, kept in that order and without repeats.
        boxes: drawn rectangles, sides rounded to six decimals.

    Raises:
        ValueError: no region at all, an unknown name, or a rectangle that is not one.
        TypeError: names or boxes are neither a sequence nor a set, or a name is no string.
    """

    names: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise ValueError(f"names: expected a tuple of names, got the string {self.names!r}")
        for field in ("names", "boxes"):
            value = getattr(self, field)
            if not isinstance(value, (Sequence, Set)):
                raise TypeError(f"{field}: expected a tuple, got {type(value).__name__}")
        for name in self.names:
            if not isinstance(name, str):
                raise TypeError(f"names: expected names, got {type(name).__name__}")
            if name not in REGION_NAMES:
                raise ValueError(_unknown(name))
        if not self.names and not self.boxes:
            raise ValueError(f"a region needs at least one of {', '.join(REGION_NAMES)}")
        ordered = tuple(name for name in REGION_NAMES if name in self.names)
        object.__setattr__(self, "names", ordered)
        boxes = dict.fromkeys(_checked_box(box) for box in self.boxes)
        object.__setattr__(self, "boxes", tuple(boxes))

    @classmethod
    def parse(cls, text: str) -> Region:
        """Read a region from text: names and drawn rectangles, separated by commas.

        Args:
            text: for example ``"mouth"``, ``"left_eye,right_eye"``, ``"0.3,0.6,0.7,0.8"`` (a
                rectangle x0,y0,x1,y1 in fractions of the template) or ``"mouth,0.1,0.2,0.5,0.4"``.

        Raises:
            ValueError: text that is none of these; the message says what is.
            TypeError: not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"region: expected text such as 'mouth', got {type(text).__name__}")
        names: list[str] = []
        numbers: list[float] = []
        for token in (part.strip() for part in text.split(",")):
            try:
                numbers.append(float(token))
            except ValueError:
                if len(numbers) % 4:
                    raise ValueError(_four(text)) from None
                if token not in REGION_NAMES:
                    raise ValueError(_unknown(token)) from None
                names.append(token)
        if len(numbers) % 4:
            raise ValueError(_four(text))
        boxes = [
            (numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3])
            for i in range(0, len(numbers), 4)
        ]
        return cls(tuple(names), tuple(boxes))

    def __str__(self) -> str:
        parts = [*self.names, *(",".join(repr(side) for side in box) for box in self.boxes)]
        return ",".join(parts)

    def flipped(self) -> Region:
        """The same choice on the mirrored face: left and right change places.

        ``region.flipped().grid(flip_landmarks(landmarks, width), ...)`` is the mirror image of
        ``region.grid(landmarks, ...)``.
        """
        swap = {"left": "right", "right": "left"}

        def other(name: str) -> str:
            side, _, part = name.partition("_")
            return f"{swap[side]}_{part}" if side in swap else name

        boxes = tuple((1 - x1, y0, 1 - x0, y1) for x0, y0, x1, y1 in self.boxes)
        return Region(tuple(other(name) for name in self.names), boxes)

    def rectangles(self, landmarks: ArrayLike) -> NDArray[Any]:
        """The region's rectangles on each face.

        Args:
            landmarks: [N, 68, 2] in pixels.

        Returns:
            [N, R, 4] (x0, y0, x1, y1) in pixels: the named ones in order, then the drawn ones;
            float32, or float64 if the landmarks are.
        """
        parts = []
        if self.names:
            indices = [REGION_NAMES.index(name) for name in self.names]
            parts.append(native.rectangles(landmarks)[:, indices])
        if self.boxes:
            # In the frame the template was measured in; an affine fit takes it to any image.
            drawn = np.array(self.boxes, dtype=np.float64) * (TEMPLATE_SIZE * 2)
            parts.append(native.carry(landmarks, template_landmarks(), drawn))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def grid(
        self,
        landmarks: ArrayLike,
        image_size: tuple[float, float],
        grid_size: tuple[int, int],
        mode: Literal["coverage", "binary"] = "coverage",
    ) -> NDArray[np.float32]:
        """The region as a grid for each face; see :func:`grids`.

        Args:
            landmarks: [N, 68, 2] in pixels of the images.
            image_size: (height, width) of the images.
            grid_size: (H, W), for example the target layer's height and width.
            mode: ``"coverage"`` or ``"binary"``.

        Returns:
            float32 [N, H, W] in [0, 1]; all zero where the region lies outside the image or the
            landmarks are not finite.
        """
        return grids(self.rectangles(landmarks), image_size, grid_size, mode)


def _unknown(name: str) -> str:
    hint, known = did_you_mean(name, REGION_NAMES), ", ".join(REGION_NAMES)
    return (
        f"region has no part called {name!r}{hint}; expected some of {known}, "
        "or a rectangle x0,y0,x1,y1 in fractions of the template face"
    )


def _four(text: str) -> str:
    return (
        f"region {text!r}: a rectangle needs four numbers x0,y0,x1,y1 (fractions of the template "
        "face), for example 0.3,0.6,0.7,0.8"
    )


def _checked_box(box: Sequence[float]) -> Box:
    try:
        x0, y0, x1, y1 = (round(float(side), 6) for side in box)
    except (TypeError, ValueError):
        raise ValueError(f"boxes: expected rectangles (x0, y0, x1, y1), got {box!r}") from None
    sides = (x0, y0, x1, y1)
    inside = all(math.isfinite(side) and 0 <= side <= 1 for side in sides)
    if not (inside and x0 < x1 and y0 < y1):
        raise ValueError(
            "boxes: expected rectangles x0,y0,x1,y1 with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 "
            f"(fractions of the template face), got {','.join(f'{side:g}' for side in sides)}"
        )
    return sides
