"""The landmarks of a data folder: its cached table, its five-point table, or the template."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from fastcam.data.tables import FIVE_POINT_TABLE, read_five_points
from fastcam.regions import (
    LandmarkSource,
    LandmarkTable,
    landmarks_from_five_points,
    template_landmarks,
)

LANDMARK_TABLE = "landmarks68.npz"


def resolve_landmarks(
    root: str | Path,
    names: list[str],
    *,
    table: str | Path | None = None,
    image_size: tuple[int, int] = (218, 178),
) -> tuple[np.ndarray, list[str]]:
    """The 68 landmarks of every image, from the best source that the folder offers.

    Args:
        root: folder in the official layout.
        names: image file names.
        table: landmark table to use in place of ``root/landmarks68.npz``.
        image_size: (height, width) of the stored images, for the five-point and template fallbacks.

    Returns:
        float32 [N, 68, 2] in pixels of the stored image, and the source of each image's.

    Raises:
        FileNotFoundError: ``table`` was given and does not exist.
        ValueError: a damaged table, one that misses an image, or one made of images of another
            size than ``image_size`` (of the first image).

    Warns:
        UserWarning: there is no landmark table, so regions are approximate.
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
        height, width = image_size
        if names and tuple(chosen.size[0]) != (width, height):
            raise ValueError(
                f"{path} was made of images of another size: {names[0]} is {width}×{height} here,"
                f" {chosen.size[0][0]}×{chosen.size[0][1]} there; run `fastcam landmarks {root}`"
            )
        return chosen.landmarks, [LandmarkSource(s).name.lower() for s in chosen.source]

    height, width = image_size
    advice = f"run `fastcam landmarks {root}` for landmarks of each image"
    if (root / FIVE_POINT_TABLE).is_file():
        points = read_five_points(root / FIVE_POINT_TABLE)
        missing = [n for n in names if n not in points]
        if missing:
            raise ValueError(
                f"{root / FIVE_POINT_TABLE} misses {len(missing)} of {len(names)} images,"
                f" for example {missing[0]}"
            )
        warnings.warn(f"no {path}: regions come from the five-point table; {advice}", stacklevel=3)
        five = np.stack([points[n] for n in names]) if names else np.zeros((0, 5, 2), np.float32)
        landmarks = landmarks_from_five_points(five, width, height)
        return np.asarray(landmarks, dtype=np.float32), ["five_points"] * len(names)

    warnings.warn(
        f"no {path} and no {FIVE_POINT_TABLE}: all {len(names)} images get the template face's"
        f" regions; {advice}",
        stacklevel=3,
    )
    template = np.asarray(template_landmarks(width, height), dtype=np.float32)
    return np.broadcast_to(template, (len(names), 68, 2)).copy(), ["template"] * len(names)
