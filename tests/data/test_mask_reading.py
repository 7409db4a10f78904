"""Masks read from files: grey, colour, palettes, transparency, turned ones, label maps."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_masks import AREA, split_of

from fastcam.data import FolderLayout, MaskedFolder
from fastcam.data.decoding import decode_pixels
from fastcam.data.layout_finder import find_layout
from fastcam.data.mask_files import read_mask


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
    large = np.kron(wanted, np.ones((13, 13), np.uint8))  # borders within JPEG's blocks: blurred
    Image.fromarray(large).save(tmp_path / "lossy.jpg", quality=60)
    assert len(np.unique(Image.open(tmp_path / "lossy.jpg"))) > 9
    assert read_mask(tmp_path / "lossy.jpg").tolist() == large.tolist()
    labels = shape.copy()
    labels[0] = 3
    Image.fromarray(labels).save(tmp_path / "map.png")
    with pytest.raises(ValueError, match=r"holds the values 0, 1, 3: of a label map say in"):
        read_mask(tmp_path / "map.png")
    assert read_mask(tmp_path / "map.png", [1]).tolist() == wanted.tolist()
    labels[3] = 255  # what label maps leave out was the region alone
    Image.fromarray(labels).save(tmp_path / "map.png")
    with pytest.raises(ValueError, match=r"holds the values 0, 1, 3, 255: of a label map"):
        read_mask(tmp_path / "map.png")
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
    half = np.array(read(soft // 2))
    assert (half[1, 2], half[2, 4], half.max()) == (129, 20, 255)  # shares of the most opaque
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
    soft = wanted.copy()
    soft[1, 2] = 100
    for shown in (wanted, soft):
        pixels = np.dstack([shown] * 3 + [np.full_like(wanted, alpha)])
        Image.fromarray(pixels).save(tmp_path / "m.png")
        assert read_mask(tmp_path / "m.png").tolist() == shown.tolist()


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
    assert (read_mask(tmp_path / "m.png", [1]) == (1 - shape) * 255).all()  # as they are stored
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
    assert (read_mask(path, [0, 2]) == np.where(index == 1, 0, 255)).all()  # seen or not
    # A transparent colour that no pixel has, and a label map on a transparent background.
    assert read(inside, [*black, *white, *red], 2) == wanted.tolist()
    with pytest.raises(ValueError, match="holds the values 0, 1, 2: of a label map say in"):
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
