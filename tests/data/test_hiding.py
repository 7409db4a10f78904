"""Hidden parts: only the masked pixels change, and they become what was asked for."""

from __future__ import annotations

import pytest
import torch

from fastcam.data import hide

FILLS = ("mean", "blur", "swap")


def _images(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 16, 20), generator=generator)
    return images.to(dtype)


def _masks() -> torch.Tensor:
    masks = torch.zeros(3, 16, 20, dtype=torch.bool)
    masks[0, 2:6, 3:9] = True
    masks[1, :, :] = True
    return masks  # the third image is left as it is


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_only_masked_pixels_change(fill: str, dtype: torch.dtype) -> None:
    images, masks = _images(dtype), _masks()
    kept = images.clone()
    hidden = hide(images, masks, fill)
    assert torch.equal(images, kept)
    assert hidden.dtype == dtype
    changed = (hidden != images).any(1)
    assert not changed[~masks].any()
    assert changed[masks].float().mean() > 0.9


def test_mean_is_the_whole_images_colour() -> None:
    images, masks = _images(), _masks()
    hidden = hide(images, masks)
    wanted = images[0].mean((1, 2))
    torch.testing.assert_close(hidden[0, :, 2:6, 3:9], wanted[:, None, None].expand(3, 4, 6))


def test_swap_shows_the_next_image() -> None:
    images, masks = _images(torch.uint8), _masks()
    hidden = hide(images, masks, "swap")
    assert torch.equal(hidden[0, :, 2:6, 3:9], images[1, :, 2:6, 3:9])
    assert torch.equal(hidden[1], images[2])


def test_blur_leaves_no_form() -> None:
    # A checkerboard has no frequency that survives the blur.
    board = (torch.arange(16)[:, None] + torch.arange(20)) % 2 * 255.0
    images = board.expand(1, 3, -1, -1)
    hidden = hide(images, torch.ones(1, 16, 20), "blur")
    assert hidden.std() < 0.05 * images.std()


@pytest.mark.parametrize("upright", [False, True])
def test_the_blur_is_of_the_shorter_side(upright: bool) -> None:
    line = torch.zeros(1, 3, 16, 129)
    line[..., 64] = 1
    masks = torch.ones(1, 16, 129)
    hidden = hide(line.mT, masks.mT, "blur").mT if upright else hide(line, masks, "blur")
    profile = hidden[0, 0, 8]
    spread = (profile * (torch.arange(129) - 64.0).square()).sum() / profile.sum()
    assert float(spread.sqrt()) == pytest.approx(16 / 8, rel=0.05)


def test_a_share_mixes() -> None:
    images = _images()
    half = hide(images, torch.full((3, 16, 20), 0.5), "swap")
    torch.testing.assert_close(half, (images + images.roll(-1, 0)) / 2)


@pytest.mark.parametrize("fill", FILLS)
def test_no_images(fill: str) -> None:
    assert hide(torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4), fill).shape == (0, 3, 4, 4)


def test_wrong_arguments_are_named() -> None:
    images = _images()
    with pytest.raises(ValueError, match=r"masks: expected shape \[3, 16, 20\].*got \[3, 16\]"):
        hide(images, torch.zeros(3, 16))
    with pytest.raises(ValueError, match="images: expected shape"):
        hide(images[0], _masks())
    with pytest.raises(ValueError, match="fill: expected one of 'mean'"):
        hide(images, _masks(), "noise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two or more"):
        hide(images[:1], _masks()[:1], "swap")


@pytest.mark.parametrize("fill", FILLS)
def test_masks_that_are_no_shares_are_named(fill: str) -> None:
    images, shares = _images(), _masks().float()
    wrong = r"masks: expected values in \[0, 1\], got 0 to 255 \(divide a mask of 0 to 255 by 255\)"
    with pytest.raises(ValueError, match=wrong):
        hide(images, 255 * shares, fill)
    with pytest.raises(ValueError, match=r"masks: expected values in \[0, 1\], got -1 to -0"):
        hide(images, -shares, fill)
    holed = shares.clone()
    holed[2, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"masks: expected values in \[0, 1\], got nan"):
        hide(images, holed, fill)
    for dtype in (torch.uint8, torch.int64):
        words = f"masks: expected dtype bool, float32, .* got {dtype}; pass a 0/1 mask as mask.bool"
        with pytest.raises(TypeError, match=words):
            hide(images, shares.to(dtype), fill)
    # What resizing leaves beyond [0, 1] passes.
    assert torch.allclose(hide(images, shares + 5e-4, fill), hide(images, shares, fill), atol=0.2)
