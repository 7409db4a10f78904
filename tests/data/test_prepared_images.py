"""Images of a folder with masks at the training size, in a file or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_masks import AREA, split_of, write_images
from torch import Tensor

from fastcam.data import PreparedImages, open_folder
from fastcam.regions import MaskRegion


def test_a_name_of_a_region_may_hold_commas() -> None:
    known = ["car", "car, truck", "a,b,c", "tree"]
    for text, names in {
        "car, truck": ("car, truck",),
        " car ,tree": ("car", "tree"),
        "tree,car, truck,a,b,c": ("tree", "car, truck", "a,b,c"),
    }.items():
        region = MaskRegion.parse(text, known)
        assert region.names == names
        assert MaskRegion.parse(str(region), known) == region
    with pytest.raises(ValueError, match="no region 'truck'"):
        MaskRegion.parse("car,truck", known)


def test_a_mask_region_is_the_union_of_its_masks() -> None:
    masks = np.zeros((1, 3, 4, 4), np.uint8)
    masks[0, 0, :2] = 255
    masks[0, 2, :, :1] = 255
    masks[0, 1] = 99
    region = MaskRegion.parse(" b , a,b", ["a", "c", "b"])
    assert (region.names, region.channels, str(region)) == (("b", "a"), (2, 0), "b,a")
    assert region.grid(masks, (4, 4), (2, 2)).tolist() == [[[1.0, 1.0], [0.5, 0.0]]]
    assert region.grid(masks, (4, 4), (2, 2), "binary").tolist() == [[[1.0, 1.0], [1.0, 0.0]]]
    with pytest.raises(TypeError, match="region: expected text"):
        MaskRegion.parse(3, ["a"])  # type: ignore[arg-type]
    for known in (3, ["a", 1.0]):
        with pytest.raises(TypeError, match="known: expected"):
            MaskRegion.parse("b", known)  # type: ignore[arg-type]


@pytest.mark.parametrize("cache", [True, False])
def test_masks_are_resized_with_their_images(
    data: Path, cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastcam.data.prepared.available_memory", lambda: 0)
    images = split_of(open_folder(data), "train", "masks")
    plain = PreparedImages(images, 18, fit="stretch", cache=cache)
    assert plain.cached == cache
    image, mask = plain[0]["image"].as_subclass(Tensor), plain[0]["masks"].as_subclass(Tensor)
    assert (image.shape, mask.shape) == ((3, 18, 18), (1, 18, 18))
    shares = mask.float() / 255
    assert float(shares.sum()) == pytest.approx(AREA * 18 * 18 / (36 * 40), rel=0.02)
    # The square has a color of its own: saturated pixels lie where the mask says.
    spread = (image.float().amax(0) - image.float().amin(0)) > 120
    assert bool((spread == (mask[0] > 127)).float().mean() > 0.95)


def test_the_masks_are_counted_of_the_chosen_images(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", 24)
    images = split_of(open_folder(root), "train", "masks")
    for name in (images.names[0], images.names[1], images.names[7]):
        (root / "masks" / f"{Path(name).stem}.png").unlink()
    chosen = PreparedImages(images, 16, indices=[2, 7, 5], cache=False)
    assert chosen.landmark_sources == {"masks": 2}
    assert chosen.sources_of([1]) == {"masks": 0} and chosen.sources_of([0, 2]) == {"masks": 2}


def test_images_and_masks_are_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_images(tmp_path / "data", 24, masks="folders")
    names = ("square", "frame")

    def prepared(split: str, *regions: str, cache: bool | None = None) -> PreparedImages:
        return PreparedImages(split_of(open_folder(root), split, *regions), 16, cache=cache)

    def same(one: PreparedImages, other: PreparedImages) -> bool:
        pairs = zip(one, other, strict=True)
        return all(
            torch.equal(a["image"], b["image"]) and torch.equal(a["masks"], b["masks"])
            for a, b in pairs
        )

    decoded: list[int] = []
    plain = PreparedImages._decode
    monkeypatch.setattr(
        PreparedImages, "_decode", lambda self, i: (decoded.append(i), plain(self, i))[1]
    )
    first = prepared("train", *names)
    count = len(first)
    assert len(decoded) == count > 4 and len(list(root.glob(".fastcam-cache/*"))) == 1
    assert same(first, prepared("train", *names, cache=False))
    decoded.clear()
    assert same(first, prepared("train", *names)) and not decoded  # by another run
    prepared("valid", *names)
    assert len(list(root.glob(".fastcam-cache/*"))) == 1  # of all splits
    # A mask that was written again is read again, and other regions have a file of their own.
    decoded.clear()
    mask = next((root / "masks" / "square").glob(f"{Path(first.names[2]).stem}.*"))
    Image.new("L", Image.open(mask).size).save(mask)
    again = prepared("train", *names)
    assert decoded == [2] and not again[2]["masks"][0].any()
    prepared("train", "frame")
    assert len(list(root.glob(".fastcam-cache/*"))) == 2
    # As are all where masks are read in another way than they were.
    decoded.clear()
    monkeypatch.setattr("fastcam.data.mask_files._READING", 99)
    prepared("train", *names)
    assert len(decoded) == count
