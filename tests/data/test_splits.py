"""The split of an image: by the hash of its name or group, or by a column."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tiny_masks import SICK, SPLIT, image_file, table_of

from fastcam.data import MaskedFolder, open_folder
from fastcam.data.label_table import hashed_split
from fastcam.data.layout_finder import find_layout


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


def test_without_validation_a_tenth_of_the_training_groups_validates(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(200)]
    tenth = [name for name in names if hashed_split(name, (0.9, 0.1)) == "valid"]
    assert len(tenth) == pytest.approx(20, abs=8)
    later = [name for name in names if name not in tenth and hashed_split(name) == "valid"]
    # Groups of two images: two of the tenth, one of another tenth; the last of them are for tests.
    groups = [tenth[0], tenth[1], later[0], *(n for n in names if n not in tenth + later)][:9]
    cells = [group for group in [*groups, tenth[2]] for _ in range(2)]
    splits = ["train"] * 16 + ["test"] * 4
    index = MaskedFolder(table_of(tmp_path, {"sick": SICK, "split": splits, "group": cells})).index
    assert index.splits == ["valid"] * 4 + ["train"] * 12 + ["test"] * 4
    assert index.split_by == "column split; a tenth of the training images validates"


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


def test_the_numbers_of_splits_are_celeba_s(tmp_path: Path) -> None:
    cells = ["0"] * 12 + ["1"] * 4 + ["2"] * 4
    index = MaskedFolder(table_of(tmp_path, {"sick": SICK, "split": cells})).index
    assert index.splits == ["train"] * 12 + ["valid"] * 4 + ["test"] * 4


def test_splits_are_called_as_mimic_calls_them_and_blank_lines_say_nothing(tmp_path: Path) -> None:
    rows = ["", ",,", "file,red,split"]
    for row, split in enumerate(["train", "validate", "test"]):
        image_file(tmp_path / f"images/{row}.jpg")
        rows += [f"{row}.jpg,{row % 2},{split}", ""]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert MaskedFolder(tmp_path).index.splits == ["train", "valid", "test"]


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_the_parts_of_a_cross_validation_are_no_splits(tmp_path: Path, parts: int) -> None:
    table_of(tmp_path, {"fold": [str(i % parts) for i in range(20)], "sick": SICK})
    layout = find_layout(tmp_path)
    assert (layout.split, layout.labels) == (None, ("sick",))
    assert find_layout(tmp_path, split="fold").split == "fold"


def test_folders_of_splits_may_have_a_year_behind_as_coco_s_have(tmp_path: Path) -> None:
    for folder in ("train2017", "VAL_2017"):
        for row in range(20):
            image_file(tmp_path / "images" / folder / "ab"[row % 2] / f"{row:03}.jpg")
    index = MaskedFolder(tmp_path).index
    assert (index.split_by, index.attributes) == ("the folders' names", ["a", "b"])
    assert sorted(index.splits) == ["train"] * 20 + ["valid"] * 20
    (tmp_path / "images" / "VAL_2017").rename(tmp_path / "images" / "val_20171")
    assert MaskedFolder(tmp_path).index.split_by.startswith("a hash of the name")
