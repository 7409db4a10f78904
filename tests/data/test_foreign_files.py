"""Folders, zips and tables as other systems and programs leave them."""

from __future__ import annotations

import codecs
import io
import os
import shutil
import struct
import sys
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_faces import ATTRIBUTES, HEIGHT, WIDTH, write_faces

from fastcam.data import CelebA, ImageSource, PreparedFaces, read_attributes, read_partition
from fastcam.regions import LandmarkTable

TABLES = ("list_attr_celeba.txt", "list_eval_partition.txt")
IMAGES = "img_align_celeba"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 12)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def same(one: Path, other: Path) -> None:
    """Both folders give the same faces."""
    for split in ("train", "valid"):
        a, b = CelebA(one, split), CelebA(other, split)
        assert a.names == b.names
        assert a.attributes == b.attributes
        assert torch.equal(a.labels, b.labels)
        for i in (0, len(a) - 1):
            assert torch.equal(a[i]["image"], b[i]["image"])


def zipped(copy: Path, entry: Callable[[str], str] = lambda name: f"{IMAGES}/{name}") -> Path:
    """Move the images into a zip, under the names that ``entry`` gives them as they are."""
    with zipfile.ZipFile(copy / f"{IMAGES}.zip", "w") as archive:
        for path in sorted((copy / IMAGES).iterdir()):
            info = zipfile.ZipInfo("x")
            info.filename = entry(path.name)
            archive.writestr(info, path.read_bytes())
    shutil.rmtree(copy / IMAGES)
    return copy / f"{IMAGES}.zip"


def rename(copy: Path, old: str, new: str, *, tables: bool = True) -> Path:
    """Another name for an image, in the tables as well (as bytes: it need not be UTF-8)."""
    (copy / IMAGES / old).rename(copy / IMAGES / new)
    for table in TABLES if tables else ():
        data = (copy / table).read_bytes()
        (copy / table).write_bytes(data.replace(old.encode(), os.fsencode(new)))
    landmarks = LandmarkTable.load(copy / "landmarks68.npz")
    names = [new if name == old else str(name) for name in landmarks.name]
    LandmarkTable(np.array(names), landmarks.landmarks, landmarks.source, landmarks.size).save(
        copy / "landmarks68.npz"
    )
    return copy / IMAGES / new


# --- folders --------------------------------------------------------------------------------------


def litter(folder: Path) -> None:
    for name in ("._000001.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png"):
        (folder / name).write_bytes(b"\0\5\26\7 no image")
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "000001.jpg").write_bytes(b"no image")


@pytest.mark.parametrize("nesting", ["", IMAGES, f"{IMAGES}/{IMAGES}", "CelebA/Img"])
def test_folders_in_folders_with_litter(root: Path, copy: Path, nesting: str) -> None:
    inner = copy / IMAGES / nesting
    (copy / IMAGES).rename(copy / "moved")
    inner.parent.mkdir(parents=True, exist_ok=True)
    (copy / "moved").rename(inner)
    litter(copy / IMAGES)
    litter(inner)
    assert ImageSource(copy).names == [f"{i:06d}.jpg" for i in range(1, 13)]
    assert ImageSource(copy).path == inner
    same(copy, root)


def test_images_in_several_folders_are_an_error(copy: Path) -> None:
    for part in ("a", "b"):
        (copy / IMAGES / part).mkdir()
    for i, path in enumerate(sorted((copy / IMAGES).glob("*.jpg"))):
        path.rename(path.parent / "ab"[i % 2] / path.name)
    with pytest.raises(ValueError, match=r"all images in one folder, got \['a/', 'b/'\]"):
        ImageSource(copy)


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / IMAGES).mkdir()
    (tmp_path / IMAGES / "again").symlink_to(tmp_path / IMAGES)
    with pytest.raises(ValueError, match="holds no image"):
        ImageSource(tmp_path)


