"""Tables of labels: what stands for a label, and in which encoding."""

from __future__ import annotations

import csv
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from tiny_masks import SICK, SPLIT, image_file, table_of

from fastcam.data import FolderLayout, MaskedFolder, open_folder
from fastcam.data.layout_finder import find_layout


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


def test_one_blank_cell_of_a_short_table_is_named(tmp_path: Path) -> None:
    for i in range(5):
        image_file(tmp_path / "images" / f"n{i}.png")
    (tmp_path / "t.csv").write_text("file,a,b\nn0,1,0\nn1,0,1\nn2,1,\nn3,0,1\nn4,0,0\n")
    with pytest.raises(ValueError, match=r"t\.csv, line 4, b: expected 0 or 1, got ''"):
        open_folder(tmp_path)


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


def test_a_long_cell_and_an_open_quote(tmp_path: Path) -> None:
    masks = ["1 2 " * 50_000] * 20  # run lengths; csv's own limit is 131,072 characters
    root = table_of(tmp_path, {"sick": SICK, "rle": masks})
    assert open_folder(root).attributes == ["sick"]
    assert csv.field_size_limit() == 131_072
    # All rows after it were a part of the cell.
    for row in ('n3,"1,x', 'n3,1,"x'):
        (root / "t.csv").write_text(f'file,sick,note\nn1,0,x\nn2,1,"x\ny"\n{row}\nn5,1,x\n')
        with pytest.raises(ValueError, match=r't\.csv, line 5: a quote \("\) is opened and never'):
            open_folder(root)
    (root / "t.csv").write_text('file,sick,note\nn1,0,5" long\nn2,1,"x\n""y"""\n')
    folder = open_folder(root)
    assert isinstance(folder, MaskedFolder) and len(folder.index.names) == 2


def test_names_that_lost_their_zeros_are_told_of(tmp_path: Path) -> None:
    for i in range(20):
        image_file(tmp_path / f"images/{i:06d}.jpg")
    rows = [f"{i},{i % 2}" for i in range(3, 20)]
    (tmp_path / "t.csv").write_text("\n".join(["id,sick", *rows]))
    wanted = r"in id, 3 may be 000003\.jpg without its zeros, as a spreadsheet takes names for numb"
    with pytest.raises(ValueError, match=wanted):
        open_folder(tmp_path)
    with pytest.raises(ValueError, match=r"line 2: there is no image '3' .*; 3 may be 000003\.jpg"):
        MaskedFolder(tmp_path, FolderLayout("images", "t.csv", "id", ("sick",)))


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
