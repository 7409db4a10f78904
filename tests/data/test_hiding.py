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