def test_an_empty_folder_does_not_hide_the_zip(root: Path, copy: Path) -> None:
    zipped(copy)
    (copy / IMAGES).mkdir()
    litter(copy / IMAGES)
    same(copy, root)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp", ".bmp", ".tif", ".TIFF", ".gif"])
def test_other_kinds_of_image(copy: Path, suffix: str) -> None:
    path = rename(copy, "000004.jpg", f"000004{suffix}")
    with Image.open(path) as image:
        image.load()
        image.save(path)
    assert path.name in ImageSource(copy).names
    faces = CelebA(copy, "train")
    assert faces[3]["image"].shape == (3, HEIGHT, WIDTH)


def test_a_kind_that_is_not_read_is_not_called_missing(copy: Path) -> None:
    path = rename(copy, "000004.jpg", "000004.heic")
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ValueError, match=r"cannot decode 000004\.heic: .*Pillow reads"):
        CelebA(copy, "train")[3]


@pytest.mark.parametrize("there", ["000004.JPG", "000004.png"])
def test_a_name_that_differs_in_its_suffix_is_pointed_out(copy: Path, there: str) -> None:
    rename(copy, "000004.jpg", there, tables=False)
    message = (
        rf"misses 1 images of list_attr_celeba\.txt, for example 000004\.jpg \(there is {there}"
    )
    with pytest.raises(ValueError, match=message):
        CelebA(copy, "train")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
def test_names_that_are_not_utf_8(copy: Path) -> None:
    name = os.fsdecode(b"lat\xefn.jpg")
    path = rename(copy, "000004.jpg", name)
    assert name in ImageSource(copy).names
    faces = CelebA(copy, "train")
    assert faces.names[3] == name
    assert faces[3]["image"].shape == (3, HEIGHT, WIDTH)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot decode lat�n.jpg: the file is empty"):
        CelebA(copy, "train")[3]
    path.unlink()
    with pytest.raises(ValueError, match="misses 1 images .* for example lat�n.jpg"):
        CelebA(copy, "train")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS keeps names in one form")
@pytest.mark.parametrize("archive", [False, True])
def test_accents_that_macos_stores_apart(copy: Path, archive: bool) -> None:
    name = "Jos\u00e9.jpg"
    path = rename(copy, "000004.jpg", name)
    path.rename(path.with_name(unicodedata.normalize("NFD", name)))
    if archive:
        zipped(copy)
    assert CelebA(copy, "train")[3]["image"].shape == (3, HEIGHT, WIDTH)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(WIDTH * 2, HEIGHT * 2), (HEIGHT, WIDTH), (WIDTH, HEIGHT + 1)])
def test_every_image_must_have_the_size_its_landmarks_were_made_for(
    copy: Path, size: tuple[int, int]
) -> None:
    path = copy / IMAGES / "000005.jpg"
    with Image.open(path) as image:
        image.resize(size).save(path)
    faces = CelebA(copy, "train")
    faces[3]
    message = rf"another size: 000005\.jpg is {size[0]}×{size[1]} here, {WIDTH}×{HEIGHT} there"
    with pytest.raises(ValueError, match=message):
        faces[4]
    with pytest.raises(ValueError, match=message):
        PreparedFaces(faces, 16, cache=True)


@pytest.mark.filterwarnings("ignore:no .*landmarks68")
def test_without_a_table_all_images_must_have_one_size(copy: Path) -> None:
    (copy / "landmarks68.npz").unlink()
    path = copy / IMAGES / "000005.jpg"
    with Image.open(path) as image:
        image.resize((20, 20)).save(path)
    with pytest.raises(
        ValueError, match=r"000005\.jpg is 20×20, 000001\.jpg 40×48: .* need a land"
    ):
        CelebA(copy, "train")[4]


