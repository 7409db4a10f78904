"""Batched augmentation: draws of each image alone, torchvision's arithmetic, regions with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fastcam._util.seeds import uniforms
from fastcam.data import Augment, Collate, RegionCutout, hide
from fastcam.data.augment import LIGHT, SCALE, SHIFT, TURN, Motion, light_steps, lit, moved
from fastcam.data.batches import Batch, region_grids
from fastcam.data.choices import Augmentation
from fastcam.regions import MIRROR_68, MaskRegion, Region, template_landmarks

SIZE = (40, 56)


def _batch(n: int = 6, size: tuple[int, int] = SIZE, *, masks: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(n)
    # Coarse noise: no pixel stands alone, so that a turn blurs little.
    coarse = torch.rand(n, 3, 5, 7, generator=generator)
    image = 255 * torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    batch = Batch(
        image=image.round().byte(),
        labels=torch.zeros(n, 1),
        index=torch.arange(n) + 100,
    )
    if masks:
        blocks = (torch.rand(n, 2, 5, 7, generator=generator) > 0.7).float()
        batch["masks"] = torch.nn.functional.interpolate(255 * blocks, size).byte()
    else:
        points = torch.from_numpy(np.array(template_landmarks(size[1], size[0]))).float()
        batch["landmarks"] = points + 2 * torch.randn(n, 68, 2, generator=generator)
    return batch


def _rows(batch: Batch, rows: Any) -> Batch:
    return Batch(**{key: value[rows] for key, value in batch.items()})  # type: ignore[typeddict-item,index]


def _augmented(augment: Augment, batch: Batch) -> Batch:
    return augment.apply(augment.draw(batch))


def _motion(n: int, size: tuple[int, int], seed: int = 0) -> Motion:
    rng = np.random.default_rng(seed)
    return Motion(
        size,
        np.arange(n) % 2 == 1,
        rng.uniform(-30, 30, n),
        rng.uniform(0.8, 1.2, n),
        rng.integers(-6, 7, (n, 2)).astype(float),
    )


# ---- draws --------------------------------------------------------------------------------------


def test_uniforms_are_of_the_seed_and_the_item_alone() -> None:
    items = np.arange(20_000)
    found = uniforms(7, items, 4)
    assert found.shape == (20_000, 4) and found.min() >= 0 and found.max() < 1
    np.testing.assert_array_equal(uniforms(7, items[[9, 3]], 4), found[[9, 3]])
    np.testing.assert_array_equal(uniforms(7, items, 2), found[:, :2])
    assert not (uniforms(8, items, 4) == found).any()
    assert uniforms(2**63 - 1, items[:0], 3).shape == (0, 3)
    # Uniform, and none tells of another: of the same item, of the next one, of the next seed.
    assert np.abs(np.histogram(found, 20)[0] / 4000 - 1).max() < 0.1
    columns = [*found.T, np.roll(found[:, 0], 1), uniforms(8, items, 1)[:, 0]]
    assert np.abs(np.corrcoef(columns) - np.eye(6)).max() < 0.03


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("recipe", ["flip", "full"])
def test_an_image_is_drawn_by_seed_and_index_alone(recipe: Augmentation, masks: bool) -> None:
    region: Any = MaskRegion(("a",), (0,)) if masks else Region.parse("mouth")
    augment = Augment(recipe, RegionCutout(region, 0.5), seed=3)
    batch = _batch(12, masks=masks)
    whole = _augmented(augment, batch)
    rows = [7, 2, 11]
    for part in (_augmented(augment, _rows(batch, rows)), _rows(whole, rows)):
        for key, value in part.items():
            assert torch.equal(value, whole[key][rows])  # type: ignore[literal-required]
    other = _augmented(Augment(recipe, seed=4), batch)
    assert not torch.equal(other["image"], whole["image"])
    for key in batch:  # what came in is as it was
        assert torch.equal(batch[key], _batch(12, masks=masks)[key])  # type: ignore[literal-required]


def test_images_of_a_batch_have_draws_of_their_own() -> None:
    batch = _batch(64)
    batch = _rows(batch, torch.zeros(64, dtype=torch.int64))  # one image, 64 times
    batch["index"] = torch.arange(64)
    for recipe, kinds in (("flip", 2), ("full", 64)):
        found = _augmented(Augment(recipe, seed=1), batch)  # type: ignore[arg-type]
        assert len(found["image"].flatten(1).unique(dim=0)) == kinds
        assert len(found["landmarks"].flatten(1).unique(dim=0)) == kinds


def test_draws_fill_their_ranges_and_none_tells_of_another() -> None:
    augment = Augment("full", RegionCutout(MaskRegion(("a",), (0,)), 0.5), seed=2)
    u = uniforms(2, np.arange(4000), 10)
    motion = augment._motion(u, SIZE)
    assert 0.46 < motion.flip.mean() < 0.54
    limits = [
        (motion.angle, -TURN, TURN),
        (motion.scale, 1 - SCALE, 1 + SCALE),
        (motion.shift[:, 0], -SHIFT * SIZE[1], SHIFT * SIZE[1]),
        (motion.shift[:, 1], -SHIFT * SIZE[0], SHIFT * SIZE[0]),
    ]
    batch = Batch(image=torch.zeros(4000, 3, *SIZE, dtype=torch.uint8), index=torch.arange(4000))
    draws = augment.draw(batch)["draws"].numpy()
    steps = draws[:, 6:15].reshape(-1, 3, 3)
    limits += [(steps[:, i, 0], 1 - LIGHT, 1 + LIGHT) for i in range(3)]
    for values, low, high in limits:
        assert low <= values.min() + 1e-6 and values.max() - 1e-6 <= high
        assert np.ptp(values) > 0.99 * (high - low)
    orders, counts = np.unique(steps[:, :, 1:].reshape(-1, 6), axis=0, return_counts=True)
    assert len(orders) == 6 and counts.min() > 4000 / 6 * 0.85
    assert 0.46 < draws[:, 15].mean() < 0.54
    # Each kind of light by what it mixes with: its factor, and when it has its turn.
    light = [(steps[:, :, 1:] == kind).all(2) for kind in ((0, 0), (0, 1), (1, 0))]
    drawn = [motion.flip, draws[:, 15], *(values for values, *_ in limits[:4])]
    drawn += [(steps[:, :, 0] * kind).sum(1) for kind in light] + [k.argmax(1) for k in light[:2]]
    apart = np.abs(np.corrcoef(drawn) - np.eye(len(drawn)))
    apart[-1, -2] = apart[-2, -1] = 0  # two turns of one order
    assert apart.max() < 0.06


def test_recipes_are_named() -> None:
    assert _augmented(Augment("none"), batch := _batch())["image"].equal(batch["image"])
    with pytest.raises(ValueError, match="augmentation: expected one of .* got 'mirror'"):
        Augment("mirror")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cutout: expected one of regions"):
        Augment("none", RegionCutout())
    with pytest.raises(ValueError, match="seed: expected a whole number of at least 0, got -1"):
        Augment(seed=-1)
    with pytest.raises(TypeError, match="seed: expected a whole number of at least 0, got 0.5"):
        Augment(seed=0.5)  # type: ignore[arg-type]


# ---- image and landmarks ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [SIZE, (33, 33)])
def test_a_motion_is_torchvisions(size: tuple[int, int], dtype: torch.dtype) -> None:
    images = _batch(8, size)["image"].to(dtype)
    motion = _motion(8, size)
    found = moved(images, torch.from_numpy(motion.sampling()).to(dtype))
    bound = 2e-2 if dtype == torch.float32 else 1e-9
    for i, image in enumerate(images):
        flipped = TF.horizontal_flip(image) if motion.flip[i] else image
        wanted = TF.affine(
            flipped, float(motion.angle[i]), motion.shift[i].tolist(), float(motion.scale[i]),
            [0.0, 0.0], interpolation=TF.InterpolationMode.BILINEAR,
        )  # fmt: skip
        torch.testing.assert_close(found[i], wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("top", [255, 1])
@pytest.mark.parametrize("order", range(6))
def test_light_is_torchvisions(order: int, top: int) -> None:
    images = _batch(5)["image"]
    shown = images if top == 255 else images.double() / 255
    factors = np.random.default_rng(order).uniform(0.3, 1.9, (5, 3))
    steps = torch.from_numpy(light_steps(factors, np.full(5, order)))
    found = lit(shown.double(), steps, top)
    kinds = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation]
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    for i, image in enumerate(shown):
        wanted = image
        for kind in orders[order]:
            wanted = kinds[kind](wanted, float(factors[i, kind]))  # type: ignore[operator]
        # torchvision cuts bytes off after each step, up to 1.9 times, of image and of grey
        bound = 1e-9 if top == 1 else 8
        torch.testing.assert_close(found[i], wanted.double(), rtol=0, atol=bound)


@pytest.mark.parametrize("size", [(96, 96), (80, 120)])
def test_dots_at_the_landmarks_are_found_again(size: tuple[int, int]) -> None:
    height, width = size
    points = torch.rand(5, 68, 2, generator=torch.Generator().manual_seed(0))
    points = points * torch.tensor([width, height]) * 0.6 + torch.tensor([width, height]) * 0.2
    batch = Batch(image=torch.zeros(5, 3, *size), landmarks=points, index=torch.arange(5))
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    augment = Augment("full", seed=1)
    motion = augment._motion(uniforms(1, np.arange(5), 10), size)
    assert 0 < motion.flip.sum() < 5
    sampling = torch.from_numpy(motion.sampling()).float()
    after = augment.draw(batch)["landmarks"]
    for point in (0, 17, 36, 41, 48, 60):
        # The point of the moved image with this name: that of the other side, in a mirror image.
        dots = torch.exp(
            -((torch.stack([x, y], -1) - points[:, point, None, None]) ** 2).sum(-1) / 8
        )
        found = moved(dots[:, None], sampling)[:, 0]
        place = torch.stack([(found * axis).sum((1, 2)) for axis in (x, y)], -1)
        place = place / found.sum((1, 2))[:, None]
        name = torch.where(torch.from_numpy(motion.flip), int(MIRROR_68[point]), point)
        wanted = after[torch.arange(5), name]
        torch.testing.assert_close(place, wanted, rtol=0, atol=0.05)


def test_a_flip_is_exact() -> None:
    batch = _batch(16)
    augment = Augment("flip", seed=5)
    found = _augmented(augment, batch)
    flips = augment._motion(uniforms(5, batch["index"].numpy(), 10), SIZE).flip
    assert 0 < flips.sum() < 16
    for i, flip in enumerate(flips):
        wanted = batch["image"][i].flip(-1) if flip else batch["image"][i]
        assert torch.equal(found["image"][i], wanted)
        assert torch.equal(found["landmarks"][i], batch["landmarks"][i]) != flip


def test_lost_landmarks_stay_lost() -> None:
    batch = _batch(3)
    batch["landmarks"][1] = torch.nan
    found = _augmented(Augment("full", RegionCutout("mouth", 1.0)), batch)
    assert found["landmarks"].isnan().flatten(1).all(1).tolist() == [False, True, False]
    plain = _augmented(Augment("full"), batch)
    same = (found["image"] == plain["image"]).flatten(1).all(1)
    assert same.tolist() == [False, True, False]


# ---- kinds of input -----------------------------------------------------------------------------


def test_floating_images_and_bytes_agree() -> None:
    batch = _batch(8)
    augment = Augment("full", RegionCutout("mouth", 1.0), seed=1)
    wanted = _augmented(augment, batch)["image"]
    assert wanted.dtype == torch.uint8
    for dtype in (torch.float32, torch.float64, torch.float16):
        floats = Batch(**{**batch, "image": (batch["image"].double() / 255).to(dtype)})
        found = _augmented(augment, floats)["image"]
        assert found.dtype == dtype
        difference = 255 * found.double() - wanted.double()
        assert difference.abs().max() < (1.6 if dtype != torch.float16 else 2.6)
        assert difference.mean().abs() < 0.1  # bytes are rounded, not cut off


def test_memory_formats_and_strides_agree() -> None:
    batch = _batch(4, masks=True)
    augment = Augment("full", RegionCutout(MaskRegion(("b",), (1,)), 0.5), seed=1)
    drawn = augment.draw(batch)
    wanted = augment.apply(drawn)
    last = Batch(**{**drawn, "image": drawn["image"].to(memory_format=torch.channels_last)})
    wide = torch.zeros(4, 3, SIZE[0], 2 * SIZE[1], dtype=torch.uint8)
    wide[..., ::2] = batch["image"]
    for other in (last, Batch(**{**drawn, "image": wide[..., ::2]})):
        found = augment.apply(other)
        assert (found["image"].int() - wanted["image"].int()).abs().max() <= 1
        assert torch.equal(found["masks"], wanted["masks"])


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("recipe", ["none", "flip", "full"])
def test_no_images_are_augmented_to_none(recipe: Augmentation, masks: bool) -> None:
    region: Any = MaskRegion(("a",), (0,)) if masks else Region.parse("mouth")
    augment = Augment(recipe, RegionCutout(region))
    collate = Collate([region], (4, 4), augment=augment)
    batch, none = _batch(2, masks=masks), slice(0)
    for drawn in (augment.draw(_rows(batch, none)), _rows(augment.draw(batch), none)):
        found = collate.finish(drawn)
        assert found["image"].shape == (0, 3, *SIZE) and "draws" not in found
        assert not masks or found["regions"].shape == (0, 1, 4, 4)


# ---- regions ------------------------------------------------------------------------------------


def test_masks_move_with_their_images() -> None:
    batch = _batch(16, masks=True)
    # The image is the first mask: where one lies, there lies the other.
    batch["image"] = batch["masks"][:, :1].expand(-1, 3, -1, -1).contiguous()
    augment = Augment("full", seed=1)
    drawn = augment.draw(batch)
    drawn["draws"][:, 6:15] = torch.tensor([1.0, 0, 0] * 3)  # no change of light
    found = augment.apply(drawn)
    assert (found["image"][:, 0].int() - found["masks"][:, 0].int()).abs().max() <= 1
    assert not torch.equal(found["masks"], batch["masks"])


@pytest.mark.parametrize("mode", ["coverage", "binary"])
@pytest.mark.parametrize("masks", [False, True])
def test_grids_are_drawn_from_what_has_moved(masks: bool, mode: str) -> None:
    batch = _batch(6, masks=masks)
    samples: Any = [{key: value[i] for key, value in batch.items()} for i in range(6)]
    for i, sample in enumerate(samples):
        sample["index"] = i
    regions: list[Any] = [Region.parse("mouth"), Region.parse("left_eye,right_eye")]
    if masks:
        regions = [MaskRegion(("a",), (0,)), MaskRegion(("b", "a"), (1, 0))]
    collate = Collate(regions, (8, 9), mode, Augment("full")).seeded(4)
    found = collate.finish(collate(samples))
    places = found["masks" if masks else "landmarks"]
    wanted = region_grids(regions, places, SIZE, (8, 9), mode)
    torch.testing.assert_close(found["regions"], wanted)
    assert bool(((wanted == 0) | (wanted == 1)).all()) == (mode == "binary")
    plain = Collate(regions, (8, 9), mode)(samples)
    assert plain["regions"].shape == wanted.shape and not torch.equal(plain["regions"], wanted)
    other = collate.seeded(5)
    assert not torch.equal(other.finish(other(samples))["regions"], wanted)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_a_cut_out_hides_the_moved_region(masks: bool, outside: bool) -> None:
    batch = _batch(32, masks=masks)
    region: Any = MaskRegion(("a",), (0,)) if masks else Region.parse("mouth")
    plain = _augmented(Augment("full", seed=2), batch)
    fill: Any = "blur" if outside else "mean"
    cutout = RegionCutout(region, 0.5, fill, outside)
    found = _augmented(Augment("full", cutout, seed=2), batch)
    changed = (found["image"] != plain["image"]).flatten(1).any(1)
    assert 8 < int(changed.sum()) < 24
    places = plain["masks" if masks else "landmarks"]
    covered = region_grids([region], places, SIZE, SIZE)[:, 0]
    covered = 1 - covered if outside else covered
    wanted = hide(plain["image"], covered * changed[:, None, None], fill)
    assert (found["image"].int() - wanted.int()).abs().max() <= 1  # shares in steps of 1/255
    assert torch.equal(found["image"][~changed], plain["image"][~changed])


def test_shares_of_masks_are_the_same_of_both_kinds() -> None:
    masks = _batch(3, masks=True)["masks"]
    region = MaskRegion(("b", "a"), (1, 0))
    for mode in ("coverage", "binary"):
        for size in ((7, 5), SIZE):
            found = region.grid(masks, SIZE, size, mode)  # type: ignore[arg-type]
            assert isinstance(found, Tensor) and found.dtype == torch.float32
            wanted = region.grid(masks.numpy(), SIZE, size, mode)  # type: ignore[arg-type]
            np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)
