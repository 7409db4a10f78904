"""Folders of images with a table, folders or annotations for labels, and masks."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny_faces import write_faces
from tiny_masks import CLASSES, HEIGHT, SIDE, WIDTH, write_coco, write_images
from torch import Tensor

from fastcam.data import FolderLayout, MaskedFolder, PreparedImages, open_folder
from fastcam.data.coco import CocoFiles
from fastcam.data.decoding import decode_pixels
from fastcam.data.description import describe
from fastcam.data.folder import FaceFolder, MaskedImages, masks_of
from fastcam.data.label_table import Names, hashed_split, read_label_table
from fastcam.data.layout_finder import find_layout
from fastcam.data.mask_files import find_masks, read_mask
from fastcam.regions import MaskRegion

AREA = SIDE * SIDE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def split_of(folder: FaceFolder | MaskedFolder, split: str, *regions: str) -> MaskedImages:
    assert isinstance(folder, MaskedFolder)
    return folder.images(split, regions=regions)


def image_file(path: Path, shade: int = 99) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(path)


# ---- what is found ------------------------------------------------------------------------------


def test_a_table_and_masks_are_found(data: Path) -> None:
    folder = open_folder(data)
    assert isinstance(folder, MaskedFolder)
    assert folder.layout == FolderLayout(
        "images", "labels.csv", "file", ("red", "frame"), split="split",
        regions={"masks": "masks/{stem}.png"},
    )  # fmt: skip
    assert (folder.attributes, folder.exclusive, folder.regions) == (
        ["red", "frame"], False, ("masks",),
    )  # fmt: skip
    sizes = [len(folder.images(s)) for s in ("train", "valid", "test", "all")]
    assert sizes == [24, 12, 12, 48]
    images = split_of(folder, "valid", "masks")
    table = read_label_table(data / "labels.csv")
    assert images.names == table["file"][24:36]
    assert images.labels[:, 0].tolist() == [float(x) for x in table["red"][24:36]]
    sample = images[3]
    assert sample["image"].shape == (3, HEIGHT, WIDTH)
    assert sample["masks"].shape == (1, HEIGHT, WIDTH)
    assert int((sample["masks"] == 255).sum()) == AREA
    grid = images.region("masks").grid(sample["masks"].numpy()[None], (36, 40), (9, 10))
    assert grid.sum() == pytest.approx(AREA / 16)
    assert images.counts(range(5)) == {"masks": 5}


@pytest.mark.parametrize(
    ("masks", "path"),
    [("folders", "masks/{0}/{{stem}}.png"), ("suffixes", "masks/{{stem}}_{0}.png")],
)
def test_several_regions_are_folders_or_suffixes(tmp_path: Path, masks: str, path: str) -> None:
    write_images(tmp_path, 12, masks=masks)
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert folder.layout.regions == {name: path.format(name) for name in ("frame", "square")}
    images = split_of(folder, "all", "square,frame", "frame")
    assert images.shown == ("square", "frame")
    masks_of_image = images[0]["masks"].numpy()[None]
    both, frame = (images.region(text) for text in ("square,frame", "frame"))
    areas = [r.grid(masks_of_image, (36, 40), (36, 40)).sum() for r in (both, frame)]
    assert areas == [AREA + 4 * (36 + 40) - 16, 4 * (36 + 40) - 16]
    with pytest.raises(ValueError, match=r"no region 'sqare' \(did you mean 'square'\?\)"):
        images.region("sqare")
    bare = split_of(folder, "all")
    assert bare[0]["masks"].shape == (0, HEIGHT, WIDTH)


def test_a_column_of_classes(data: Path) -> None:
    folder = MaskedFolder(data, find_layout(data, classes="kind"))
    assert (folder.attributes, folder.exclusive) == (list(CLASSES), True)
    labels = folder.images("all").labels
    assert labels.sum(1).tolist() == [1.0] * 48
    kinds = read_label_table(data / "labels.csv")["kind"]
    assert [CLASSES[i] for i in labels.argmax(1).tolist()] == kinds
    with pytest.raises(ValueError, match="expected all 3 classes"):
        folder.images("all", ["ant"])


def test_a_folder_for_each_class_and_each_split(tmp_path: Path) -> None:
    for split, count in (("train", 40), ("test", 3)):
        for kind in ("b", "a"):
            for i in range(count):
                image_file(tmp_path / split / kind / f"{kind}{i}.png")
    image_file(tmp_path / "masks" / "train" / "a" / "a7.png", 255)
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert (folder.attributes, folder.exclusive) == (["a", "b"], True)
    assert len(folder.images("test")) == 6
    assert len(folder.images("train")) + len(folder.images("valid")) == 80
    assert 1 <= len(folder.images("valid")) <= 20
    assert folder.table is None
    assert "a tenth of the training images" in folder.index.split_by
    assert folder.layout.regions == {"masks": "masks/{name}.png"}


def test_the_hash_decides_the_same_everywhere_and_keeps_groups_together(tmp_path: Path) -> None:
    # By sha256 of the name, of which the first eight bytes are read as a number.
    digest = int(hashlib.sha256(b"000001.jpg").hexdigest()[:16], 16) / 16**16
    assert hashed_split("000001.jpg", (digest - 1e-9, 0.0)) == "test"
    assert hashed_split("000001.jpg", (digest - 1e-9, 1e-8)) == "valid"
    assert hashed_split("000001.jpg", (digest + 1e-9, 0.0)) == "train"
    found = [hashed_split(str(i)) for i in range(5000)]
    assert found.count("train") == pytest.approx(4000, abs=120)
    assert found.count("valid") == pytest.approx(500, abs=90)
    rows = ["image\tsick\tpatient"]
    for i in range(60):
        image_file(tmp_path / "images" / f"{i:03d}.png")
        rows.append(f"{i:03d}\t{i % 2}\tp{i // 6}")
    (tmp_path / "t.tsv").write_text("\n".join(rows))
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert folder.layout.group == "patient"
    splits = [folder.index.splits[i : i + 6] for i in range(0, 60, 6)]
    assert all(len(set(group)) == 1 for group in splits)
    assert len({group[0] for group in splits}) > 1


def test_names_are_found_with_or_without_suffix_and_folder() -> None:
    names = Names(["a/1.png", "b/1.png", "b/2.jpg"])
    assert names.find("a/1") == "a/1.png"
    assert names.find("./b/2.jpg") == names.find("2.jpg") == names.find("2") == "b/2.jpg"
    assert names.find("1.png") is None  # two have it
    assert names.find("3") is None


def test_names_are_found_with_other_folders_before_them() -> None:
    names = Names(["a/b/1.png", "a/2.png", "3.png", "c/3.png", "d/4.png", "d/4.jpg"])
    for text in ("b/1.png", "images/a/b/1.png", "images\\a\\b\\1", "C:\\x\\a\\b\\1.png"):
        assert names.find(text) == "a/b/1.png", text
    assert names.find("/data/a/2.png") == names.find("../images/a/2") == "a/2.png"
    assert names.find("c/3") == "c/3.png"
    assert names.find("/data/a/2.png", further=False) is None
    # Folders that differ are other images, and two that end alike may both be meant.
    for text in ("e/2.png", "images/2.png", "images/", "/", ""):
        assert names.matches(text) == [], text
    assert sorted(names.matches("images/c/3.png")) == ["3.png", "c/3.png"]
    assert sorted(names.matches("images/d/4")) == ["d/4.jpg", "d/4.png"]
    assert names.find("images/c/3.png") is names.find("images/d/4") is None


def test_images_of_whom_nobody_knows_the_group_are_no_group(tmp_path: Path) -> None:
    rows = ["file,red,patient"]
    for row in range(60):
        image_file(tmp_path / f"images/{row:03}.jpg")
        rows.append(f"{row:03}.jpg,{row % 2},{'' if row % 2 else f'p{row // 20}'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    index = MaskedFolder(tmp_path).index
    assert index.split_by.startswith("a hash of patient")
    for row, (name, split) in enumerate(zip(index.names, index.splits, strict=True)):
        assert split == hashed_split(name if row % 2 else f"p{row // 20}")


def test_folders_may_be_links(tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    for kind in ("ant", "bee"):
        for name in ("1", "2"):
            image_file(store / kind / f"{name}.jpg")
            image_file(store / "masks" / kind / f"{name}.png")
    (data / "images").mkdir(parents=True)
    (data / "masks").mkdir()
    for kind in ("ant", "bee"):
        (data / "images" / kind).symlink_to(store / kind)
        (data / "masks" / kind).symlink_to(store / "masks" / kind)
    (store / "ant" / "round").symlink_to(data / "images")  # in a circle
    folder = open_folder(data)
    images = split_of(folder, "all", "masks")
    assert folder.attributes == ["ant", "bee"]
    assert images.counts(range(len(images))) == {"masks": 4}
    assert images.names == ["ant/1.jpg", "ant/2.jpg", "bee/1.jpg", "bee/2.jpg"]


@pytest.mark.parametrize("path", ["images/{}", "images\\{}", "/home/me/birds/images/{}", "./{}"])
def test_a_table_may_name_images_by_longer_paths(data: Path, tmp_path: Path, path: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(data, root)
    table = root / "labels.csv"
    lines = table.read_text().splitlines()
    lines[1:] = [path.format(line) for line in lines[1:]]
    table.write_text("\n".join(lines))
    folder, plain = open_folder(root), open_folder(data)
    assert isinstance(folder, MaskedFolder) and isinstance(plain, MaskedFolder)
    assert folder.layout == plain.layout
    assert folder.index.names == plain.index.names and folder.index.splits == plain.index.splits


def test_paths_of_masks_do_not_name_the_images(tmp_path: Path) -> None:
    rows = ["mask,prior,sick,file"]
    for i in range(4):
        image_file(tmp_path / "images" / f"{i}.png")
        rows.append(f"masks/{i}.png,scans/{(i + 1) % 4}.png,{i % 2},{i}.png")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    assert find_layout(tmp_path).file == "file"
    # Nor does a column of 0 and 1, which are images' names, too.
    longer = [f"{i % 2},images/{i}.png" for i in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["sick,file", *longer]))
    assert find_layout(tmp_path).file == "file"
    (tmp_path / "t.csv").write_text("file,sick\n2,1\n2,1\n3,0\n2,1\n")
    with pytest.raises(ValueError, match=r"t\.csv, line 3: 2\.png is listed twice"):
        open_folder(tmp_path)


@pytest.mark.parametrize("index", ["", "id", "Unnamed: 0"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["{}.jpg", "{}"])
def test_the_numbers_of_rows_do_not_name_images_that_have_numbers(
    tmp_path: Path, index: str, first: int, name: str
) -> None:
    rows = [f"{index},file,red"]
    for row in range(8):
        image = (row * 3) % 8 + first
        image_file(tmp_path / f"images/{image}.jpg")
        rows.append(f"{row + first},{name.format(image)},{image % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    images = split_of(open_folder(tmp_path), "all")
    assert images.labels[:, 0].tolist() == [int(Path(n).stem) % 2 for n in images.names]
    # Where nothing else names them, the numbers do.
    (tmp_path / "labels.csv").write_text(
        "\n".join([f"{index},red"] + [f"{row + first},{row % 2}" for row in range(8)])
    )
    assert find_layout(tmp_path).file == index


def test_an_index_that_pandas_shuffled_names_no_image(tmp_path: Path) -> None:
    rows = [",file,red"]
    for row in range(8):
        image_file(tmp_path / f"images/{row}.jpg")
        rows.append(f"{(row * 3 + 1) % 8},{row}.jpg,{row % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert find_layout(tmp_path).file == "file"


def test_names_of_several_images_are_an_error(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "a/2.png", "a/3.png"):
        image_file(tmp_path / "images" / name)
    table = tmp_path / "t.csv"
    table.write_text("file,sick\n2.png,1\n3.png,0\n1.png,1\n")
    with pytest.raises(ValueError, match=r"t\.csv, line 4: '1\.png' may be a/1\.png or b/1\.png"):
        open_folder(tmp_path)
    table.write_text("file,sick\n1.png,1\n1.png,0\n")
    with pytest.raises(ValueError, match=r"no column names the images .* in file, '1\.png' may"):
        open_folder(tmp_path)


def test_a_table_of_which_few_images_are_there_is_told_of(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png"):
        image_file(tmp_path / "images" / name)
    rows = "".join(f"ant,a{i}.png,{i % 2}\n" for i in range(1, 10))
    (tmp_path / "t.csv").write_text(f"kind,file,sick\n{rows}")
    with pytest.raises(
        ValueError, match=r"no column names the images .*; file does in 2 of 9 rows"
    ):
        open_folder(tmp_path)


@pytest.mark.parametrize("place", [".", "images"])
@pytest.mark.parametrize("table", [False, True])
def test_masks_beside_their_images_are_no_images(tmp_path: Path, place: str, table: bool) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:6] = 255
    rows = ["file,sick"]
    for kind in ("sick", "well"):
        for i in range(9):
            path = tmp_path / place / kind / f"{kind} ({i}).png"
            image_file(path)
            rows.append(f"{path.name},{int(kind == 'sick')}")
            Image.fromarray(mask).save(path.with_stem(f"{path.stem}_mask"))
    Image.fromarray(mask).save(path.with_stem(f"{path.stem}_mask_2"))
    if table:
        (tmp_path / "t.csv").write_text("\n".join(rows))
    describe(tmp_path).layout.save(tmp_path)  # type: ignore[union-attr]
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert len(folder.index.names) == 18 and not folder.index.unlabelled
    assert folder.attributes == (["sick"] if table else ["sick", "well"])
    found = split_of(folder, "all", "mask")
    assert found.counts(range(18)) == {"mask": 18}
    assert np.array_equal(found[3]["masks"][0], mask)


def test_photographs_that_are_called_masks_stay_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    for kind in ("a", "b"):
        for name in ("1", "1_mask"):
            image_file(tmp_path / kind / f"{name}.png")
            Image.fromarray(noise).save(tmp_path / kind / f"{name}.png")
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert len(folder.index.names) == 4 and not folder.regions


def test_a_mask_of_images_in_several_folders_is_told_of(tmp_path: Path) -> None:
    for name in ("images/sick/1.png", "images/well/1.png", "images/well/2.png", "masks/1.png"):
        image_file(tmp_path / name)
    wanted = r"masks/1\.png is taken for sick/1 and for well/1 \(1 such masks\)"
    with pytest.warns(UserWarning, match=wanted):
        describe(tmp_path)
    (tmp_path / "masks" / "sick").mkdir()
    (tmp_path / "masks" / "1.png").rename(tmp_path / "masks" / "sick" / "1.png")
    folder = open_folder(tmp_path)  # warnings are errors
    assert folder.images("all", regions=["masks"]).counts([0, 1, 2]) == {"masks": 1}


# ---- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0003.jpg,", "9999.jpg,", r"line 4: there is no image '9999.jpg' \(1 of 48 rows"),
        ("0003.jpg,", "0002.jpg,", r"line 4: 0002.jpg is listed twice"),
        ("0003.jpg,", "0003.jpg,1,", r"line 4: expected 5 cells as in the header, got 6"),
        (r"0003.jpg,\d", "0003.jpg,2", r"line 4, red: expected 0 or 1, got '2'"),
        (
            r"(0003.*),train",
            r"\1,tran",
            r"line 4, split: expected train, valid or test, got",
        ),
        ("file,red", "file,frame", r"line 1: two columns are called 'frame'"),
        ("file,red", "file,rot", r"has no column 'red'; it has: file, rot"),
    ],
)
def test_a_table_that_does_not_fit_is_named(
    data: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(data, root)
    find_layout(root).save(root)
    table = root / "labels.csv"
    table.write_text(re.sub(old, new, table.read_text(), count=1))
    with pytest.raises(ValueError, match=message):
        open_folder(root)


def test_fastcam_json_is_read_and_checked(data: Path, tmp_path: Path) -> None:
    layout = find_layout(data, classes="kind")
    layout.save(tmp_path)
    assert FolderLayout.load(tmp_path) == layout
    path = tmp_path / "fastcam.json"
    values = json.loads(path.read_text())
    for change, message in (
        ({"label": "x"}, "'label' is unknown"),
        ({"labels": "red"}, "labels: expected a list of texts, got 'red'"),
        ({"regions": {"a": 1}}, "regions: expected texts by name"),
        ({"table": 3}, "table: expected a text, got 3"),
    ):
        path.write_text(json.dumps({**values, **change}))
        with pytest.raises(ValueError, match=message):
            FolderLayout.load(tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no description of a data folder"):
        FolderLayout.load(tmp_path)
    with pytest.raises(FileExistsError, match="was not written by fastcam"):
        layout.save(tmp_path)


def test_what_is_missing_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images: expected them in images/"):
        open_folder(tmp_path)
    image_file(tmp_path / "images" / "1.png")
    image_file(tmp_path / "images" / "2.png")
    with pytest.raises(ValueError, match=r"1\.png has no label: expected a table \(CSV or TSV\)"):
        open_folder(tmp_path)
    (tmp_path / "a.csv").write_text("who,what\nx,1\ny,0\n")
    with pytest.raises(ValueError, match=r"no column names the images \(1.png, …\); it has: who"):
        open_folder(tmp_path)
    (tmp_path / "a.csv").write_text("file,sort,shape\n1,u,w\n2,v,w\n")
    with pytest.raises(ValueError, match="name its columns of 0 and 1, or its column of classes"):
        open_folder(tmp_path)
    (tmp_path / "b.csv").write_text("file,sick\n1,1\n")
    with pytest.raises(ValueError, match=r"several tables: name the one with labels \(a.csv, b.c"):
        open_folder(tmp_path)
    folder = MaskedFolder(tmp_path, find_layout(tmp_path, table="b.csv"))
    assert folder.index.unlabelled == ["2.png"]
    with pytest.raises(FileNotFoundError, match="regions: neither"):
        open_folder(data, regions="nowhere")
    with pytest.raises(ValueError, match=r"regions: no file in .* is named after an image"):
        MaskedFolder(data, regions=tmp_path / "images")
    with pytest.raises(ValueError, match=r"this data has no region 'wing'; it has: masks"):
        open_folder(data).region("wing")
    with pytest.raises(ValueError, match="landmarks: expected none"):
        open_folder(data, landmarks=tmp_path)


def test_faces_stay_faces(tmp_path: Path) -> None:
    faces = open_folder(write_faces(tmp_path, 8))
    assert isinstance(faces, FaceFolder)
    assert open_folder(faces) is faces
    assert faces.table == tmp_path / "list_attr_celeba.txt"
    assert str(faces.region("mouth")) == "mouth"
    assert len(faces.images("train", ["Eyes"])) == 4
    with pytest.raises(ValueError, match="regions: .* is in CelebA's layout"):
        open_folder(tmp_path, regions=tmp_path)


def table_of(root: Path, columns: dict[str, list[str]]) -> Path:
    """Twenty images, and a table that names them."""
    for i in range(20):
        image_file(root / "images" / f"n{i}.png")
    rows = [["file", *columns], *zip((f"n{i}" for i in range(20)), *columns.values(), strict=True)]
    (root / "t.csv").write_text("\n".join(map(",".join, rows)), encoding="utf-8")
    return root


SICK = ["0", "1"] * 10
SPLIT = ["train"] * 12 + ["val"] * 4 + ["test"] * 4


@pytest.mark.parametrize("name", ["split", "Partition", "set", "subset", "fold"])
@pytest.mark.parametrize("odd", ["", "tset", "nan", "3"])
def test_a_split_that_is_not_one_is_named(tmp_path: Path, name: str, odd: str) -> None:
    cells = [*SPLIT]
    cells[6] = odd
    root = table_of(tmp_path, {"sick": SICK, name: cells})
    wanted = rf"t\.csv, line 8, {name}: expected train, valid or test, got '{odd}' \(or name"
    with pytest.raises(ValueError, match=wanted):
        open_folder(root)
    cells[:12] = [odd] * 12  # not a few alone: no word of a split is another thing's
    with pytest.raises(ValueError, match=rf"line 2, {name}: expected train, valid or test"):
        open_folder(table_of(tmp_path, {"sick": SICK, name: cells}))


def test_what_is_called_split_says_it(tmp_path: Path) -> None:
    for name in ("split", "partition"):
        root = table_of(tmp_path, {"sick": SICK, name: ["a", "b"] * 10})
        with pytest.raises(ValueError, match=rf"line 2, {name}: expected train, valid or test"):
            open_folder(root)
    # Unless another column does.
    layout = find_layout(table_of(tmp_path, {"sick": SICK, "split": ["a"] * 20, "set": SPLIT}))
    assert layout.split == "set"


def test_columns_of_other_kinds_stay_unused(tmp_path: Path) -> None:
    others = {
        "fold": [str(i % 5) for i in range(20)], "set": ["A", "B"] * 10, "phase": [*SPLIT[:-1], ""],
        "age": [str(20 + i) for i in range(20)], "children": ["0", "1"] * 9 + ["2", "3"],
        "note": ["", "yes", "blurred", "no"] * 5, "tried": ["", "1"] * 10, "who": ["Ann", "1"] * 10,
        "empty": [""] * 20, "caf\u00e9": ["\u00e9"] * 20,
    }  # fmt: skip
    folder = open_folder(table_of(tmp_path, {"sick": SICK, **others}))
    assert isinstance(folder, MaskedFolder)
    assert folder.attributes == ["sick"] and folder.index.unused == [*others]
    assert folder.layout.split is None
    # Classes that are numbers, of which one is rare.
    kinds = ["0", "1"] * 9 + ["2", "2"]
    assert find_layout(table_of(tmp_path, {"grade": kinds})).classes == "grade"


@pytest.mark.parametrize("odd", ["", "NaN", "N/A", "l", "2"])
@pytest.mark.parametrize("words", [("0", "1"), ("no", "Yes"), ("-1", "1")])
def test_a_label_that_is_not_one_is_named(tmp_path: Path, odd: str, words: tuple[str, str]) -> None:
    cells = [words[int(x)] for x in SICK]
    cells[13] = odd
    root = table_of(tmp_path, {"sick": SICK, "grave": cells})
    wanted = rf"t\.csv, line 15, grave: expected 0 or 1, got '{odd.lower()}' \(or name its columns"
    with pytest.raises(ValueError, match=wanted):
        open_folder(root)
    layout = find_layout(root, labels=("sick",))  # then no other column is asked
    assert layout.labels == ("sick",)
    cells[13:15] = ["", ""]
    with pytest.raises(ValueError, match=r"line 15, label: expected 0 or 1, got ''"):
        open_folder(table_of(tmp_path, {"label": cells}))


@pytest.mark.parametrize("form", ["{:d}", "{:.1f}"])
def test_absent_and_unknown_are_not_one(tmp_path: Path, form: str) -> None:
    cells = [form.format(2 * int(x) - 1) for x in SICK]
    folder = open_folder(table_of(tmp_path, {"grave": cells}))
    assert folder.attributes == ["grave"]
    assert folder.images("all").labels[:, 0].tolist() == [float(x) for x in SICK]
    # 0 and -1 in one column: difficult, uncertain, or one class of three.
    cells[13] = form.format(0)
    root = table_of(tmp_path, {"grave": cells})
    wanted = r"t\.csv, line 15, grave: expected 0 and 1, or -1 and 1, got both 0 and -1 \(leave"
    with pytest.raises(ValueError, match=wanted):
        open_folder(root)
    assert MaskedFolder(root, find_layout(root, classes="grave")).exclusive


def test_splits_are_called_as_mimic_calls_them_and_blank_lines_say_nothing(tmp_path: Path) -> None:
    rows = ["", ",,", "file,red,split"]
    for row, split in enumerate(["train", "validate", "test"]):
        image_file(tmp_path / f"images/{row}.jpg")
        rows += [f"{row}.jpg,{row % 2},{split}", ""]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert MaskedFolder(tmp_path).index.splits == ["train", "valid", "test"]


def test_one_blank_cell_of_a_short_table_is_named(tmp_path: Path) -> None:
    for i in range(5):
        image_file(tmp_path / "images" / f"n{i}.png")
    (tmp_path / "t.csv").write_text("file,a,b\nn0,1,0\nn1,0,1\nn2,1,\nn3,0,1\nn4,0,0\n")
    with pytest.raises(ValueError, match=r"t\.csv, line 4, b: expected 0 or 1, got ''"):
        open_folder(tmp_path)


# ---- tables that are not UTF-8 ------------------------------------------------------------------


def test_a_table_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    kinds = ["caf\u00e9", "tea"] * 10
    root = table_of(tmp_path, {"class": kinds})
    folder = open_folder(root)
    assert folder.attributes == ["caf\u00e9", "tea"]
    table = root / "t.csv"
    table.write_bytes(table.read_text("utf-8").encode("cp1252"))
    wanted = r"t\.csv, line 2, class: the byte 0xE9 in 'caf.' is not UTF-8; save the table as UTF-8"
    with pytest.raises(ValueError, match=wanted) as caught:
        open_folder(root)
    str(caught.value).encode()
    table_of(tmp_path, {"na\u00efve": SICK})
    table.write_bytes(table.read_text("utf-8").encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv, line 1: the byte 0xEF in 'na.ve' is not UTF-8"):
        open_folder(root)


def test_comments_that_are_not_utf_8_do_no_harm(tmp_path: Path) -> None:
    root = table_of(tmp_path, {"sick": SICK, "note": ["\u00e9"] * 20})
    table = root / "t.csv"
    table.write_bytes(table.read_text("utf-8").encode("cp1252"))
    assert open_folder(root).attributes == ["sick"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
def test_images_whose_names_are_not_utf_8(tmp_path: Path) -> None:
    root = table_of(tmp_path, {"sick": SICK})
    name = os.fsdecode(b"lat\xefn.png")
    (root / "images" / "n3.png").rename(root / "images" / name)
    table = root / "t.csv"
    table.write_bytes(table.read_bytes().replace(b"\nn3,", b"\nlat\xefn,"))
    folder = open_folder(root)
    assert isinstance(folder, MaskedFolder)
    assert folder.index.names[3] == name
    # The file has its name in UTF-8, the table in another encoding.
    (root / "images" / name).rename(root / "images" / "lat\u00efn.png")
    with pytest.raises(ValueError, match=r"line 5: there is no image 'lat.n' .*; the byte 0xEF in"):
        open_folder(root)


# ---- masks --------------------------------------------------------------------------------------


def test_masks_of_any_kind(tmp_path: Path) -> None:
    shape = np.zeros((4, 6), np.uint8)
    shape[1:3, 2:5] = 1
    wanted = shape * 255
    palette = Image.fromarray(shape).convert("P")
    clear = np.dstack([np.zeros_like(wanted), wanted, wanted * 0, np.full_like(wanted, 255)])
    files = {
        "one.png": Image.fromarray(shape), "bits.png": Image.fromarray(shape.astype(bool)),
        "white.png": Image.fromarray(wanted), "seven.png": Image.fromarray(shape * 7),
        "palette.png": palette, "colour.png": Image.fromarray(clear, "RGBA"),
        "deep.png": Image.fromarray(shape.astype(np.uint16) * 40000),
    }  # fmt: skip
    for name, image in files.items():
        image.save(tmp_path / name)
        assert read_mask(tmp_path / name).tolist() == wanted.tolist(), name
    soft = wanted.copy()
    soft[1, 2] = 128
    Image.fromarray(soft).save(tmp_path / "soft.png")
    assert read_mask(tmp_path / "soft.png").tolist() == soft.tolist()
    large = np.kron(wanted, np.ones((16, 16), np.uint8))
    Image.fromarray(large).save(tmp_path / "lossy.jpg", quality=60)
    assert read_mask(tmp_path / "lossy.jpg").tolist() == large.tolist()
    labels = shape.copy()
    labels[0] = 3
    Image.fromarray(labels).save(tmp_path / "map.png")
    with pytest.raises(ValueError, match=r"holds the values 0, 1, 3: of a label map say which"):
        read_mask(tmp_path / "map.png")
    assert read_mask(tmp_path / "map.png", [1]).tolist() == wanted.tolist()
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"mask .*no\.png cannot be read"):
        read_mask(tmp_path / "no.png")


def shapes() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A shape of 0 and 255, and as bool."""
    inside = np.zeros((4, 6), bool)
    inside[1:3, 2:5] = True
    return np.where(inside, np.uint8(255), np.uint8(0)), inside


