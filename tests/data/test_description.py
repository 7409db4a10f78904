"""What is said of a data folder, as fastcam init prints it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_faces import write_faces
from tiny_masks import HEIGHT, WIDTH, image_file, write_images

from fastcam import cli
from fastcam._util.names import parts
from fastcam.data.description import describe
from fastcam.data.layout import FolderLayout


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


def test_the_example_is_of_what_there_is(tmp_path: Path) -> None:
    rows = ["file,none,red,wing"]
    for row in range(4):
        image_file(tmp_path / f"images/{row}.png")
        rows.append(f"{row}.png,0,{row % 2},{int(row < 2)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert describe(tmp_path).example == ("red", None)
    image_file(tmp_path / "masks/beak/1.png")
    assert describe(tmp_path).example == ("red", "beak")
    image_file(tmp_path / "masks/wing/0.png")
    assert describe(tmp_path).example == ("wing", "wing")


def test_images_that_are_nearly_black_are_told_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for row in range(20):
        path = tmp_path / "ab"[row % 2] / f"{row:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 4096, (9, 8), dtype=np.uint16)).save(path)
    (said,) = [m for m in describe(tmp_path).missing if m.startswith("light")]
    assert "no value is above 16 of 255. Are they of 12 bits in files of 16?" in said
    (tmp_path / "a" / "02.png").write_bytes(path.read_bytes()[:80])  # cut short: training says so
    Image.fromarray(np.full((9, 8), 9000, np.uint16)).save(tmp_path / "a" / "00.png")
    assert not [m for m in describe(tmp_path).missing if m.startswith("light")]


def test_data_without_test_images_is_judged_on_those_that_validate(tmp_path: Path) -> None:
    for row in range(20):
        image_file(tmp_path / ("train" if row < 12 else "val") / "ab"[row % 2] / f"{row:02}.png")
    told = "there is no image to test with; `fastcam evaluate --split valid` judges the validation"
    assert told in str(describe(tmp_path))


def test_regions_that_a_person_named_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values of a label map have no other place than fastcam.json, which init wrote anew."""
    root, pixels = tmp_path / "data", np.zeros((8, 8), np.uint8)
    pixels[2:5], pixels[5:], pixels[0] = 1, 2, 255
    for i in range(8):
        for kind in ("ant", "bee"):
            image_file(root / kind / f"{i}.jpg")
            (tmp_path / "maps" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "maps" / kind / f"{i}.png")

    def init(*options: str) -> tuple[str, dict[str, str]]:
        assert cli.main(["init", str(root), *options]) == 0
        return capsys.readouterr().out, dict(FolderLayout.load(root).regions)

    there = ("--regions", str(tmp_path / "maps"))
    said, regions = init(*there)
    assert "of a label map say in fastcam.json which are the region" in said
    assert regions == {"maps": "../maps/{name}.png"}  # both can be moved
    named = {"cell": "../maps/{name}.png=1,2", "core": "../maps/{name}.png=2"}
    for options in ((), there):
        dataclasses.replace(FolderLayout.load(root), regions=named).save(root)
        said, regions = init(*options)
        assert regions == named and "replaced" not in said and "missing: mask" not in said
    # What is found goes before what is not there any more, and stands beside what is.
    for i in range(8):
        image_file(root / "masks" / "ant" / f"{i}.png", 255)
    assert init()[1] == {**named, "masks": "masks/{name}.png"}
    assert init("--regions", "masks")[1] == {"masks": "masks/{name}.png"}
    dataclasses.replace(FolderLayout.load(root), regions={"masks": "gone/{name}.png=1"}).save(root)
    assert init()[1] == {"masks": "masks/{name}.png"}


def test_faces_are_described(tmp_path: Path) -> None:
    said = describe(write_faces(tmp_path, 8, landmarks=False))
    assert said.layout is None
    assert ("splits", "4 train, 2 valid, 2 test") in said.found
    assert any("run `fastcam landmarks" in sentence for sentence in said.missing)
    assert said.example == ("Lips", "mouth")


def test_names_with_commas_stand_in_quotes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ['file,"face, oval",smiling,young', *(f"{i},{i % 2},1,0" for i in range(4))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    for i in range(4):
        image_file(tmp_path / f"images/{i}.png")
    assert cli.main(["init", str(tmp_path), "--labels", '"face, oval", smiling']) == 0
    assert "2 labels: face, oval 50%, smiling 100%" in capsys.readouterr().out
    assert FolderLayout.load(tmp_path).labels == ("face, oval", "smiling")
    assert parts('a,, 5" b,\nc , "d\ne"') == ("a", '5" b', "c", "d e") and parts("") == ()
