"""The landmarks of a data folder: its cached table, its five-point table, or the template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastcam._util.names import printable
from fastcam.data.tables import FIVE_POINT_TABLE, read_five_points
from fastcam.regions import (
    LandmarkSource,
    LandmarkTable,
    landmarks_from_five_points,
    template_landmarks,
)

LANDMARK_TABLE = "landmarks68.npz"


@dataclass(frozen=True)
class FaceLandmarks:
    """The 68 landmarks of N images.

    Attributes:
        points: float32 [N, 68, 2], in pixels of the stored image.
        sources: where each image's come from, N of them.
        sizes: int32 [N, 2], width and height of the images that they were made for.
        mismatch: what to say of an image of another size, with ``name``, ``here`` and ``there``.
        note: what to say of regions that are drawn of them, where they are approximate.
    """

    points: np.ndarray
    sources: list[str]
    sizes: np.ndarray
    mismatch: str
    note: str = ""

    def check(self, index: int, name: str, width: int, height: int) -> None:
        """Make sure that an image has the size for which its landmarks were made.

        They are not scaled to another size: whether an image was enlarged, cropped or exchanged for
        another cannot be told from its size.

        Raises:
            ValueError: it has not; the message names the image and both sizes.
        """
        expected = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        if expected != (width, height):
            here, there = f"{width}×{height}", f"{expected[0]}×{expected[1]}"
            raise ValueError(self.mismatch.format(name=printable(name), here=here, there=there))


def resolve_landmarks(
    root: str | Path,
    names: list[str],
    *,
    table: str | Path | None = None,
    image_size: tuple[int, int] = (218, 178),
) -> FaceLandmarks:
    """The 68 landmarks of every image, from the best source that the folder offers.

    Args:
        root: folder in the official layout.
        names: image file names.
        table: landmark table to use in place of ``root/landmarks68.npz``.
        image_size: (height, width) of the stored images, for the five-point and template fallbacks.

    Returns:
        Points, sources and sizes, in the order of ``names``.

    Raises:
        FileNotFoundError: ``table`` was given and does not exist.
        ValueError: a damaged table, or one that misses an image.
    """
    root = Path(root)
    path = Path(table) if table is not None else root / LANDMARK_TABLE
    if table is not None and not path.is_file():
        raise FileNotFoundError(f"landmark table {path} does not exist")
    if path.is_file():
        try:
            chosen = LandmarkTable.load(path).select(names)
        except KeyError as error:
            raise ValueError(f"{path}: {error.args[0]}; run `fastcam landmarks {root}`") from None
        sources = [LandmarkSource(s).name.lower() for s in chosen.source]
        mismatch = (
            f"{_literal(path)} was made of images of another size: {{name}} is {{here}} here,"
            f" {{there}} there; run `fastcam landmarks {_literal(root)}`"
        )
        return FaceLandmarks(chosen.landmarks, sources, chosen.size, mismatch)

    height, width = image_size
    sizes = np.tile(np.array([width, height], np.int32), (len(names), 1))
    first = _literal(printable(names[0])) if names else ""
    mismatch = (
        f"{{name}} is {{here}}, {first} {{there}}: images of different sizes need a landmark table;"
        f" run `fastcam landmarks {_literal(root)}`"
    )
    advice = f"run `fastcam landmarks {root}` for landmarks of each image"
    if (root / FIVE_POINT_TABLE).is_file():
        points = read_five_points(root / FIVE_POINT_TABLE)
        missing = [n for n in names if n not in points]
        if missing:
            raise ValueError(
                f"{root / FIVE_POINT_TABLE} misses {len(missing)} of {len(names)} images,"
                f" for example {printable(missing[0])}"
            )
        note = f"no {path}: regions come from the five-point table; {advice}"
        five = np.stack([points[n] for n in names]) if names else np.zeros((0, 5, 2), np.float32)
        landmarks = np.asarray(landmarks_from_five_points(five, width, height), dtype=np.float32)
        return FaceLandmarks(landmarks, ["five_points"] * len(names), sizes, mismatch, note)

    note = (
        f"no {path} and no {FIVE_POINT_TABLE}: all {len(names)} images get the template face's"
        f" regions; {advice}"
    )
    template = np.asarray(template_landmarks(width, height), dtype=np.float32)
    everywhere = np.broadcast_to(template, (len(names), 68, 2)).copy()
    return FaceLandmarks(everywhere, ["template"] * len(names), sizes, mismatch, note)


def _literal(text: object) -> str:
    return str(text).replace("{", "{{").replace("}", "}}")