@pytest.mark.parametrize("pair", [(1, 2), (10, 245), (16, 235), (0, 1), (128, 255)])
@pytest.mark.parametrize("kind", ["grey", "deep", "palette", "colour", "opaque"])
def test_of_two_values_the_larger_one_is_the_region(
    tmp_path: Path, pair: tuple[int, int], kind: str
) -> None:
    wanted, inside = shapes()
    values = np.where(inside, pair[1], pair[0]).astype(np.uint8)
    image = {
        "grey": Image.fromarray(values),
        "deep": Image.fromarray(values.astype(np.uint16)),
        "palette": Image.fromarray(values).convert("P"),
        "colour": Image.fromarray(np.dstack([values // 2, values, values * 0])),
        "opaque": Image.fromarray(np.dstack([values] * 3 + [np.full_like(values, 255)])),
    }[kind]
    if kind == "palette":
        assert np.array(image).tolist() == values.tolist()
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == wanted.tolist()


@pytest.mark.parametrize("value", [0, 1, 7, 255])
def test_a_mask_of_one_value_is_all_or_nothing(tmp_path: Path, value: int) -> None:
    for dtype in (np.uint8, np.uint16):
        Image.fromarray(np.full((4, 6), value, dtype)).save(tmp_path / "m.png")
        assert set(read_mask(tmp_path / "m.png").ravel()) == {255 if value else 0}


def test_of_two_colours_the_brighter_one_is_the_region(tmp_path: Path) -> None:
    wanted, inside = shapes()

    def save(around: tuple[int, ...], within: tuple[int, ...]) -> Path:
        pixels = np.where(inside[..., None], np.array(within), np.array(around)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "m.png")
        return tmp_path / "m.png"

    assert read_mask(save((0, 0, 90), (200, 10, 10))).tolist() == wanted.tolist()
    assert read_mask(save((200, 0, 0), (0, 255, 0))).tolist() == wanted.tolist()
    for alpha in ((), (255,)):
        path = save((255, 0, 0, *alpha), (0, 255, 0, *alpha))
        wrong = r"m\.png: expected the region brighter .* \(0, 255, 0\) and \(255, 0, 0\)"
        with pytest.raises(ValueError, match=wrong):
            read_mask(path)
    assert read_mask(save((9, 9, 9), (9, 9, 9))).tolist() == np.full((4, 6), 255).tolist()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("drawn", "hidden"), [(255, 255), (255, 0), (0, 0), (0, 255), (90, 0), (90, 255)]
)
def test_a_shape_on_a_transparent_background(
    tmp_path: Path, mode: str, suffix: str, drawn: int, hidden: int
) -> None:
    wanted, inside = shapes()
    path = tmp_path / f"m.{suffix}"

    def read(alpha: NDArray[np.uint8], colour: NDArray[np.uint8] | None = None) -> list[list[int]]:
        grey = np.where(alpha > 0, drawn, hidden).astype(np.uint8) if colour is None else colour
        bands = [grey, grey // 2, grey // 3, alpha] if mode == "RGBA" else [grey, alpha]
        Image.fromarray(np.dstack(bands), mode).save(path)
        return read_mask(path).tolist()

    assert read(wanted) == wanted.tolist()
    assert read(wanted // 2) == wanted.tolist()  # a brush that is not opaque
    assert read(wanted * 0) == (wanted * 0).tolist()  # nothing was drawn
    soft = wanted.copy()
    soft[1, 2], soft[2, 4] = 128, 20
    assert read(soft) == soft.tolist()
    # As programs leave colours that they keep multiplied by the opacity.
    rounded = np.round(np.round(drawn * (soft / 255)) * 255 / np.maximum(soft, 1)).clip(0, 255)
    assert read(soft, rounded.astype(np.uint8)) == soft.tolist()
    if mode == "LA":
        # A white shape on black that covers a part of the image alone, and a hole in it.
        black = np.full_like(wanted, 255)
        black[:, 0] = 0
        assert read(black, np.where(inside, np.uint8(255), np.uint8(hidden * (black == 0)))) == (
            wanted.tolist()
        )


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparency_that_is_the_same_everywhere_says_nothing(tmp_path: Path, alpha: int) -> None:
    wanted, _ = shapes()
    pixels = np.dstack([wanted] * 3 + [np.full_like(wanted, alpha)])
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == wanted.tolist()


@pytest.mark.parametrize("clear", [False, True])
def test_black_and_white_in_a_palette_are_told_by_what_they_show(
    tmp_path: Path, clear: bool
) -> None:
    shape = np.zeros((6, 8), np.uint8)
    shape[1:4, 2:6] = 1
    kept = {"transparency": 2} if clear else {}

    def saved(index: NDArray[Any], *colours: int) -> NDArray[np.uint8]:
        image = Image.fromarray(index.astype(np.uint8), "P")
        image.putpalette([*colours, *[7, 7, 7] * (256 - len(colours) // 3)])
        image.save(tmp_path / "m.png", **kept)
        return read_mask(tmp_path / "m.png")

    black, white, red = (0, 0, 0), (255, 255, 255), (200, 0, 0)
    assert (saved(shape, *black, *white) == shape * 255).all()
    assert (saved(1 - shape, *white, *black) == shape * 255).all()  # as optimisers order them
    assert (saved(0 * shape, *white, *black) == 255).all()
    assert not saved(0 * shape + 1, *white, *black).any()
    # Of colours, and of what looks alike, the index.
    assert (saved(shape, *white, *red) == shape * 255).all()
    assert (saved(shape, *black, *black) == shape * 255).all()
    assert (read_mask(tmp_path / "m.png", [0]) == (1 - shape) * 255).all()


def test_palettes_with_transparent_colours(tmp_path: Path) -> None:
    wanted, inside = shapes()
    path = tmp_path / "m.png"

    def read(index: NDArray[Any], colours: list[int], transparency: bytes | int) -> list[list[int]]:
        image = Image.fromarray(index.astype(np.uint8)).convert("P")
        image.putpalette(colours)
        image.save(path, transparency=transparency)
        return read_mask(path).tolist()

    white, black, red = [255] * 3, [0] * 3, [255, 0, 0]
    # The shape in either index, the background transparent.
    assert read(inside, [*black, *white], 0) == wanted.tolist()
    assert read(~inside, [*white, *black], 1) == wanted.tolist()
    assert read(~inside, [*black, *white], 1) == wanted.tolist()
    # White of several opacities, as of an image with few colours.
    index = inside.astype(int)
    index[1, 2] = 2
    soft = wanted.copy()
    soft[1, 2] = 100
    assert read(index, white * 3, bytes([0, 255, 100])) == soft.tolist()
    # A transparent colour that no pixel has, and a label map on a transparent background.
    assert read(inside, [*black, *white, *red], 2) == wanted.tolist()
    with pytest.raises(ValueError, match="holds the values 0, 1, 2: of a label map say which"):
        read(index, [*black, *white, *red], 0)
    assert read_mask(path, [2]).tolist() == np.where(index == 2, 255, 0).tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *itertools.product(["png", "tif"], ["L", "1", "P", "RGB", "RGBA", "I;16"]),
        *itertools.product(["jpg"], ["L", "RGB"]),
    ],
)
def test_a_mask_lies_as_its_image(tmp_path: Path, orientation: int, kind: str, mode: str) -> None:
    shape = np.zeros((48, 80), np.uint8)
    shape[:16, :32] = shape[16:32, 64:] = 1
    if mode == "RGBA":
        image = Image.fromarray(np.dstack([0 * shape] * 3 + [255 * shape]), "RGBA")
    elif mode == "I;16":
        image = Image.fromarray(shape.astype(np.uint16) * 40000)
    else:
        image = Image.fromarray(shape if mode == "P" else shape * 255).convert(mode)
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = tmp_path / f"mask.{kind}"
    image.save(path, exif=tags, **({"quality": 95} if kind == "jpg" else {}))
    # Where the decoder of images has a bright pixel of the same file, there is the region.
    plain = tmp_path / f"image.{kind}"
    Image.fromarray(shape * 255).save(plain, exif=tags)
    shown = decode_pixels(plain.read_bytes())[..., 0]
    assert read_mask(path).tolist() == np.where(shown > 127, 255, 0).tolist()
    if mode == "P":
        assert read_mask(path, [1]).tolist() == np.where(shown > 127, 255, 0).tolist()


def test_a_label_map_in_the_layout_and_a_mask_of_another_size(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(data, root)
    layout = find_layout(root)
    regions = {"square": "masks/{stem}.png=1", "none": "masks/{stem}.png=2"}
    folder = MaskedFolder(root, FolderLayout(**{**vars(layout), "regions": regions}))
    masks = split_of(folder, "test", "square", "none")[0]["masks"]
    assert [int((m == 255).sum()) for m in masks] == [AREA, 0]
    with pytest.raises(ValueError, match=r"regions, a: expected a path with \{stem\} or \{name\}"):
        MaskedFolder(root, FolderLayout(**{**vars(layout), "regions": {"a": "masks/a.png"}}))
    name = split_of(folder, "test").names[0]
    Image.fromarray(np.ones((5, 5), bool)).save(root / "masks" / f"{name[:-4]}.png")
    with pytest.raises(ValueError, match=rf"{name[:-4]}.png is 5×5 pixels, its image .* 40×36"):
        split_of(folder, "test", "square")[0]
    (root / "masks" / f"{name[:-4]}.png").unlink()
    assert not split_of(folder, "test", "square")[0]["masks"].any()


def test_masks_are_named_by_folder_and_suffix(tmp_path: Path) -> None:
    for name in ("m/x.png", "m/wing/x.png", "m/wing/in_flight/y.png", "m/x-beak.png", "m/z.png"):
        image_file(tmp_path / name)
    assert find_masks(tmp_path, "m", ["x.jpg", "y.jpg"]) == {
        "beak": "m/{stem}-beak.png", "m": "m/{stem}.png", "wing": "m/wing/{stem}.png",
        "wing_in_flight": "m/wing/in_flight/{stem}.png",
    }  # fmt: skip
    region, masks = masks_of(tmp_path / "x.jpg", tmp_path / "m", "beak,m", (8, 8))
    assert (str(region), masks.shape) == ("beak,m", (2, 8, 8))


@pytest.mark.parametrize(
    ("file", "region"),
    [("{kind}/1.png", "masks"), ("{kind}/1_wing.png", "wing"), ("wing/{kind}/1.png", "wing")],
)
def test_masks_of_one_image_lie_in_folders_as_it_does(
    tmp_path: Path, file: str, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, shade in {"ant": 0, "bee": 255}.items():
        image_file(tmp_path / f"images/{kind}/1.jpg")
        image_file(tmp_path / "masks" / file.format(kind=kind), shade)
    for kind, area in {"ant": 0, "bee": 64}.items():
        image = tmp_path / f"images/{kind}/1.jpg"
        found = masks_of(image, tmp_path / "masks", region, (8, 8))[1]
        assert (found > 0).sum() == area
        monkeypatch.chdir(image.parent)
        assert (masks_of(Path("1.jpg"), "../../masks", region, (8, 8))[1] == found).all()


def test_a_mask_region_is_the_union_of_its_masks() -> None:
    masks = np.zeros((1, 3, 4, 4), np.uint8)
    masks[0, 0, :2] = 255
    masks[0, 2, :, :1] = 255
    masks[0, 1] = 99
    region = MaskRegion.parse(" b , a,b", ["a", "c", "b"])
    assert (region.names, region.channels, str(region)) == (("b", "a"), (2, 0), "b,a")
    assert region.grid(masks, (4, 4), (2, 2)).tolist() == [[[1.0, 1.0], [0.5, 0.0]]]
    assert region.grid(masks, (4, 4), (2, 2), "binary").tolist() == [[[1.0, 1.0], [1.0, 0.0]]]
    with pytest.raises(TypeError, match="region: expected text"):
        MaskRegion.parse(3, ["a"])  # type: ignore[arg-type]
    for known in (3, ["a", 1.0]):
        with pytest.raises(TypeError, match="known: expected"):
            MaskRegion.parse("b", known)  # type: ignore[arg-type]


@pytest.mark.parametrize("cache", [True, False])
def test_masks_are_resized_with_their_images(
    data: Path, cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcam.data.prepared.available_memory", lambda: 0)
    images = split_of(open_folder(data), "train", "masks")
    plain = PreparedImages(images, 18, fit="stretch", cache=cache)
    assert plain.cached == cache
    image, mask = plain[0]["image"].as_subclass(Tensor), plain[0]["masks"].as_subclass(Tensor)
    assert (image.shape, mask.shape) == ((3, 18, 18), (1, 18, 18))
    shares = mask.float() / 255
    assert float(shares.sum()) == pytest.approx(AREA * 18 * 18 / (36 * 40), rel=0.02)
    # The square has a color of its own: saturated pixels lie where the mask says.
    spread = (image.float().amax(0) - image.float().amin(0)) > 120
    assert bool((spread == (mask[0] > 127)).float().mean() > 0.95)


def test_images_and_masks_are_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path / "data", 24, masks="folders")
    names = ("square", "frame")

    def prepared(split: str, *regions: str, cache: bool | None = None) -> PreparedImages:
        return PreparedImages(split_of(open_folder(root), split, *regions), 16, cache=cache)

    def same(one: PreparedImages, other: PreparedImages) -> bool:
        pairs = zip(one, other, strict=True)
        return all(
            torch.equal(a["image"], b["image"]) and torch.equal(a["masks"], b["masks"])
            for a, b in pairs
        )

    decoded: list[int] = []
    plain = PreparedImages._decode
    monkeypatch.setattr(
        PreparedImages, "_decode", lambda self, i: (decoded.append(i), plain(self, i))[1]
    )
    first = prepared("train", *names)
    count = len(first)
    assert len(decoded) == count > 4 and len(list(root.glob(".fastcam-cache/*"))) == 1
    assert same(first, prepared("train", *names, cache=False))
    decoded.clear()
    assert same(first, prepared("train", *names)) and not decoded  # by another run
    prepared("valid", *names)
    assert len(list(root.glob(".fastcam-cache/*"))) == 1  # of all splits
    # A mask that was written again is read again, and other regions have a file of their own.
    decoded.clear()
    mask = next((root / "masks" / "square").glob(f"{Path(first.names[2]).stem}.*"))
    Image.new("L", Image.open(mask).size).save(mask)
    again = prepared("train", *names)
    assert decoded == [2] and not again[2]["masks"][0].any()
    prepared("train", "frame")
    assert len(list(root.glob(".fastcam-cache/*"))) == 2
    # As are all where masks are read in another way than they were.
    decoded.clear()
    monkeypatch.setattr("fastcam.data.mask_files._READING", 99)
    prepared("train", *names)
    assert len(decoded) == count


# ---- COCO ---------------------------------------------------------------------------------------


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
    region, masks = masks_of(tmp_path / "images" / "0001.jpg", path, "square", (36, 40))
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
        found = masks_of(tmp_path / f"images/{kind}/1.jpg", path, "wing", (8, 8))[1]
        assert (found > 0).sum() == area
    write_boxes(path, ["upload/7/1.jpg"], wing=boxes[:1])  # elsewhere, for who wrote the file
    found = masks_of(tmp_path / "images/ant/1.jpg", path, "wing", (8, 8))[1]
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
        ([1.5, 1.5, 1, 1], (2, 3), (2, 3)),
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


# ---- what init says -----------------------------------------------------------------------------


def test_a_folder_is_described_in_plain_words(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(data, root)
    said = str(describe(root))
    assert "images        48 with labels in images/" in said
    assert "labels.csv, images in column file: 2 labels: red 3" in said
    assert "not used: kind" in said
    assert "24 train, 12 valid, 12 test; by column split" in said
    assert "region masks  masks/{stem}.png: in 48 images" in said
    assert "valid images and" in said and "have red" in said  # fewer than ten
    shutil.rmtree(root / "masks")
    image_file(root / "images" / "more.png")
    said = str(describe(root, classes="kind"))
    assert "3 classes: ant 3" in said
    assert "missing: 1 images have no label (more.png, …) and are left out" in said
    assert "missing: masks: without them networks can be trained and judged, not guided" in said
    image_file(root / "masks" / "0001.png")
    said = str(describe(root))
    assert "region masks  masks/{stem}.png: in 1 images" in said
    assert "mask" in said and "is 8×8 pixels, its image 0001.jpg 40×36" in said


def test_masks_that_show_nothing_are_told_of(tmp_path: Path) -> None:
    write_images(tmp_path, 12, masks="suffixes")
    for path in (tmp_path / "masks").glob("*_frame.png"):
        # 0 and 1 are black and black in a JPEG, whose border is where it is half as bright.
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint8)).save(
            path.with_suffix(".jpg")
        )
        path.unlink()
    words = "all 12 masks of frame that were looked at are empty: such images are not guided"
    assert [m for m in describe(tmp_path).missing if "masks" in m] == [words]
    # Few of them say nothing.
    white = Image.new("L", (WIDTH, HEIGHT), 255)
    white.save(tmp_path / "masks" / "0003_frame.jpg")
    assert not [m for m in describe(tmp_path).missing if "masks" in m]


def test_faces_are_described(tmp_path: Path) -> None:
    said = describe(write_faces(tmp_path, 8, landmarks=False))
    assert said.layout is None
    assert ("splits", "4 train, 2 valid, 2 test") in said.found
    assert any("run `fastcam landmarks" in sentence for sentence in said.missing)
    assert said.example == ("Lips", "mouth")
