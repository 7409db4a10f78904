"""Digests of data folders: each table changes its own, and what is absent has none."""

from __future__ import annotations

import shutil
from pathlib import Path

from tiny_faces import write_faces
from tiny_masks import image_file, write_images

from fastcam.data.digests import DIGESTS, TEMPLATE, data_digests
from fastcam.data.landmarks import LANDMARK_TABLE
from fastcam.data.tables import ATTRIBUTE_TABLE, FIVE_POINT_TABLE, PARTITION_TABLE


def test_each_table_of_faces_changes_its_own_digest(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", 8)
    before = data_digests(data)
    assert list(before) == list(DIGESTS)
    assert data_digests(shutil.copytree(data, tmp_path / "copy")) == before
    other = write_faces(tmp_path / "other", 8, seed=1)
    for name, table in zip(
        DIGESTS, (ATTRIBUTE_TABLE, PARTITION_TABLE, LANDMARK_TABLE), strict=True
    ):
        changed = shutil.copytree(data, tmp_path / name)
        if table == PARTITION_TABLE:  # the same in both
            (changed / table).write_text((data / table).read_text().replace(".jpg 0", ".jpg 2", 1))
        else:
            shutil.copy(other / table, changed / table)
        after = data_digests(changed)
        assert {k for k in DIGESTS if after[k] != before[k]} == {name}
    without = data_digests(data, regions=False)
    assert without == {k: v for k, v in before.items() if k != "landmarks_sha256"}


def test_the_landmarks_digest_is_of_what_regions_are_drawn_from(tmp_path: Path) -> None:
    data = write_faces(tmp_path / "faces", 8)
    own = data_digests(data)["landmarks_sha256"]
    (data / FIVE_POINT_TABLE).write_text("points")  # which do not count beside landmarks
    assert data_digests(data)["landmarks_sha256"] == own
    (data / FIVE_POINT_TABLE).unlink()
    table = shutil.move(data / LANDMARK_TABLE, tmp_path / "table.npz")
    assert data_digests(data)["landmarks_sha256"] == TEMPLATE
    assert data_digests(data, landmarks=table)["landmarks_sha256"] == own
    (data / FIVE_POINT_TABLE).write_text("points")
    assert data_digests(data)["landmarks_sha256"] not in (own, TEMPLATE)
    assert "landmarks_sha256" not in data_digests(data, landmarks=tmp_path / "lost.npz")


def test_other_images_have_one_of_labels_and_splits(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 12)
    before = data_digests(data)
    assert list(before) == ["labels_sha256"]
    table = data / "labels.csv"
    text = table.read_text()
    first = text.splitlines()[1]
    other = first.replace(",0,", ",1,", 1) if ",0," in first else first.replace(",1,", ",0,", 1)
    for old, new in ((",train", ",test"), (first, other), (first + "\n", ""), (",red,", ",rouge,")):
        table.write_text(text.replace(old, new, 1))
        assert data_digests(data) != before
    table.write_text(text)
    assert data_digests(data) == before
    (data / "images" / "0001.jpg").rename(data / "images" / "1.jpg")
    table.write_text(text.replace("0001.jpg", "1.jpg"))
    assert data_digests(data) != before
    assert data_digests(tmp_path / "nowhere") == {}


def test_masks_that_are_named_are_no_images(tmp_path: Path) -> None:
    for name in ("train/ant/1", "train/bee/1", "test/ant/1", "test/bee/1"):
        image_file(tmp_path / f"{name}.jpg")
    before = data_digests(tmp_path)
    for name in ("train/ant/1", "test/bee/1"):
        image_file(tmp_path / f"trimaps/{name}.png")
    assert data_digests(tmp_path, masks="trimaps") == before
    assert data_digests(tmp_path / "train", masks="gone") == data_digests(tmp_path / "train")
