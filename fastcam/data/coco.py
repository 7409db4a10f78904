"""Annotations in COCO's format: categories as labels, boxes and polygons as masks."""

from __future__ import annotations

import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcam._util.extras import require
from fastcam._util.files import json_with
from fastcam._util.names import printable
from fastcam.data.cache import file_state
from fastcam.data.label_table import Names, one_of_several

# Another number wherever :meth:`CocoFiles.read` changes, so that kept masks are read again.
_READING = 2

is_coco = json_with("images", "annotations", "categories")


class CocoFiles:
    """What annotation files say of a folder's images, read through pycocotools.

    A region is a category: the union of its objects in an image. An object with a polygon or a
    run-length mask is that, any other its box: as much of it as lies in the image, and of a small
    one the pixel that it lies in.

    Args:
        paths: the files; categories of the same name in several are one, and what several say of
            an image counts together.
        images: the images' paths. A file names them relative to the folder of the images or to its
            own, or by their file names; of images of the same name ``instances_train.json`` means
            those in a folder ``train``.
        folder: of the images.

    Raises:
        ImportError: pycocotools is not installed; it comes with the extra ``coco``.
        FileNotFoundError: a file is missing.
        ValueError: it is none of COCO's format, or names an image that may be one of several; the
            message names it.
    """

    def __init__(self, paths: Sequence[str | Path], images: Sequence[str], folder: Path) -> None:
        coco = require("pycocotools.coco", extra="coco")
        known = Names(images)
        # image -> files, and its number in each
        self._at: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._paths = [*map(Path, paths)]
        self._files: list[Any] = []
        self._states: list[tuple[int, ...]] = []
        self._regions: list[dict[int, str]] = []  # of each file, by the category's number
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
                self._regions.append(_regions(file))
                places = _places(path, folder)
                for entry in file.imgs.values():
                    name = _named(known, entry["file_name"], places, path)
                    if name is not None:
                        self._at[name].append((number, entry["id"]))
            except KeyError as error:
                raise ValueError(
                    f"{path}: an entry of images, annotations or categories lacks {error}"
                ) from None
        names = (name for regions in self._regions for name in regions.values())
        self.names = tuple(dict.fromkeys(names))

    def __contains__(self, image: str) -> bool:
        return image in self._at

    def has(self, image: str, region: str) -> bool:
        """Whether an image has an object of a category, be it beyond the image's border."""
        return any(objects for *_, objects in self._objects(image, region))

    def state(self, image: str, region: str) -> tuple[int, ...] | None:
        """What changes with an image's annotations: of their files, None where there are none."""
        if image not in self._at:
            return None
        return (*(part for number, _ in self._at[image] for part in self._states[number]), _READING)

    def labels(self, images: Sequence[str]) -> NDArray[np.bool_]:
        """Which of N images show which category: bool [N, K]."""
        place = {name: k for k, name in enumerate(self.names)}
        found = np.zeros((len(images), len(place)), bool)
        for row, image in zip(found, images, strict=True):
            for number, key in self._at.get(image, ()):
                regions = self._regions[number]
                for a in self._files[number].imgToAnns[key]:
                    if a["category_id"] in regions:
                        row[place[regions[a["category_id"]]]] = True
        return found

    def read(self, image: str, region: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        """A category's mask in an image: uint8 [H, W], 255 inside; all zero where it is not there.

        Args:
            size: (H, W) of the image.

        Raises:
            ValueError: the image has another size than the file says, or an object neither a
                segmentation nor a box, or one that is damaged; the message names file and image.
        """
        mask = np.zeros(size, bool)
        for number, key, objects in self._objects(image, region):
            if not objects:
                continue
            file, path = self._files[number], self._paths[number]
            entry = file.imgs[key]
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
                    raise ValueError(f"{path}, {printable(image)}: {error}") from None
        return mask.astype(np.uint8) * np.uint8(255)

    def _objects(self, image: str, region: str) -> Iterator[tuple[int, int, list[Any]]]:
        """An image's objects of a category, by its entries: the file, and the number there."""
        for number, key in self._at.get(image, ()):
            regions, objects = self._regions[number], self._files[number].imgToAnns[key]
            yield number, key, [a for a in objects if regions.get(a["category_id"]) == region]


def _regions(file: Any) -> dict[int, str]:
    """The names of a file's categories, by number, in the order of these."""
    categories = sorted(file.cats.values(), key=lambda c: c["id"])
    # A region's text has commas between names.
    return {c["id"]: str(c["name"]).replace(",", " ") for c in categories}


def _places(path: Path, folder: Path) -> list[str]:
    """Where the images of a file may lie below ``folder``: beside it, or in folders as it is called
    (``instances_train.json``: ``train``)."""
    stem = path.stem
    places = [f"{stem[i:]}/" for i in range(len(stem)) if i == 0 or stem[i - 1] == "_"]
    with contextlib.suppress(ValueError):
        places.insert(0, f"{path.parent.relative_to(folder).as_posix()}/".removeprefix("./"))
    return places


def _named(known: Names, name: str, places: Sequence[str], path: Path) -> str | None:
    """The image that a file means by a name; None where it is not there.

    Raises:
        ValueError: it may be one of several.
    """
    if found := next(filter(None, (known.find(place + name, False) for place in places)), None):
        return found
    several = known.matches(name)
    if len(several) > 1:
        raise ValueError(f"{path}: {one_of_several(name, several)}")
    return several[0] if several else None


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
