"""A tiny folder of images with labels and masks, for the tests of other data than faces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fastcam.data.folder import FaceFolder, MaskedFolder, MaskedImages

WIDTH, HEIGHT = 40, 36
SIDE = 12
AREA = SIDE * SIDE
COLORS = ((230, 30, 30), (30, 230, 30), (30, 30, 230))
#: Names of the classes, by color.
CLASSES = ("ant", "bee", "cat")
#: Labels and splits of the images of :func:`table_of`.
SICK = ["0", "1"] * 10
SPLIT = ["train"] * 12 + ["val"] * 4 + ["test"] * 4


def write_images(root: Path, count: int = 48, *, seed: int = 0, masks: str = "flat") -> Path:
    """Grey noise with a square in one of three colors, and a dark or a light frame.

    ``labels.csv`` has the columns file, red, frame (0 and 1), kind (a class by the color) and split
    (half train, a quarter valid and test each). The frame is dark in three red images of four.

    Args:
        masks: ``"flat"``: masks/0001.png is the square; ``"folders"``: masks/square/0001.png and
            masks/frame/0001.png; ``"suffixes"``: masks/0001_square.png and …_frame.png.
    """
    rng = np.random.default_rng(seed)
    names = [f"{i + 1:04d}" for i in range(count)]
    kinds = rng.integers(0, 3, count)
    frames = np.where(rng.random(count) < 0.75, kinds == 0, kinds != 0)
    rows = ["file,red,frame,kind,split"]
    for folder in ("images", "masks", "masks/square", "masks/frame"):
        if masks == "folders" or folder.count("/") == 0:
            (root / folder).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        pixels = rng.integers(90, 170, (HEIGHT, WIDTH, 3))
        y, x = rng.integers(4, HEIGHT - SIDE - 4), rng.integers(6, WIDTH - SIDE - 6)
        square, frame = np.zeros((2, HEIGHT, WIDTH), bool)
        square[y : y + SIDE, x : x + SIDE] = True
        frame[:2] = frame[-2:] = frame[:, :2] = frame[:, -2:] = True
        pixels[square] = COLORS[kinds[i]]
        pixels[frame] = 10 if frames[i] else 245
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{name}.jpg", quality=95)
        files = {
            "flat": {"masks/{}.png": square},
            "folders": {"masks/square/{}.png": square, "masks/frame/{}.png": frame},
            "suffixes": {"masks/{}_square.png": square, "masks/{}_frame.png": frame},
        }[masks]
        for pattern, mask in files.items():
            Image.fromarray(mask).save(root / pattern.format(name))
        split = "train" if i < count // 2 else "val" if i < count * 3 // 4 else "test"
        rows.append(f"{name}.jpg,{int(kinds[i] == 0)},{int(frames[i])},{CLASSES[kinds[i]]},{split}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def write_coco(root: Path) -> Path:
    """Annotations of what :func:`write_images` drew: squares as polygons, frames as boxes."""
    table = [line.split(",") for line in (root / "labels.csv").read_text().splitlines()[1:]]
    images, objects = [], []
    for key, (file, *_) in enumerate(table, 1):
        images.append({"id": key, "file_name": file, "width": WIDTH, "height": HEIGHT})
        mask = np.array(Image.open(root / "masks" / f"{Path(file).stem}.png"))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        corners = [int(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]
        box = [int(v) for v in (x0, y0, x1 - x0, y1 - y0)]
        objects.append({"category_id": 7, "segmentation": [corners], "bbox": box})
        if key % 2:
            objects.append({"category_id": 3, "bbox": [0.2, 0.0, 9.9, float(HEIGHT)]})
        for found in objects:
            found.setdefault("image_id", key)
    for number, found in enumerate(objects, 1):
        found |= {"id": number, "iscrowd": 0, "area": 1.0}
    categories = [{"id": 7, "name": "square"}, {"id": 3, "name": "left, part"}]
    path = root / "annotations.json"
    path.write_text(
        json.dumps({"images": images, "annotations": objects, "categories": categories})
    )
    return path


def image_file(path: Path, shade: int = 99) -> None:
    """An image of 8×8 pixels of one grey, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(path)


def table_of(root: Path, columns: dict[str, list[str]]) -> Path:
    """Twenty images, and a table that names them."""
    for i in range(20):
        image_file(root / "images" / f"n{i}.png")
    rows = [["file", *columns], *zip((f"n{i}" for i in range(20)), *columns.values(), strict=True)]
    (root / "t.csv").write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    return root


def split_of(folder: FaceFolder | MaskedFolder, split: str, *regions: str) -> MaskedImages:
    """A split of images other than faces, with the masks of some regions."""
    assert isinstance(folder, MaskedFolder)
    return folder.images(split, regions=regions)
