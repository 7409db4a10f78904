"""Parts of images hidden: filled with the mean colour, blurred, or taken from another image."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fastcam.ops import checks as check

Fill = Literal["mean", "blur", "swap"]

#: Standard deviation of the blur, as a share of the image's shorter side.
BLUR = 1 / 8


def hide(images: Tensor, masks: Tensor, fill: Fill = "mean") -> Tensor:
    """Images with a part hidden.

    Args:
        images: [N, C, H, W], uint8 or floating.
        masks: [N, H, W], bool or floating in [0, 1]: the share of each pixel that is hidden.
        fill: ``"mean"`` paints the mean colour of the whole image, ``"blur"`` blurs so far that no
            form is left, ``"swap"`` shows the same place of the batch's next image (of the first
            one, after the last).

    Returns:
        [N, C, H, W] in the images' dtype; the images themselves stay as they are.

    Raises:
        TypeError: masks of another dtype.
        ValueError: shapes that do not fit, masks beyond [0, 1] (NaN included), an unknown fill, or
            one image alone to swap with.
    """
    check.one_of("fill", fill, get_args(Fill))
    if images.dim() != 4:
        raise ValueError(f"images: expected shape [N,C,H,W], got {list(images.shape)}")
    check.shares("masks", masks)
    if masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"masks: expected shape {[len(images), *images.shape[2:]]} (of images), "
            f"got {list(masks.shape)}"
        )
    if fill == "swap" and len(images) == 1:
        raise ValueError("images: expected two or more to swap parts between, got one")
    if not len(images):
        return images.clone()
    values = images if images.is_floating_point() else images.float()
    shares = masks.to(values).unsqueeze(1)
    mixed = torch.lerp(values, _filling(values, fill), shares)
    return mixed if images.is_floating_point() else mixed.round().clamp(0, 255).to(images.dtype)


def all_but(covered: Tensor) -> Tensor:
    """What lies around regions [N, H, W] in [0, 1]; nothing where a region covers nothing."""
    return (1 - covered) * covered.flatten(1).any(1)[:, None, None]


def _filling(images: Tensor, fill: Fill) -> Tensor:
    if fill == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if fill == "swap":
        return images.roll(-1, 0)
    sigma = BLUR * min(images.shape[2:])
    # Three standard deviations, and not beyond what the image can be reflected by.
    reach = 2 * min(int(3 * sigma), min(images.shape[2:]) - 1) + 1
    # One axis at a time: a fiftieth of the products of a square kernel.
    rows = TF.gaussian_blur(images, [reach, 1], [sigma] * 2)
    return TF.gaussian_blur(rows, [1, reach], [sigma] * 2)
