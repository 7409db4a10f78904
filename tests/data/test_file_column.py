"""The column of a table that names the images, by whatever part of their paths."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_masks import image_file, split_of

from fastcam.data import MaskedFolder, open_folder
from fastcam.data.label_table import Names
from fastcam.data.layout_finder import find_layout


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
        rows.append(f"{row + first},{name.format(image)},{int(image > 4)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    images = split_of(open_folder(tmp_path), "all")
    assert images.labels[:, 0].tolist() == [int(Path(n).stem) > 4 for n in images.names]
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


def test_names_that_are_not_utf8_are_told_of(tmp_path: Path) -> None:
    for number in range(3):
        image_file(tmp_path / "images" / f"ö{number}.png")
    rows = "".join(f"ö{number}.png;{number % 2}\n" for number in range(3))
    (tmp_path / "t.csv").write_bytes(f"file;sick\n{rows}".encode("cp1252"))
    with pytest.raises(ValueError, match=r"no column names .* in file, the byte 0xF6 .* as UTF-8"):
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
