"""Masks found by the names of their images: in folders, or beside these."""

from __future__ import annotations

import sys
import unicodedata
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from tiny_masks import image_file, split_of

from fastcam.data import MaskedFolder, open_folder
from fastcam.data.description import describe
from fastcam.data.folder import ImageMasks
from fastcam.data.layout import FolderLayout
from fastcam.data.mask_files import MaskFiles, find_masks
from fastcam.regions import MaskRegion


def _read(image: Path, place: Path, region: str) -> tuple[MaskRegion, np.ndarray]:
    return ImageMasks([image], place).read(image, region, (8, 8))


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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = open_folder(tmp_path)
    assert folder.images("all", regions=["masks"]).counts([0, 1, 2]) == {"masks": 1}


@pytest.mark.parametrize("place", ["masks", "masks/wing"])
def test_some_images_lie_in_folders_and_some_do_not(tmp_path: Path, place: str) -> None:
    """The masks of the fewer were not found."""
    names = ["1", "2", "3", "4", "late/5", "late/6", "late/7"]
    for name in names:
        image_file(tmp_path / f"images/{name}.jpg")
        image_file(tmp_path / place / f"{name}.png")
    (tmp_path / "t.csv").write_text("\n".join(["file,sick", *(f"{n},0" for n in names)]))
    folder = open_folder(tmp_path)
    (region,) = folder.regions
    assert folder.images("all", regions=[region]).counts(range(7)) == {region: 7}


def test_the_innermost_folder_of_images_parts_a_path(tmp_path: Path) -> None:
    masks = MaskFiles(tmp_path, {"wing": "{above}/masks/{below}.png"})
    found = masks.path("data/train/images/ant/1.jpg", "wing")
    assert found == tmp_path / "data/train/masks/ant/1.png"


def test_what_few_files_are_called_is_no_region(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for i in range(150):
        (tmp_path / "masks" / f"{i}_wing.png").touch()
    for i, regions in ((3, {"wing"}), (77, {"wing", "copy"})):  # of a hundred one, at least
        (tmp_path / "masks" / f"{i}_copy.png").touch()
        assert {*find_masks(tmp_path, "masks", [f"{k}.jpg" for k in range(150)])} == regions


def test_masks_are_named_by_folder_and_suffix(tmp_path: Path) -> None:
    for name in ("m/x.png", "m/wing/x.png", "m/wing/in_flight/y.png", "m/x-beak.png", "m/z.png"):
        image_file(tmp_path / name)
    assert find_masks(tmp_path, "m", ["x.jpg", "y.jpg"]) == {
        "beak": "m/{stem}-beak.png", "m": "m/{stem}.png", "wing": "m/wing/{stem}.png",
        "wing_in_flight": "m/wing/in_flight/{stem}.png",
    }  # fmt: skip
    region, masks = _read(tmp_path / "x.jpg", tmp_path / "m", "beak,m")
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
        found = _read(image, tmp_path / "masks", region)[1]
        assert (found > 0).sum() == area
        monkeypatch.chdir(image.parent)
        assert (_read(Path("1.jpg"), Path("../../masks"), region)[1] == found).all()


def test_an_image_without_a_mask_among_others_has_an_empty_one(tmp_path: Path) -> None:
    """One such image ended the figure of all: the data were said to have no such region."""
    images = [tmp_path / f"images/{name}.jpg" for name in ("1", "2", "3")]
    for path in (*images, tmp_path / "masks/tag/1.png", tmp_path / "masks/bird/2.png"):
        image_file(path, 255)
    masks = ImageMasks(images, tmp_path / "masks")
    assert set(masks.regions) == {"tag", "bird"}
    areas = [(masks.read(path, "bird,tag", (8, 8))[1] > 0).sum((1, 2)).tolist() for path in images]
    assert areas == [[0, 64], [64, 0], [0, 0]]
    with pytest.raises(ValueError, match="no region 'tags'"):
        masks.read(images[2], "tags", (8, 8))
    with pytest.raises(ValueError, match=r"no mask in .*masks is named after .*3\.jpg"):
        ImageMasks(images[2:], tmp_path / "masks")


def test_masks_of_single_images_as_a_data_folder_describes_them(tmp_path: Path) -> None:
    """The values of a label map are said in fastcam.json alone."""
    root, pixels = tmp_path / "data", np.zeros((8, 8), np.uint8)
    pixels[2:5], pixels[5:], pixels[0] = 1, 2, 255
    for kind in ("ant", "bee"):
        for i in range(3):
            image_file(root / kind / f"{i}.jpg")
    (tmp_path / "maps/bee").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "maps/bee/1.png")
    regions = {"cell": "../maps/{name}.png=1,2", "nucleus": "../maps/{name}.png=2"}
    FolderLayout(images=".", regions=regions).save(root)
    images = [root / "bee/1.jpg", root / "ant/1.jpg"]
    masks = ImageMasks(images, root)
    areas = [(masks.read(path, "nucleus,cell", (8, 8))[1] > 0).sum((1, 2)) for path in images]
    assert [area.tolist() for area in areas] == [[24, 48], [0, 0]]
    with pytest.raises(ValueError, match=r"maps/bee/1\.png is not among the images"):
        ImageMasks([tmp_path / "maps/bee/1.png"], root)


