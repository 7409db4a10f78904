"""Landmarks and regions move with the image; the order of batches is a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_faces import write_faces
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastcam.data import (
    CelebA,
    Collate,
    FaceFlip,
    FitSquare,
    PreparedFaces,
    RegionCutout,
    hide,
    prepared,
)
from fastcam.data.batches import EpochBatches, on_grid
from fastcam.regions import MIRROR_68, REGION_NAMES, Region, rectangles, template_landmarks


def _face(size: int = 64) -> tuple[tv_tensors.Image, tv_tensors.KeyPoints]:
    points = torch.from_numpy(np.array(template_landmarks(size, size)))
    return tv_tensors.Image(torch.zeros(3, size, size, dtype=torch.uint8)), tv_tensors.KeyPoints(
        points, canvas_size=(size, size)
    )


def _marked(points: tv_tensors.KeyPoints, region: str, size: int) -> tv_tensors.Image:
    """White where the region lies, black elsewhere."""
    cells = Region.parse(region).grid(points.numpy()[None], (size, size), (size, size))
    return tv_tensors.Image(torch.from_numpy(cells * 255).round().byte().expand(3, -1, -1))


def _agreement(image: torch.Tensor, points: torch.Tensor, region: str) -> float:
    """IoU of the region of the moved landmarks and the white pixels of the moved image."""
    size = image.shape[-1]
    grid = Region.parse(region).grid(points.numpy()[None], (size, size), (size, size))[0] > 0.5
    white = image[0].numpy() > 127
    return float((grid & white).sum() / (grid | white).sum())


@pytest.mark.parametrize("region", REGION_NAMES)
def test_a_flip_moves_each_region_with_the_image(region: str) -> None:
    _, points = _face()
    turned = points.clone()
    turned[:, 0] += 3 * torch.sin(turned[:, 1] / 9)  # no symmetric face, or errors would hide
    points = tv_tensors.KeyPoints(turned, canvas_size=(64, 64))
    image = _marked(points, region, 64)
    flipped, moved = FaceFlip(p=1.0)(image, points)
    assert torch.equal(flipped, image.flip(-1))
    # Left is the viewer's: what was marked as the left eye is the right eye of the mirror image.
    swap = {"left": "right", "right": "left"}
    side = region.partition("_")[0]
    name = region.replace(side, swap[side], 1) if side in swap else region
    assert _agreement(flipped, moved, name) > 0.85
    if side in swap:
        assert _agreement(flipped, moved, region) < 0.2


def test_two_flips_are_none() -> None:
    image, points = _face()
    flip = FaceFlip(p=1.0)
    _, twice = flip(*flip(image, points))
    torch.testing.assert_close(twice, points)
    _, never = FaceFlip(p=0.0)(image, points)
    assert torch.equal(never, points)
    wide = tv_tensors.KeyPoints(torch.rand(68, 2) * torch.tensor([50.0, 20]), canvas_size=(20, 50))
    mirrored = wide.as_subclass(torch.Tensor)[torch.from_numpy(np.array(MIRROR_68))]
    _, moved = flip(tv_tensors.Image(torch.zeros(3, 20, 50)), wide)
    mirrored = torch.stack([50 - mirrored[:, 0], mirrored[:, 1]], 1)
    torch.testing.assert_close(moved.as_subclass(torch.Tensor), mirrored)
    with pytest.raises(ValueError, match=r"p: expected a number in \[0, 1\], got 2"):
        FaceFlip(p=2)


@pytest.mark.parametrize("fit", ["crop", "face", "stretch"])
def test_fitting_moves_the_region(fit: str) -> None:
    points = torch.from_numpy(np.array(template_landmarks(178, 218)))
    points = tv_tensors.KeyPoints(points, canvas_size=(218, 178))
    cells = Region.parse("mouth").grid(points.numpy()[None], (218, 178), (218, 178))
    image = tv_tensors.Image(torch.from_numpy(cells * 255).round().byte().expand(3, -1, -1))
    square, moved = FitSquare(96, fit)(image, points)
    assert square.shape == (3, 96, 96)
    assert moved.canvas_size == (96, 96)
    assert _agreement(square, moved, "mouth") > 0.9
    height = (moved[:, 1].max() - moved[:, 1].min()) / (moved[:, 0].max() - moved[:, 0].min())
    before = (points[:, 1].max() - points[:, 1].min()) / (points[:, 0].max() - points[:, 0].min())
    assert float(height / before) == pytest.approx(178 / 218 if fit == "stretch" else 1, rel=1e-4)
    width = float(moved[:, 0].max() - moved[:, 0].min()) / 96
    whole = float(points[:, 0].max() - points[:, 0].min())
    assert width == pytest.approx(whole / {"crop": 178, "face": 128, "stretch": 178}[fit], rel=1e-4)
    assert moved.min() > 0 or fit != "face"


@pytest.mark.parametrize(
    ("fit", "canvas", "kept"),  # left, top, right and bottom
    [
        ("crop", (218, 178), (0, 20, 178, 198)),
        ("face", (218, 178), (25, 57, 153, 185)),
        ("stretch", (218, 178), (0, 0, 178, 218)),
        ("crop", (100, 300), (100, 0, 200, 100)),
        ("face", (100, 300), (100, 0, 200, 100)),
    ],
)
def test_each_fit_keeps_its_part(
    fit: str, canvas: tuple[int, int], kept: tuple[int, int, int, int]
) -> None:
    corners = tv_tensors.KeyPoints(torch.tensor(kept).float().view(2, 2), canvas_size=canvas)
    found = FitSquare(64, fit).points(corners)
    torch.testing.assert_close(found.as_subclass(torch.Tensor), torch.tensor([[0.0, 0], [64, 64]]))


def test_unknown_fits_are_named() -> None:
    with pytest.raises(ValueError, match="fit: expected one of"):
        FitSquare(32, "pad")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> CelebA:
    return CelebA(write_faces(tmp_path_factory.mktemp("faces")), "train")


def test_cached_and_uncached_images_are_the_same(
    faces: CelebA, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[tuple[int, int]] = []
    options = {"indices": [5, 0, 7]}
    cached = PreparedFaces(
        faces, 32, cache=False, progress=lambda d, n: reports.append((d, n)), **options
    )
    monkeypatch.setattr(prepared, "available_memory", lambda: 0)
    lazy = PreparedFaces(faces, 32, cache=False, **options)
    for share, kept in ((1.5, False), (2.5, True)):  # half of what is free
        free = int(share * 3 * 3 * 32 * 32)
        monkeypatch.setattr(prepared, "available_memory", lambda free=free: free)
        assert PreparedFaces(faces, 32, cache=False, **options).cached == kept
    assert cached.cached
    assert not lazy.cached
    assert reports == [(1, 3), (2, 3), (3, 3)]
    assert cached.names == [faces.names[i] for i in (5, 0, 7)]
    assert torch.equal(cached.labels, faces.labels[[5, 0, 7]])
    for i in (2, 0, 1):
        for key in ("image", "landmarks", "labels"):
            assert torch.equal(cached[i][key], lazy[i][key])
    for split in (cached, lazy):  # whose samples are nobody else's
        before, landmarks = split[1]["image"].clone(), split[1]["landmarks"].clone()
        split[1]["image"].zero_(), split[1]["landmarks"].zero_()
        assert torch.equal(split[1]["image"], before)
        assert torch.equal(split[1]["landmarks"], landmarks)
    assert cached.subset("Lips", "Eyes").not_a.tolist() == [
        i for i in range(3) if cached.labels[i, 0] == 0
    ]


def test_the_sources_are_those_of_the_chosen_faces(faces: CelebA) -> None:
    split = CelebA(faces.root, "train")
    split._landmarks.sources[5] = "detected"
    chosen = PreparedFaces(split, 16, indices=[0, 5], cache=False)
    assert chosen.landmark_sources == {"ground_truth": 1, "detected": 1}
    assert chosen.sources_of([1]) == {"detected": 1}


def test_a_prepared_split_takes_no_other_transform(faces: CelebA) -> None:
    mirrored = CelebA(faces.root, "train", transform=v2.Identity())
    assert torch.equal(mirrored[0]["image"], faces[0]["image"])
    with pytest.raises(ValueError, match="a split without a transform"):
        PreparedFaces(mirrored, 32)


def test_collation_draws_the_regions_of_the_landmarks(faces: CelebA) -> None:
    prepared = PreparedFaces(faces, 32, cache=True)
    regions = [Region.parse("mouth"), Region.parse("left_eye,right_eye")]
    batch = Collate(regions, (8, 8))([prepared[i] for i in range(4)])
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["regions"].shape == (4, 2, 8, 8)
    expected = regions[0].grid(batch["landmarks"].numpy(), (32, 32), (8, 8))
    np.testing.assert_array_equal(batch["regions"][:, 0], expected)
    boxes = rectangles(batch["landmarks"].numpy())[:, 8]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 16
    np.testing.assert_allclose(batch["regions"][:, 0].sum((1, 2)), area, rtol=1e-4)
    assert "regions" not in Collate()([prepared[0]])
    with pytest.raises(ValueError, match="grid_size: expected"):
        Collate(regions)


def test_regions_of_any_kind_and_size_come_to_the_grid() -> None:
    shares = torch.zeros(2, 1, 4, 4)
    shares[0, 0, :2, :3] = 1
    for size in (4, 2):
        wanted = torch.nn.functional.avg_pool2d(shares, 4 // size)
        for given in (shares, shares.bool(), shares.byte(), shares[:, 0], shares[:, 0].bool()):
            torch.testing.assert_close(on_grid(given, (size, size)), wanted)


def test_batches_of_an_epoch() -> None:
    whole = list(EpochBatches(10, 4, seed=1, epoch=2))
    assert [len(b) for b in whole] == [4, 4, 2]
    assert sorted(i for b in whole for i in b) == list(range(10))
    rest = EpochBatches(10, 4, seed=1, epoch=2, start=1)
    assert list(rest) == whole[1:]
    assert len(rest) == 3
    assert list(EpochBatches(10, 4, seed=1, epoch=3)) != whole
    assert list(EpochBatches(10, 4, seed=2, epoch=2)) != whole


def _noise(size: int = 64) -> tuple[tv_tensors.Image, tv_tensors.KeyPoints]:
    _, points = _face(size)
    torch.manual_seed(0)
    return tv_tensors.Image(torch.randint(256, (3, size, size), dtype=torch.uint8)), points


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_a_cut_out_changes_its_region_and_nothing_else(outside: bool, fill: str) -> None:
    image, points = _noise()
    kept = image.clone()
    cutout = RegionCutout("left_eye,right_eye", 1.0, fill, outside)
    hidden, same = cutout(image, points)
    assert torch.equal(image, kept) and same is points
    assert isinstance(hidden, tv_tensors.Image) and hidden.dtype == torch.uint8
    eyes = Region.parse("left_eye,right_eye").grid(points.numpy()[None], (64, 64), (64, 64))[0]
    shown = torch.from_numpy(eyes == float(outside))
    covered = torch.from_numpy(eyes == 1 - float(outside))
    assert torch.equal(hidden[:, shown], image[:, shown])
    assert (hidden != image)[:, covered].any(0).float().mean() > 0.98
    if fill == "mean":
        mean = image.float().mean((1, 2)).round().byte()
        assert torch.equal(hidden[:, covered], mean[:, None].expand(3, int(covered.sum())))
    else:
        blurred = hide(image[None], torch.ones(1, 64, 64), "blur")[0]
        assert torch.equal(hidden[:, covered], blurred[:, covered])


def test_a_cut_out_hides_the_share_it_is_told() -> None:
    image, points = _noise(16)
    cutout = RegionCutout("mouth", 0.3)
    found = [bool((cutout(image, points)[0] != image).any()) for _ in range(1000)]
    assert 0.25 < sum(found) / 1000 < 0.35  # 0.3 ± 3.5 standard deviations
    for share, wanted in ((0.0, False), (1.0, True)):
        cutout = RegionCutout("mouth", share)
        assert all(bool((cutout(image, points)[0] != image).any()) == wanted for _ in range(20))


def test_a_cut_out_takes_masks_of_any_data() -> None:
    image = torch.rand(3, 8, 8)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :2], masks[1, 6:] = True, True
    sample = {"image": image, "masks": tv_tensors.Mask(masks), "name": "a.jpg"}
    out = RegionCutout(share=1.0)(sample)
    assert out["name"] == "a.jpg" and torch.equal(out["masks"], masks)
    torch.testing.assert_close(
        out["image"][:, :2], image.mean((1, 2))[:, None, None].expand(3, 2, 8)
    )
    assert torch.equal(out["image"][:, 2:6], image[:, 2:6])
    soft, _ = RegionCutout(share=1.0)(image, tv_tensors.Mask(torch.full((8, 8), 0.5)))
    torch.testing.assert_close(soft, (image + image.mean((1, 2), keepdim=True)) / 2)


@pytest.mark.parametrize("outside", [False, True])
def test_a_cut_out_takes_masks_that_were_images(outside: bool) -> None:
    image = torch.rand(3, 8, 8)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:3, :5] = True
    cutout = RegionCutout(share=1.0, outside=outside)
    wanted = cutout(image, tv_tensors.Mask(inside))[0]
    assert torch.equal(wanted[:, inside == outside], image[:, inside == outside])
    for scale in (1, 255):
        mask = tv_tensors.Mask((scale * inside).byte())
        found, kept = cutout(image, mask)
        assert torch.equal(found, wanted) and kept is mask
    picture = v2.functional.to_pil_image(inside.byte()[None] * 255)
    opened = tv_tensors.Mask(v2.functional.pil_to_tensor(picture))
    assert torch.equal(cutout(image, opened)[0], wanted)
    # A border in part, and a second mask with 1 as its largest value: of 255, as the first has it.
    soft = torch.stack([inside.byte() * 51, torch.ones(8, 8, dtype=torch.uint8)])
    shares = torch.where(inside, 51 / 255, 1 / 255)
    torch.testing.assert_close(
        cutout(image, tv_tensors.Mask(soft))[0], cutout(image, tv_tensors.Mask(shares))[0]
    )
    # Each sample of a batch has a scale of its own.
    both = torch.stack([inside.byte(), inside.byte() * 255])[:, None]
    covered = RegionCutout().covered(both, (8, 8))
    assert covered.dtype == torch.float32 and torch.equal(covered, inside.float().expand(2, 8, 8))


def test_a_cut_out_leaves_bounding_boxes_as_they_are() -> None:
    image, mask = torch.rand(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
    mask[:3] = True
    boxes = tv_tensors.BoundingBoxes([[0, 0, 8, 3]], format="XYXY", canvas_size=(8, 8))  # type: ignore[call-overload]
    cutout = RegionCutout(share=1.0)
    sample = {"image": image, "mask": tv_tensors.Mask(mask), "boxes": boxes}
    found = cutout(sample)
    assert found["boxes"] is boxes
    assert torch.equal(found["image"], cutout(image, tv_tensors.Mask(mask))[0])


def test_a_cut_out_names_masks_that_are_no_shares() -> None:
    image, mask = torch.rand(3, 8, 8), torch.ones(8, 8)
    for outside in (False, True):
        cutout = RegionCutout(share=1.0, outside=outside)
        with pytest.raises(ValueError, match=r"masks: expected values in \[0, 1\], got 255 to 255"):
            cutout(image, tv_tensors.Mask(255 * mask))
        with pytest.raises(ValueError, match=r"masks: expected values in \[0, 1\], got nan"):
            cutout(image, tv_tensors.Mask(torch.nan * mask))
        with pytest.raises(TypeError, match=r"masks: expected dtype bool, .* got torch\.int64"):
            cutout(image, tv_tensors.Mask(mask.long()))


def test_a_face_without_the_region_stays_as_it_is() -> None:
    image, points = _noise()
    lost = tv_tensors.wrap(torch.full_like(points, torch.nan), like=points)
    for outside in (False, True):
        assert torch.equal(RegionCutout("mouth", 1.0, outside=outside)(image, lost)[0], image)


def test_what_no_cut_out_can_take_is_named() -> None:
    image, points = _noise()
    with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\], got 1.5"):
        RegionCutout("mouth", 1.5)
    with pytest.raises(ValueError, match="fill: expected one of 'mean', 'blur', got 'swap'"):
        RegionCutout("mouth", fill="swap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'mouth'"):
        RegionCutout("mouht")
    with pytest.raises(ValueError, match=r"one tv_tensors\.Mask \(regions is None\), got 0"):
        RegionCutout(share=1.0)(image, points)
    with pytest.raises(TypeError, match=r"image: expected a tensor \[C,H,W\], got Image; put"):
        RegionCutout("mouth", 1.0)(v2.functional.to_pil_image(image), points)