# --- zips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        "{}", "img_align_celeba\\{}", "img_align_celeba/img_align_celeba/{}",
        "./img_align_celeba/{}", "/img_align_celeba/{}", "../../{}",
        "C:\\Users\\me\\{}", "..\\..\\{}",
    ],
)  # fmt: skip
def test_zips_of_other_programs(root: Path, copy: Path, entry: str) -> None:
    """Paths that lead elsewhere do no harm either: entries are read into memory only."""
    before = sorted(copy.parent.rglob("*"))
    path = zipped(copy, entry.format)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("__MACOSX/img_align_celeba/._000001.jpg", "img_align_celeba/.DS_Store"):
            archive.writestr(name, b"no image")
        archive.writestr("img_align_celeba/", b"")
    same(copy, root)
    assert {*copy.parent.rglob("*")} <= {*before, path}


def test_a_zip_that_says_nothing_of_its_utf_8(copy: Path) -> None:
    """As macOS writes them: UTF-8 names, without the flag."""
    rename(copy, "000004.jpg", "é.jpg")
    path = zipped(copy)
    data = bytearray(path.read_bytes())
    stored = f"{IMAGES}/é.jpg".encode()
    places = [i for i in range(len(data)) if data[i : i + len(stored)] == stored]
    assert len(places) == 2  # before the entry, and in the directory
    data[places[0] - 24 + 1] &= 0xF7
    data[places[1] - 38 + 1] &= 0xF7
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert f"{IMAGES}/é.jpg" not in archive.namelist()
    assert CelebA(copy, "train")[3]["image"].shape == (3, HEIGHT, WIDTH)


def test_an_encrypted_zip_is_named(copy: Path) -> None:
    path = zipped(copy)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"celeba\.zip is encrypted: unpack it"):
        ImageSource(copy)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_zip_cut_short_is_named(copy: Path, cut: float) -> None:
    path = zipped(copy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ValueError, match=r"img_align_celeba\.zip is not a readable zip .* in full"):
        ImageSource(copy)


def test_an_entry_that_cannot_be_unpacked_is_named(copy: Path) -> None:
    path = zipped(copy)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 10 : at + 12] = struct.pack("<H", 9)  # deflate64, of Windows
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"celeba\.zip: 000001\.jpg cannot be read \(.*method"):
        ImageSource(copy).read("000001.jpg")
    data[at + 10 : at + 12] = struct.pack("<H", 0)
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"000001\.jpg cannot be read \(it unpacks to 2147483648"):
        ImageSource(copy).read("000001.jpg")


# --- tables ---------------------------------------------------------------------------------------


def recode(path: Path, change: Callable[[str], bytes]) -> None:
    path.write_bytes(change(path.read_text(encoding="utf-8")))


MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}


@pytest.mark.parametrize("encoding", MARKS)
def test_byte_order_marks(root: Path, copy: Path, encoding: str) -> None:
    for table in TABLES:
        recode(copy / table, lambda text: MARKS[encoding] + text.encode(encoding))
    same(copy, root)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace("\n", " \t\n") + "\n \n\x1a",
        lambda text: text.replace(" -1", "  -1").replace(" 1", "  1"),
        lambda text: text.rstrip("\n"),
    ],
    ids=["crlf", "cr", "tabs", "trailing blanks", "aligned", "no last newline"],
)
def test_blanks_and_line_ends(root: Path, copy: Path, change: Callable[[str], str]) -> None:
    for table in TABLES:
        recode(copy / table, lambda text: change(text).encode())
    same(copy, root)


@pytest.mark.filterwarnings("ignore:.*commas or semicolons")
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(" ", ","),
        lambda text: text.replace(" ", ";"),
        lambda text: text.replace(" ", ", "),
        lambda text: text.replace("\n", ",,,\n").replace(" ", ","),
    ],
    ids=["commas", "semicolons", "comma and blank", "a spreadsheet's"],
)
def test_commas_are_read(root: Path, copy: Path, change: Callable[[str], str]) -> None:
    for table in TABLES:
        recode(copy / table, lambda text: change(text).encode())
    same(copy, root)
    with pytest.warns(UserWarning, match=r"list_attr_celeba\.txt: commas or semicolons between"):
        read_attributes(copy / TABLES[0])


