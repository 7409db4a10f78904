"""The CelebA reader: layout, tables, splits, subsets, landmarks, and errors that name the fault."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tracemalloc
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_faces import ATTRIBUTES, HEIGHT, WIDTH, write_faces

from fastcam.data import (
    CelebA,
    ImageSource,
    PreparedFaces,
    open_folder,
    read_attributes,
    read_partition,
)
from fastcam.data.tables import read_five_points, text_lines
from fastcam.regions import five_points, template_landmarks


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_splits_and_samples(root: Path) -> None:
    sizes = [len(CelebA(root, split)) for split in ("train", "valid", "test", "all")]
    assert sizes == [24, 12, 12, 48]
    faces = CelebA(root, "valid")
    assert faces.attributes == list(ATTRIBUTES)
    assert faces.names[0] == "000025.jpg"
    assert faces.landmark_sources == {"ground_truth": 12}
    sample = faces[3]
    assert sample["image"].dtype == torch.uint8
    assert sample["image"].shape == (3, HEIGHT, WIDTH)
    assert sample["landmarks"].shape == (68, 2)
    assert sample["landmarks"].dtype == torch.float32
    assert sample["landmarks"].canvas_size == (HEIGHT, WIDTH)
    assert sample["index"] == 3
    assert torch.equal(sample["labels"], faces.labels[3])
    assert faces[-1]["index"] == 11
    with pytest.raises(IndexError):
        faces[12]


def test_zip_and_folder_hold_the_same(root: Path, tmp_path: Path) -> None:
    zipped = CelebA(write_faces(tmp_path, zipped=True), "train")
    folder = CelebA(root, "train")
    assert zipped.source.path.suffix == ".zip"
    for i in (0, 11, 23):
        assert torch.equal(zipped[i]["image"], folder[i]["image"])


def test_crlf_tables_read_like_lf(root: Path, tmp_path: Path) -> None:
    crlf = CelebA(write_faces(tmp_path, newline="\r\n"), "test")
    assert b"\r\n" in (tmp_path / "list_attr_celeba.txt").read_bytes()
    assert crlf.attributes == list(ATTRIBUTES)
    assert torch.equal(crlf.labels, CelebA(root, "test").labels)


def test_subsets_part_the_split(root: Path) -> None:
    faces = CelebA(root, "all")
    lips, eyes = faces.labels[:, 0] > 0, faces.labels[:, 1] > 0
    parts = faces.subset("Lips", "Eyes")
    assert parts.both.tolist() == (lips & eyes).nonzero()[:, 0].tolist()
    assert parts.only_a.tolist() == (lips & ~eyes).nonzero()[:, 0].tolist()
    assert parts.not_a.tolist() == (~lips).nonzero()[:, 0].tolist()
    assert min(len(p) for p in parts) > 0
    with pytest.raises(ValueError, match=r"unknown attribute 'Nose'; this data has: Lips, Eyes"):
        faces.subset("Lips", "Nose")


def test_chosen_attributes(root: Path) -> None:
    whole, chosen = CelebA(root, "all"), CelebA(root, "all", attributes=["Dark", "Lips"])
    assert chosen.attributes == ["Dark", "Lips"]
    assert torch.equal(chosen.labels, whole.labels[:, [2, 0]])
    assert torch.equal(chosen[4]["labels"], whole.labels[4, [2, 0]])
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        CelebA(root, "all", attributes=["Nose"])


def _read_in_child(source: ImageSource, name: str, queue: multiprocessing.Queue) -> None:
    queue.put(source.read(name))


def test_a_zip_source_works_in_forked_and_pickled_readers(tmp_path: Path) -> None:
    source = ImageSource(write_faces(tmp_path, 12, zipped=True))
    first = source.read(source.names[0])  # opens the parent's handle
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [
        context.Process(target=_read_in_child, args=(source, source.names[-1], queue))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    answers = [queue.get() for _ in children]
    for child in children:
        child.join()
    assert answers == [source.read(source.names[-1])] * 2
    assert pickle.loads(pickle.dumps(source)).read(source.names[0]) == first


def test_a_zip_is_opened_once_for_all_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            opened.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    write_faces(tmp_path, 12, zipped=True)
    opened.clear()
    source = ImageSource(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(source.read, source.names * 20))
    assert together == [source.read(name) for name in source.names] * 20
    assert len(opened) == 1
    # A child must not share the place in the file that its parent has come to.
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert source.read(source.names[3]) == together[3] and len(opened) == 2


def test_without_a_table_the_template_serves_and_says_so(tmp_path: Path) -> None:
    write_faces(tmp_path, landmarks=False)
    with pytest.warns(UserWarning, match=r"all 24 images get the template face.*fastcam landmarks"):
        faces = CelebA(tmp_path, "train")
    assert faces.landmark_sources == {"template": 24}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CelebA(tmp_path, "train", regions=False).landmark_sources == {"template": 24}
    np.testing.assert_allclose(faces[5]["landmarks"], template_landmarks(WIDTH, HEIGHT))


def test_five_points_serve_before_the_template(tmp_path: Path) -> None:
    write_faces(tmp_path, landmarks=False)
    points = np.round(
        five_points(template_landmarks(WIDTH, HEIGHT)[None])[0] * 1.02 + [2, -1]
    ).astype(int)
    header = " ".join(f"{p}_{c}" for p in ("le", "re", "n", "lm", "rm") for c in "xy")
    of_each = [points + i % 5 for i in range(48)]
    rows = [f"{i + 1:06d}.jpg " + " ".join(map(str, p.ravel())) for i, p in enumerate(of_each)]
    path = tmp_path / "list_landmarks_align_celeba.txt"
    path.write_text("\n".join(["48", header, *rows]) + "\n")
    assert read_five_points(path)["000007.jpg"].tolist() == (points + 1).tolist()
    with pytest.warns(UserWarning, match="five-point table"):
        faces = CelebA(tmp_path, "all")
    assert faces.landmark_sources == {"five_points": 48}
    for wanted, face in zip(of_each, faces, strict=True):
        found = five_points(face["landmarks"].numpy()[None])[0]
        assert np.abs(found - wanted).max() < 0.8  # a similarity cannot follow rounding exactly
    with pytest.warns(UserWarning, match="five-point table"):
        valid = CelebA(tmp_path, "valid")
    assert torch.equal(valid[1]["landmarks"], faces[25]["landmarks"])


def test_a_table_elsewhere_is_used(copy: Path, tmp_path: Path) -> None:
    (copy / "landmarks68.npz").rename(tmp_path / "points.npz")
    faces = CelebA(copy, "train", landmarks=tmp_path / "points.npz")
    assert faces.landmark_sources == {"ground_truth": 24}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        CelebA(copy, "train", landmarks=tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("list_attr_celeba.txt", "48\n", "47\n", "announces 47 rows, the file holds 48"),
        ("list_attr_celeba.txt", "48\n", "many\n", r"line 1: expected the number of rows"),
        ("list_attr_celeba.txt", "Lips Eyes", "Lips Lips", "line 2: a column name occurs twice"),
        ("list_attr_celeba.txt", "000003.jpg ", "000003.jpg 1 ", r"line 5: .* got 5 fields"),
        (
            "list_attr_celeba.txt",
            "000003.jpg ",
            "000002.jpg ",
            "line 5: 000002.jpg is listed twice",
        ),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg x", r"line 5: 'x' is not an integer"),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg 0", "expected -1 or 1, got 0"),
        ("list_eval_partition.txt", "000003.jpg 0", "000003.jpg 5", "expected a split 0, 1 or 2"),
        ("list_eval_partition.txt", "000003.jpg 0", "000003.jpg", "line 3: .* got 1 fields"),
        ("list_eval_partition.txt", "000003.jpg", "999999.jpg", "misses 1 images"),
        ("list_attr_celeba.txt", "000003.jpg", "000003.png", "misses 1 images"),
    ],
)
def test_a_malformed_table_is_named(
    copy: Path, table: str, old: str, new: str, message: str
) -> None:
    labels = read_attributes(copy / "list_attr_celeba.txt").values
    if "000003.jpg -1" in old and labels[2, 0]:
        old = old.replace("-1", "1")
    _replace(copy / table, old, new)
    with pytest.raises(ValueError, match=message) as caught:
        CelebA(copy, "train")
    assert "list_" in str(caught.value)


def test_the_splits_of_a_folder_share_what_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(copy)
    wanted = [CelebA(copy, split) for split in ("train", "valid", "all")]
    read: list[Path] = []

    def counted(path: Path) -> list[str]:
        read.append(path)
        return text_lines(path)

    monkeypatch.setattr("fastcam.data.tables.text_lines", counted)
    names = list(folder.attributes)
    found = [folder.images(split) for split in ("train", "valid", "all")]
    label = folder.labels_of(found[1].names, names[1])
    assert [path.name for path in read] == ["list_attr_celeba.txt", "list_eval_partition.txt"]
    for one, other in zip(found, wanted, strict=True):
        assert one.names == other.names
        assert one.attributes == other.attributes == names
        assert torch.equal(one.labels, other.labels)
    assert torch.equal(label[:, 0], wanted[1].labels[:, 1])
    found[0].labels.zero_(), found[0].attributes.clear()  # a split's own
    assert torch.equal(folder.images("train").labels, wanted[0].labels)
    assert folder.attributes == names


def test_long_tables_are_read_without_a_multiple_of_their_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.choice([-1, 1], (3000, 40))
    rows = [f"{i:06d}.jpg  " + "  ".join(map(str, row)) for i, row in enumerate(values.tolist(), 1)]
    path = tmp_path / "list_attr_celeba.txt"
    head = f"{len(rows)}\n" + " ".join(f"A{i}" for i in range(40))
    path.write_text("\n".join([head, *rows]))
    tracemalloc.start()
    table = read_attributes(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(table.values, values > 0)
    assert table.names == [f"{i:06d}.jpg" for i in range(1, 3001)]
    assert peak < 10 * path.stat().st_size  # with the fields of all rows at once: 17 times
    for row, wrong, message in (
        (2000, "002001.jpg 1", "line 2003: .* got 2 fields"),
        (2000, rows[2000].replace("-1", "x", 1), "line 2003: 'x' is not an integer"),
        (2999, rows[7], "line 3002: 000008.jpg is listed twice"),
    ):
        path.write_text("\n".join([head, *rows[:row], wrong, *rows[row + 1 :]]))
        with pytest.raises(ValueError, match=message):
            read_attributes(path)


def test_missing_parts_are_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a folder"):
        ImageSource(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="neither a folder img_align_celeba/ nor"):
        ImageSource(tmp_path)
    (copy / "list_eval_partition.txt").unlink()
    assert len(CelebA(copy, "all")) == 48
    with pytest.raises(FileNotFoundError, match=r"list_eval_partition\.txt does not exist"):
        CelebA(copy, "train")
    with pytest.raises(ValueError, match="split: expected one of"):
        CelebA(copy, "training")


def test_a_damaged_image_and_a_damaged_zip_are_named(copy: Path, tmp_path: Path) -> None:
    (copy / "img_align_celeba" / "000030.jpg").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"cannot decode 000030\.jpg"):
        PreparedFaces(CelebA(copy, "valid"), 16, cache=True)
    (tmp_path / "img_align_celeba.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="not a readable zip file"):
        ImageSource(tmp_path)


def test_a_damaged_compressed_image_is_named(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "img_align_celeba.zip"
    name = "img_align_celeba/000001.jpg"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(root / name, name)
        begin = archive.getinfo(name).header_offset + 30 + len(name)
    whole = bytearray(path.read_bytes())
    whole[begin + 20 : begin + 140] = bytes(120)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"img_align_celeba\.zip: 000001\.jpg cannot be read"):
        ImageSource(tmp_path).read("000001.jpg")


def test_a_landmark_table_of_images_of_another_size_is_an_error(copy: Path) -> None:
    from PIL import Image

    for path in (copy / "img_align_celeba").glob("*.jpg"):
        with Image.open(path) as image:
            image.resize((20, 24)).save(path)
    with pytest.raises(ValueError, match=r"another size: 000001\.jpg is 20×24 here, 40×48"):
        CelebA(copy, "train")


def test_a_landmark_table_that_misses_an_image_is_an_error(copy: Path) -> None:
    from fastcam.regions import LandmarkTable

    table = LandmarkTable.load(copy / "landmarks68.npz")
    table.select([str(n) for n in table.name[1:]]).save(copy / "landmarks68.npz")
    with pytest.raises(ValueError, match=r"landmarks68\.npz: 1 of 24 images have no landmarks"):
        CelebA(copy, "train")


def test_partition_values(root: Path) -> None:
    partition = read_partition(root / "list_eval_partition.txt")
    assert partition["000001.jpg"] == 0
    assert partition["000025.jpg"] == 1
    assert partition["000048.jpg"] == 2


def test_chosen_attributes_are_kept_in_the_order_asked_for(root: Path) -> None:
    whole = CelebA(root, "all")
    chosen = [whole.attributes[2], whole.attributes[0]]
    some = CelebA(root, "all", attributes=chosen)
    assert some.attributes == chosen
    assert torch.equal(some.labels, whole.labels[:, [2, 0]])
    with pytest.raises(ValueError, match="unknown attribute 'Nose'"):
        CelebA(root, "all", attributes=["Nose"])
