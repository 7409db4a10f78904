"""Annotations in COCO's format: labels and masks, and what is wrong with a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny_masks import AREA, HEIGHT, WIDTH, image_file, split_of, write_coco, write_images
from torch import Tensor

from fastcam.data import FolderLayout, MaskedFolder, open_folder
from fastcam.data.coco import CocoFiles
from fastcam.data.folder import ImageMasks


def test_coco_polygons_and_boxes_are_masks_and_labels(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    write_images(tmp_path, 12)
    path = write_coco(tmp_path)
    flat = split_of(open_folder(tmp_path, regions="masks"), "all", "masks")
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert folder.regions == ("left  part", "square")  # by number; a comma parts names
    assert folder.attributes == ["red", "frame"]  # a table goes before categories
    images = split_of(folder, "all", "left  part", "square")
    for i in range(12):
        left, square = images[i]["masks"].as_subclass(Tensor)
        assert torch.equal(square, flat[i]["masks"].as_subclass(Tensor)[0])
        assert int((left > 0).sum()) == (10 * HEIGHT if i % 2 == 0 else 0)
    (tmp_path / "labels.csv").unlink()
    folder = open_folder(tmp_path)
    assert (folder.attributes, folder.exclusive) == (["left  part", "square"], False)
    assert folder.images("all").labels.tolist() == [[float(i % 2 == 0), 1.0] for i in range(12)]
    told = json.loads(path.read_text())
    del told["images"][2]
    path.write_text(json.dumps(told))
    index = MaskedFolder(tmp_path).index  # of what no file tells, nobody knows the labels
    assert len(index.names) == 11 and index.unlabelled == ["0003.jpg"]
    image = tmp_path / "images" / "0001.jpg"
    region, masks = ImageMasks([image], path).read(image, "square", (36, 40))
    assert (str(region), int((masks > 0).sum())) == ("square", AREA)
    wide = json.loads(path.read_text())
    wide["images"][0]["width"] = 50
    path.write_text(json.dumps(wide))
    with pytest.raises(ValueError, match=r"0001.jpg is 40×36 pixels; its annotations are for 50×"):
        split_of(open_folder(tmp_path), "all", "square")[0]
    path.write_text('{"images": []}')
    with pytest.raises(ValueError, match="is no annotation file in COCO's format"):
        MaskedFolder(tmp_path, FolderLayout(coco=("annotations.json",)))


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("images", "id"), ("images", "file_name"), ("annotations", "id"),
        ("annotations", "image_id"), ("annotations", "category_id"), ("categories", "name"),
    ],
)  # fmt: skip
def test_what_a_file_of_coco_lacks_is_named(tmp_path: Path, part: str, key: str) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    path = write_coco(write_images(tmp_path, 4))
    (tmp_path / "labels.csv").unlink()
    values = json.loads(path.read_text())
    del values[part][-1][key]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"{path.name}: an entry of .* lacks '{key}'"):
        open_folder(tmp_path)


def test_a_file_of_coco_may_leave_the_sizes_out(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    path = write_coco(write_images(tmp_path, 4))
    (tmp_path / "labels.csv").unlink()
    values = json.loads(path.read_text())
    for entry in values["images"]:
        del entry["height"], entry["width"]
    path.write_text(json.dumps(values))
    image = split_of(open_folder(tmp_path), "all", "square")[0]
    assert image["image"].shape[1:] == image["masks"].shape[1:] == (HEIGHT, WIDTH)
    assert int((image["masks"] > 0).sum()) == AREA


def write_boxes(path: Path, names: list[str], **boxes: list[list[float] | None]) -> None:
    """A file in COCO's format: by category, the box of each image."""
    found = [(i, k, b) for k, of in enumerate(boxes.values(), 1) for i, b in enumerate(of, 1) if b]
    values = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names, 1)],
        "annotations": [
            {"id": number, "image_id": i, "category_id": k, "bbox": box}
            for number, (i, k, box) in enumerate(found, 1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(boxes, 1)],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


def test_what_several_files_of_coco_say_of_an_image_counts_together(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    for name in "ab":
        image_file(tmp_path / f"images/{name}.jpg")
    left, right = [0, 0, 2, 8], [6, 0, 2, 8]
    names, folder = ["a.jpg", "b.jpg"], tmp_path / "annotations"
    write_boxes(folder / "instances.json", names, person=[left, None], dog=[None, left])
    write_boxes(folder / "person_keypoints.json", names, person=[right, right])
    data = open_folder(tmp_path)
    assert data.attributes == ["person", "dog"]
    images = split_of(data, "all", "person", "dog")
    assert images.labels.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert images.counts(range(2)) == {"person": 2, "dog": 1}
    areas = [(images[i]["masks"] > 0).sum((1, 2)).tolist() for i in range(2)]
    assert areas == [[32, 0], [16, 16]]
    # Both files tell whether what is kept of an image is out of date.
    before = images.stamps([0])
    write_boxes(folder / "instances.json", names, person=[left, left], dog=[None, None])
    assert split_of(open_folder(tmp_path), "all", "person").stamps([0]) != before
    # An image may stand in a file more than once, too.
    write_boxes(tmp_path / "annotations.json", ["a.jpg", "a.jpg"], person=[left, right])
    files = CocoFiles([tmp_path / "annotations.json"], names, tmp_path / "images")
    assert files.read("a.jpg", "person", (8, 8)).astype(bool).sum() == 32


def test_one_image_is_that_of_its_folder_in_a_file_of_coco(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    for kind in ("ant", "bee"):
        image_file(tmp_path / f"images/{kind}/1.jpg")
    path, boxes = tmp_path / "all.json", [[0, 0, 2, 8], [0, 0, 8, 8]]
    write_boxes(path, ["ant/1.jpg", "bee/1.jpg"], wing=boxes)
    for kind, area in {"ant": 16, "bee": 64}.items():
        image = tmp_path / f"images/{kind}/1.jpg"
        found = ImageMasks([image], path).read(image, "wing", (8, 8))[1]
        assert (found > 0).sum() == area
    write_boxes(path, ["upload/7/1.jpg"], wing=boxes[:1])  # elsewhere, for who wrote the file
    image = tmp_path / "images/ant/1.jpg"
    found = ImageMasks([image], path).read(image, "wing", (8, 8))[1]
    assert (found > 0).sum() == 16


@pytest.mark.parametrize("file", ["annotations/instances_{}.json", "{}.json", "a/b_c_{}.json"])
def test_files_of_coco_are_called_as_the_folder_of_their_images(tmp_path: Path, file: str) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    image_file(tmp_path / "images/train/1.jpg")
    image_file(tmp_path / "images/val/1.jpg")
    write_boxes(tmp_path / file.format("train"), ["1.jpg"], dog=[[0, 0, 2, 8]])
    write_boxes(tmp_path / file.format("val"), ["1.jpg"], dog=[None])
    images = split_of(open_folder(tmp_path), "all", "dog")
    assert images.names == ["train/1.jpg", "val/1.jpg"]
    assert images.labels.tolist() == [[1.0], [0.0]]
    (tmp_path / file.format("val")).rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"other.json: '1.jpg' may be train/1.jpg or val/1.jpg"):
        open_folder(tmp_path)


def coco_mask(root: Path, *objects: dict[str, Any]) -> NDArray[np.uint8]:
    """The mask of one category in an image of 40×30 pixels that has these objects."""
    (root / "images").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30)).save(root / "images" / "a.png")
    kept = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0, **o}
            for i, o in enumerate(objects, 1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = root / "objects.json"
    path.write_text(json.dumps(kept))
    files = CocoFiles([path], ["a.png"], root / "images")
    assert files.has("a.png", "thing")
    return files.read("a.png", "thing", (30, 40)) > 0


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ([-2, 5, 20, 10], (5, 15), (0, 18)), ([-20, 5, 10, 10], (0, 0), (0, 0)),
        ([-10, 5, 10, 10], (0, 0), (0, 0)), ([5, -20, 10, 25], (0, 5), (5, 15)),
        ([35, 25, 99, 99], (25, 30), (35, 40)), ([40, 0, 9, 9], (0, 0), (0, 0)),
        ([-5, -5, 99, 99], (0, 30), (0, 40)), ([0.2, 0, 9.9, 30], (0, 30), (0, 10)),
        # Of less than half a pixel: that in which it lies.
        ([7.1, 3.6, 0.3, 0.2], (3, 4), (7, 8)), ([39.8, 29.9, 0, 0], (29, 30), (39, 40)),
        ([7.3, 4, 0.1, 9], (4, 13), (7, 8)), ([-0.3, 0, 0.5, 0.4], (0, 1), (0, 1)),
        ([1.5, 1.5, 1, 1], (2, 3), (2, 3)), ([0, 4, 0, 9], (4, 13), (0, 1)),
    ],
)  # fmt: skip
def test_a_box_of_coco_is_what_of_it_lies_in_the_image(
    tmp_path: Path, box: list[float], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    wanted = np.zeros((30, 40), bool)
    wanted[slice(*rows), slice(*columns)] = True
    assert coco_mask(tmp_path, {"bbox": box}).tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ({}, "object 2: expected a segmentation or a bbox, got neither"),
        ({"segmentation": [], "bbox": []}, "object 2: expected a segmentation or a bbox"),
        ({"segmentation": [[1, 1, 9, 9]]}, r"expected polygons .* got \[\[1, 1, 9, 9\]\]"),
        ({"segmentation": [1, 1, 9, 1, 9, 9]}, "segmentation: it cannot be read: "),
        ({"segmentation": {"size": [20, 10], "counts": [50, 100, 50]}},
         "segmentation: expected one of 40×30 pixels, got 10×20"),
        ({"segmentation": {"size": [30, 40]}}, "segmentation: it cannot be read: 'counts'"),
        ({"bbox": [1, 2, 3]}, r"bbox: expected \[x, y, width, height\], got \[1, 2, 3\]"),
        ({"bbox": [1, 2, None, 3]}, "bbox: expected"), ({"bbox": [1, 2, -1, 3]}, "bbox: expected"),
        ({"bbox": [1, 2, math.nan, 3]}, "bbox: expected"), ({"bbox": 7}, "bbox: expected .* got 7"),
    ],
)  # fmt: skip
def test_an_object_of_coco_that_has_no_mask_is_named(
    tmp_path: Path, damaged: dict[str, Any], words: str
) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    with pytest.raises(ValueError, match=rf"objects\.json, a\.png: .*{words}"):
        coco_mask(tmp_path, {"bbox": [1, 1, 4, 4]}, damaged)


def test_polygons_without_area_beside_others_do_no_harm(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    for polygons in ([square], [[20, 20, 30, 25], square], [square, [20, 20], []]):
        found = coco_mask(tmp_path, {"segmentation": polygons})
        assert found.sum() == found[2:12, 2:12].sum() == 100


def test_boxes_of_coco_that_are_kept_are_read_again_where_reading_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycocotools", reason="COCO's reader is an extra")
    coco_mask(tmp_path, {"bbox": [1, 1, 4, 4]})
    files = CocoFiles([tmp_path / "objects.json"], ["a.png"], tmp_path / "images")
    before = files.state("a.png", "thing")
    monkeypatch.setattr("fastcam.data.coco._READING", 99)
    assert files.state("a.png", "thing") != before
    assert files.state("b.png", "thing") is None