@pytest.mark.parametrize("top", ["", "images/"])
@pytest.mark.parametrize(
    ("image", "mask", "region", "pattern"),
    [
        ("images/{}", "masks/{}", "masks", "masks/{stem}"),
        ("{}", "masks/{}", "masks", "masks/{stem}"),
        ("images/{}", "masks/{}_wing", "wing", "masks/{stem}_wing"),
        ("images/{}", "masks/wing/{}", "wing", "masks/wing/{stem}"),
        ("images/ant/{}", "masks/ant/{}", "masks", "masks/{below}"),
        ("ant/images/{}", "ant/mask/{}", "mask", "mask/{stem}"),
        ("ant/{}", "ant/masks/{}", "masks", "masks/{stem}"),
    ],
)
def test_masks_lie_in_the_folder_of_a_split(
    tmp_path: Path, top: str, image: str, mask: str, region: str, pattern: str
) -> None:
    """Images of other splits have the same names; masks were taken for images."""
    rows = ["file,sick"]
    for split, area in {"train": 64, "valid": 0, "test": 64}.items():
        for name in ("1", "2"):
            file = f"{split}/{image.format(name)}.jpg"
            image_file(tmp_path / top / file)
            image_file(tmp_path / top / split / f"{mask.format(name)}.png", 255 if area else 0)
            rows.append(f"{file},{int(name) - 1}")
    (tmp_path / top / "train" / mask.format("1")).with_suffix(".png").unlink()
    (tmp_path / "t.csv").write_text("\n".join(rows))
    describe(tmp_path).layout.save(tmp_path)  # type: ignore[union-attr]
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert len(folder.index.names) == 6 and not folder.index.unlabelled
    assert folder.layout.regions == {region: f"{top}{{above}}/{pattern}.png"}
    found = {split: split_of(folder, split, region) for split in ("train", "valid", "test")}
    assert [images.counts([0, 1]) for images in found.values()] == [
        {region: 1}, {region: 2}, {region: 2},
    ]  # fmt: skip
    areas = [[int((x["masks"] > 0).sum()) for x in images] for images in found.values()]
    assert areas == [[0, 64], [0, 0], [64, 64]]


def test_classes_that_are_called_as_masks_stay_classes(tmp_path: Path) -> None:
    for name in ("train/mask/1", "train/no_mask/1", "test/mask/1", "test/no_mask/1"):
        image_file(tmp_path / f"{name}.png")
    folder = open_folder(tmp_path)
    assert isinstance(folder, MaskedFolder)
    assert folder.attributes == ["mask", "no_mask"] and not folder.regions


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one form of a name")
@pytest.mark.parametrize("file", ["masks/{}.png", "masks/größe/{}.png"])
@pytest.mark.parametrize(("of_image", "of_mask"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_accents_may_be_written_in_two_ways(
    tmp_path: Path, file: str, of_image: Literal["NFC", "NFD"], of_mask: Literal["NFC", "NFD"]
) -> None:
    for number in range(3):
        name = f"Bär {number}"
        image_file(tmp_path / unicodedata.normalize(of_image, f"images/{name}.jpg"))
        image_file(tmp_path / unicodedata.normalize(of_mask, file.format(name)))
    (tmp_path / "t.csv").write_text("file,red\nBär 0,1\nBär 1,0\nBär 2,1\n")
    folder = open_folder(tmp_path)
    (region,) = folder.regions
    images = split_of(folder, "all", region)
    assert images.counts(range(3)) == {region: 3}
    assert (images[0]["masks"] == 255).all()