@pytest.mark.filterwarnings("ignore:.*commas or semicolons")
def test_tables_in_csv(root: Path, copy: Path) -> None:
    recode(
        copy / TABLES[0],
        lambda text: "\n".join(
            ["image_id," + ",".join(ATTRIBUTES), *text.replace(" ", ",").split("\n")[2:]]
        ).encode(),
    )
    recode(copy / TABLES[1], lambda text: b"image_id,partition\n" + text.replace(" ", ",").encode())
    same(copy, root)
    (copy / TABLES[0]).rename((copy / TABLES[0]).with_suffix(".csv"))
    with pytest.raises(FileNotFoundError, match=r"list_attr_celeba\.csv is there: rename it"):
        read_attributes(copy / TABLES[0])


def test_a_folder_around_the_data_is_named(copy: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"It is in .*copy: name that folder instead"):
        read_attributes(copy.parent / TABLES[0])


@pytest.mark.parametrize("count", ["²", "٤٨", "1_2", "12.0", "12 rows", "9" * 5000, "", "-"])
def test_odd_count_lines_are_named(copy: Path, count: str) -> None:
    recode(copy / TABLES[0], lambda text: text.replace("12\n", f"{count}\n", 1).encode())
    with pytest.raises(ValueError, match=r"list_attr_celeba\.txt, line 1: expected the number of"):
        read_attributes(copy / TABLES[0])


@pytest.mark.parametrize(
    "value", ["²", "1.0", "nan", "9999999999", "99999999999", "0x1", "-", "--1"]
)
def test_odd_values_are_named(copy: Path, value: str) -> None:
    recode(copy / TABLES[1], lambda text: text.replace("03.jpg 0", f"03.jpg {value}", 1).encode())
    with pytest.raises(ValueError, match=rf"partition\.txt, line 3: '{value}' is not an integer"):
        read_partition(copy / TABLES[1])


@pytest.mark.parametrize(
    ("table", "data", "message"),
    [
        (0, "12\nLips Eyes\n".encode("utf-16-le"), "holds zero bytes .*save it as text in UTF-8"),
        (0, codecs.BOM_UTF16_LE + b"1\0\n", "is not a text table: .*utf-16"),
        (0, b"1\nLips Ey\xefs\na.jpg 1 1\n", "line 2: the column names are not UTF-8"),
        (0, b"1\nLips Eyes\nmy photo.jpg 1 1\n", r"line 3: .*none in the name\), got 4 fields"),
        (0, b"2\nLips\na\xef.jpg 1\na\xef.jpg 1\n", "line 4: a�.jpg is listed twice"),
        (0, b"<!DOCTYPE html>\n<html>\n", "line 1: expected the number of rows"),
        (1, b"\x89PNG\r\n\x1a\n\0\0", "holds zero bytes"),
        (1, b"a.jpg 0\na.jpg 0\n", "line 2: a.jpg is listed twice"),
    ],
)
def test_what_is_no_table_is_named(copy: Path, table: int, data: bytes, message: str) -> None:
    path = copy / TABLES[table]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_attributes(path) if table == 0 else read_partition(path)
    assert str(path) in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "..\\secret.jpg"])
def test_names_in_tables_do_not_lead_out_of_the_folder(copy: Path, name: str) -> None:
    shutil.copy(copy / IMAGES / "000004.jpg", copy / "secret.jpg")
    for table in TABLES:
        recode(copy / table, lambda text: text.replace("000004.jpg", name).encode())
    with pytest.raises(ValueError, match="misses 1 images"):
        CelebA(copy, "train")
    with pytest.raises(FileNotFoundError, match="holds no image"):
        ImageSource(copy).read(name)


def test_a_photo_on_its_side_trains_upright(copy: Path) -> None:
    before = CelebA(copy, "train")[4]["image"]
    path = copy / IMAGES / "000005.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", quality=95, exif=exif)
    path.write_bytes(file.getvalue())
    after = CelebA(copy, "train")[4]["image"]
    assert (after.float() - before.float()).abs().mean() < 8
