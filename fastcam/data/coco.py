"""Annotations in COCO's format: categories as labels, boxes and polygons as masks."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcam._util.extras import require
from fastcam._util.files import json_with
from fastcam._util.names import printable
from fastcam.data.cache import file_state
from fastcam.data.label_table import Names

# Another number wherever :meth:`CocoFiles.read` changes, so that kept masks are read again.
_READING = 2

is_coco = json_with("images", "annotations", "categories")


class CocoFiles:
    """What annotation files say of a folder's images, read through pycocotools.

    A region is a category: the union of its objects in an image. An object with a polygon or a
    run-length mask is that, any other its box: as much of it as lies in the image, and of a small
    one the pixel that it lies in.

    Args:
        paths: the files; categories of the same name in several are one.
        images: the images' paths. A file names them relative to the folder of the images or to its
            own, or by their file names.
        folder: of the images.

    Raises:
        ImportError: pycocotools is not installed; it comes with the extra ``coco``.
        FileNotFoundError: a file is missing.
        ValueError: it is none of COCO's format; the message names it.
    """

    def __init__(self, paths: Sequence[str | Path], images: Sequence[str], folder: Path) -> None:
        coco = require("pycocotools.coco", extra="coco")
        known = Names(images)
        self._at: dict[str, tuple[int, int]] = {}  # image -> file, and its number there
        self._paths = [*map(Path, paths)]
        self._files: list[Any] = []
        self._states: list[tuple[int, ...]] = []
        self._ids: list[dict[str, list[int]]] = []
        for number, path in enumerate(self._paths):
            if not path.is_file():
                raise FileNotFoundError(f"annotations {path} do not exist")
            if not is_coco(path):
                raise ValueError(
                    f"{path} is no annotation file in COCO's format: expected a JSON object with"
                    " images, annotations and categories"
                )
            self._states.append(file_state(path))
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # it tells how long reading took
                    file = coco.COCO(str(path))
                self._files.append(file)
                self._ids.append(_ids(file))
                below = ""
                with contextlib.suppress(ValueError):
                    below = f"{path.parent.relative_to(folder).as_posix()}/".removeprefix("./")
                for entry in file.imgs.values():
                    name = known.find(below + entry["file_name"]) or known.find(entry["file_name"])
                    if name is not None:
                        self._at[name] = number, entry["id"]
            except KeyError as error:
                raise ValueError(
                    f"{path}: an entry of images, annotations or categories lacks {error}"
                ) from None
        self.names = tuple(dict.fromkeys(name for ids in self._ids for name in ids))

    def __contains__(self, image: str) -> bool:
        return image in self._at

    def has(self, image: str, region: str) -> bool:
        """Whether an image has an object of a category, be it beyond the image's border."""
        return bool(self._objects(image, region)[1])

    def state(self, image: str, region: str) -> tuple[int, ...] | None:
        """What changes with an image's annotations: of their file, None where there are none."""
        return (*self._states[self._at[image][0]], _READING) if image in self._at else None

    def labels(self, images: Sequence[str]) -> NDArray[np.bool_]:
        """Which of N images show which category: bool [N, K]."""
        return np.array([[self.has(i, name) for name in self.names] for i in images], bool)

    def read(self, image: str, region: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        """A category's mask in an image: uint8 [H, W], 255 inside; all zero where it is not there.

        Args:
            size: (H, W) of the image.

        Raises:
            ValueError: the image has another size than the file says, or an object neither a
                segmentation nor a box, or one that is damaged; the message names file and image.
        """
        mask = np.zeros(size, bool)
        file, objects = self._objects(image, region)
        if not objects:
            return mask.astype(np.uint8)
        entry = file.imgs[self._at[image][1]]
        # Some programs leave it out.
        told = entry.setdefault("height", size[0]), entry.setdefault("width", size[1])
        if told != size:
            raise ValueError(
                f"{printable(image)} is {size[1]}×{size[0]} pixels; its annotations are for"
                f" {entry['width']}×{entry['height']}"
            )
        for found in objects:
            try:
                mask |= _mask(file, found, size)
            except ValueError as error:
                path = self._paths[self._at[image][0]]
                raise ValueError(f"{path}, {printable(image)}: {error}") from None
        return mask.astype(np.uint8) * np.uint8(255)

    def _objects(self, image: str, region: str) -> tuple[Any, list[Any]]:
        if image not in self._at:
            return None, []
        number, key = self._at[image]
        wanted = self._ids[number].get(region, [])
        objects = self._files[number].imgToAnns[key]
        return self._files[number], [a for a in objects if a["category_id"] in wanted]


def _ids(file: Any) -> dict[str, list[int]]:
    """The numbers of a file's categories, by name."""
    ids: dict[str, list[int]] = {}
    for category in sorted(file.cats.values(), key=lambda c: c["id"]):
        # A region's text has commas between names.
        ids.setdefault(str(category["name"]).replace(",", " "), []).append(category["id"])
    return ids


def _mask(file: Any, found: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an object of a file: bool [H, W]; ValueError where it has none that fits."""
    segmentation, box = found.get("segmentation"), found.get("bbox")
    if segmentation:
        if isinstance(segmentation, list):  # fewer points have no area; pycocotools minds the first
            polygons = [p for p in segmentation if not isinstance(p, list) or len(p) >= 6]
            if not polygons:
                raise ValueError(
                    "segmentation: expected polygons [x, y, x, y, x, y, …] of three points or more,"
                    f" got {_short(segmentation)}"
                )
            found = {**found, "segmentation": polygons}
        try:
            mask: NDArray[np.bool_] = file.annToMask(found).astype(bool)
        except Exception as error:  # pycocotools raises whatever its C code trips over
            raise ValueError(f"segmentation: it cannot be read: {error}") from None
        if mask.shape != size:
            raise ValueError(
                f"segmentation: expected one of {size[1]}×{size[0]} pixels, got"
                f" {mask.shape[1]}×{mask.shape[0]}"
            )
        return mask
    if not box:
        number = found.get("id")
        raise ValueError(f"object {number}: expected a segmentation or a bbox, got neither")
    try:
        x, y, width, height = map(float, box)
        fits = all(map(math.isfinite, (x, y, width, height))) and width >= 0 and height >= 0
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"bbox: expected [x, y, width, height], got {_short(box)}")
    mask = np.zeros(size, bool)
    mask[_covered(y, height, size[0]), _covered(x, width, size[1])] = True
    return mask


def _covered(start: float, length: float, size: int) -> slice:
    """Which of ``size`` pixels a side of a box covers: none beyond them, else at least one."""
    end = start + length
    if start >= size or (start < 0 and end <= 0):
        return slice(0)
    start, end = max(start, 0), min(end, size)
    first, last = round(start), round(end)
    if first == last:
        first = int((start + end) / 2)
        last = first + 1
    return slice(first, last)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
