"""Data folders: where images, labels and masks are found, and what is said where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_faces import write_faces
from tiny_masks import AREA, CLASSES, HEIGHT, WIDTH, image_file, split_of, table_of, write_images

from fastcam.data import FolderLayout, MaskedFolder, open_folder
from fastcam.data.description import describe
from fastcam.data.folder import FaceFolder
from fastcam.data.label_table import read_label_table
from fastcam.data.layout_finder import find_layout, find_regions


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


def test_labels_come_in_the_order_asked_for(data: Path) -> None:
    folder = MaskedFolder(data)
    images = folder.images("valid")
    assert images.attributes == ["red", "frame"] and not torch.equal(*images.labels.T)
    assert torch.equal(folder.images("valid", ["frame", "red"]).labels, images.labels.flip(1))
    assert torch.equal(folder.images("valid", ["frame"]).labels, images.labels[:, 1:])
    found = folder.labels_of(images.names[::-1], "red")
    assert torch.equal(found, images.labels[:, :1].flip(0)) and found.dtype == torch.float32


def test_classes_that_are_numbers_come_as_numbers_do(tmp_path: Path) -> None:
    root = table_of(tmp_path, {"class": [["10", "9", "100", "2"][i % 4] for i in range(20)]})
    assert MaskedFolder(root).attributes == ["2", "9", "10", "100"]
    for i in range(40):
        image_file(tmp_path / f"folders/{i % 2}/{i:02}.png")
    index = MaskedFolder(tmp_path / "folders").index  # and no splits
    assert index.attributes == ["0", "1"] and index.split_by.startswith("a hash of the name")


def test_one_column_of_several_is_called_as_classes_are(tmp_path: Path) -> None:
    words = {"note": ["a", "b"] * 10, "Species": ["ant", "bee"] * 10}
    assert find_layout(table_of(tmp_path, words)).classes == "Species"


def test_masks_that_are_named_take_the_place_of_annotations(tmp_path: Path) -> None:
    root = write_images(tmp_path, 4)
    layout = FolderLayout(table="labels.csv", file="file", labels=("red",), coco=("a.json",))
    found = find_regions(root, layout, root / "masks", ["0001.jpg", "0002.jpg"])
    assert (found.coco, dict(found.regions)) == ((), {"masks": "masks/{stem}.png"})


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


@pytest.mark.parametrize("top", ["", "pets/", "images/"])
@pytest.mark.parametrize("inside", [False, True])
def test_the_outermost_folder_is_the_class(tmp_path: Path, top: str, inside: bool) -> None:
    """As torchvision's ImageFolder has it: robins of both kinds were one class."""
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for kind in ("birds/robin", "cats/robin", "cats/siamese"):
            outer, inner = kind.split("/")
            place = f"{outer}/{split}/{inner}" if inside else f"{split}/{kind}"
            for i in range(count):
                image_file(tmp_path / f"{top}{place}/{i}.png")
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert (folder.attributes, folder.exclusive) == (["birds", "cats"], True)
    for split, count in {"train": 3, "valid": 2, "test": 1}.items():
        assert folder.images(split).labels.sum(0).tolist() == [count, 2 * count]
    assert "folders in these are of their class, as birds/robin" in str(describe(tmp_path))


@pytest.mark.parametrize("split", ["", "train/"])
def test_masks_that_are_named_are_no_class(
    tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("ant", "bee"):
        for part in {split, split and "test/"}:
            image_file(tmp_path / f"{part}{kind}/1.jpg")
            image_file(tmp_path / f"trimaps/{part}{kind}/1.png")
    monkeypatch.chdir(tmp_path.parent)
    for place in ("trimaps", f"{tmp_path.name}/trimaps"):
        folder = open_folder(tmp_path, regions=place)
        assert isinstance(folder, MaskedFolder)
        assert folder.attributes == ["ant", "bee"]
        assert folder.layout.regions == {"trimaps": "trimaps/{name}.png"}
        assert describe(tmp_path, regions=place).layout == folder.layout


def test_folders_and_tables_are_called_in_any_case(tmp_path: Path) -> None:
    """Images and masks were two classes."""
    for i in range(4):
        image_file(tmp_path / f"Images/{i}.JPG")
        image_file(tmp_path / f"Masks/{i}.PNG")
    (tmp_path / "Labels.CSV").write_text("File,Sick\n0,1\n1,0\n2,1\n3,0\n")
    (tmp_path / "._Labels.CSV").write_bytes(b"\0\5\26\7")  # of macOS
    layout = find_layout(tmp_path)
    assert (layout.images, layout.table, layout.labels) == ("Images", "Labels.CSV", ("Sick",))
    assert layout.regions == {"Masks": "Masks/{stem}.PNG"}
    (tmp_path / "images").mkdir()
    image_file(tmp_path / "images/5.jpg")
    if len(list(tmp_path.iterdir())) == 5:  # a file system that tells them apart
        assert find_layout(tmp_path, table="Labels.CSV", file="File", labels=("Sick",)).images == (
            "images"
        )


def test_what_may_be_meant_otherwise_is_told(tmp_path: Path) -> None:
    (tmp_path / "Bilder.tar.gz").touch()
    with pytest.raises(ValueError, match=r"holds no images: .*; unpack Bilder\.tar\.gz$"):
        open_folder(tmp_path)
    for split in ("train", "test"):
        image_file(tmp_path / split / "images" / "1.jpg")
        image_file(tmp_path / split / "masks" / "1.png")
    with pytest.raises(
        ValueError, match=r"all images of .* are in one folder, images: expected a t"
    ):
        open_folder(tmp_path)
    for kind in ("ant", "bee"):
        image_file(tmp_path / f"twins/{kind}/1.jpg")
        image_file(tmp_path / f"twins/{kind}/1.png")
    with pytest.warns(
        UserWarning, match=r"ant/1\.jpg and ant/1\.png are both taken for images: if"
    ):
        open_folder(tmp_path / "twins")


def test_splits_and_other_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("train/ant/1", "train/bee/1", "test/ant/1", "train/bee/2", "more/ant/1"):
        image_file(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"more/ant/1\.png is in no split, .* are in test, train:"):
        open_folder(tmp_path)
    # A class may be called so.
    for name in ("car/1", "car/2", "train/1", "tram/1"):
        image_file(tmp_path / f"vehicles/images/{name}.png")
    assert open_folder(tmp_path / "vehicles").attributes == ["car", "train", "tram"]


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
    with pytest.raises(ValueError, match=r"no region 'mouth'.*: masks; parts of faces are regions"):
        open_folder(data).region("mouth")
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
