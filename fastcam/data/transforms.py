"""Transforms of single images that carry the 68 landmarks along, and cut-out."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from fastcam._util import checks as check
from fastcam.data.batches import region_grids
from fastcam.data.choices import Fit
from fastcam.data.hiding import all_but, hide
from fastcam.ops.checks import shares
from fastcam.regions import MaskRegion, Region, flip_landmarks

# What says where things are in an image.
_PLACES = (tv_tensors.KeyPoints, tv_tensors.Mask, tv_tensors.BoundingBoxes)
#: The square that ``fit="face"`` keeps of an aligned CelebA image (178 × 218): its side as a share
#: of the width, its centre as shares of width and height. Forehead to chin, little background.
FACE_SIDE, FACE_CENTRE = 128 / 178, (89 / 178, 121 / 218)


class FitSquare(nn.Module):
    """Bring image and landmarks to a square of ``size`` pixels.

    Args:
        size: side length in pixels.
        fit: ``"crop"`` keeps the centre square, in which aligned CelebA faces lie with some
            background; ``"face"`` a smaller square from forehead to chin, so that a small input
            shows more of the face; ``"stretch"`` the whole image, at another aspect ratio.
    """

    def __init__(self, size: int, fit: str = "crop") -> None:
        super().__init__()
        check.at_least("size", size, 1)
        check.one_of("fit", fit, get_args(Fit))
        self.size, self.fit = size, fit

    def forward(
        self, image: torch.Tensor, landmarks: tv_tensors.KeyPoints
    ) -> tuple[torch.Tensor, tv_tensors.KeyPoints]:
        """Transform ``image`` [3, H, W] and ``landmarks`` [68, 2]."""
        return self.image(image), self.points(landmarks)

    def image(self, image: torch.Tensor) -> torch.Tensor:
        """Transform ``image`` [3, H, W] alone."""
        kept = self._kept(image, tuple(image.shape[-2:]))
        return TF.resize(kept, [self.size, self.size], antialias=True)

    def points(self, points: tv_tensors.KeyPoints) -> tv_tensors.KeyPoints:
        """Transform points [..., 2] alone, of one image or of several of the same size."""
        return TF.resize(self._kept(points, points.canvas_size), [self.size, self.size])

    def _kept(self, x: torch.Tensor, canvas: tuple[int, ...]) -> torch.Tensor:
        if self.fit == "stretch":
            return x
        top, left, side = self._square(*canvas)
        return TF.crop(x, top, left, side, side)

    def _square(self, height: int, width: int) -> tuple[int, int, int]:
        """Top, left and side of the square that is kept."""
        side = min(height, width)
        x, y = 0.5, 0.5
        if self.fit == "face":
            side, (x, y) = max(1, min(side, round(FACE_SIDE * width))), FACE_CENTRE
        top = min(max(round(y * height - side / 2), 0), height - side)
        left = min(max(round(x * width - side / 2), 0), width - side)
        return top, left, side


class FaceFlip(v2.Transform):
    """Mirror image and landmarks with probability ``p``.

    Landmarks are re-indexed as well as mirrored, so that "left" stays the viewer's left: after the
    flip, the left eye's points are those of the eye that is now on the left.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check.number("p", p, "in [0, 1]", lambda x: 0 <= x <= 1)
        self.p = p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"flip": bool(torch.rand(()) < self.p)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not params["flip"]:
            return inpt
        if isinstance(inpt, tv_tensors.KeyPoints):
            width = inpt.canvas_size[1]
            moved = torch.from_numpy(flip_landmarks(inpt.numpy(), width)).to(inpt.dtype)
            return tv_tensors.wrap(moved, like=inpt)
        return TF.horizontal_flip(inpt)


class RegionCutout(v2.Transform):
    """Hide a region of an image with probability ``share``, so that a network learns without it.

    A guided map can move while the score goes on depending on the same pixels; a network that has
    often seen none of them depends less on them. For training images only, as the last
    augmentation, in any data loader::

        cutout = RegionCutout("left_eye,right_eye")
        image, landmarks = cutout(image, landmarks)  # tv_tensors.KeyPoints, the 68 points
        cutout = RegionCutout()
        image, mask = cutout(image, mask)  # tv_tensors.Mask: what is hidden

    As every v2 transform it takes dicts, tuples and more inputs too (bounding boxes among them),
    and changes images (uint8 or floating, [C, H, W]) alone. Whether an image is hidden is one draw
    from torch's generator.

    Args:
        regions: as :meth:`fastcam.regions.Region.parse` reads them, laid on the image by its
            landmarks; a :class:`fastcam.regions.MaskRegion` is some of the sample's masks (uint8
            [R, H, W], 255 inside); None hides the sample's masks [H, W] or [K, H, W] (the union),
            and needs no landmarks: bool, shares in [0, 1], or uint8, which is 0 and 1 in a sample
            that has no other value, and else 0 to 255, as a mask is that was an image.
        share: probability that an image is hidden.
        fill: ``"mean"`` (the image's mean colour) or ``"blur"``, see :func:`fastcam.data.hide`.
        outside: hide everything but the region. An image where the region covers nothing stays as
            it is.

    Raises:
        TypeError, ValueError: an option is not one of those above; in the call, a sample without
            image, landmarks or mask, or of another shape.
    """

    def __init__(
        self,
        regions: str | Region | MaskRegion | None = None,
        share: float = 0.5,
        fill: Literal["mean", "blur"] = "mean",
        outside: bool = False,
    ) -> None:
        super().__init__()
        check.number("share", share, "in [0, 1]", lambda x: 0 <= x <= 1)
        check.one_of("fill", fill, ("mean", "blur"))
        if not isinstance(regions, (str, Region, MaskRegion, type(None))):
            raise TypeError(f"regions: expected text, a region or None, got {regions!r}")
        self.regions = Region.parse(regions) if isinstance(regions, str) else regions
        self.share, self.fill, self.outside = share, fill, outside

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        if not torch.rand(()) < self.share:
            return {"hidden": None}
        masked = self.regions is None or isinstance(self.regions, MaskRegion)
        kind: Any = tv_tensors.Mask if masked else tv_tensors.KeyPoints
        found = [x for x in flat_inputs if isinstance(x, kind)]
        if len(found) != 1:
            raise ValueError(
                f"RegionCutout: expected a sample with one tv_tensors.{kind.__name__}"
                f" (regions is {self.regions}), got {len(found)}"
            )
        (given,) = found
        places = given.as_subclass(torch.Tensor)
        size = given.shape[-2:] if masked else given.canvas_size
        if self.regions is None and places.dim() == 2:
            places = places[None]
        return {"hidden": self.covered(places[None], size)[0]}

    def covered(self, places: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """What is hidden of images where any is: float32 [N, H, W] in [0, 1].

        Args:
            places: landmarks [N, 68, 2] or masks [N, R, H, W]; masks on any device.
            size: (H, W) of the images.
        """
        if self.regions is None:
            found = _as_shares(places).amax(1)
        else:
            found = region_grids([self.regions], places, size, size)[:, 0]
        return all_but(found) if self.outside else found

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        hidden = params["hidden"]
        if hidden is None or isinstance(inpt, _PLACES):
            return inpt
        if not isinstance(inpt, torch.Tensor):
            raise TypeError(
                f"image: expected a tensor [C,H,W], got {type(inpt).__name__}; put v2.ToImage first"
            )
        pixels = inpt.as_subclass(torch.Tensor).unsqueeze(0)
        changed = hide(pixels, hidden.to(pixels.device).unsqueeze(0), self.fill).squeeze(0)
        return (
            tv_tensors.wrap(changed, like=inpt) if isinstance(inpt, tv_tensors.Image) else changed
        )


def _as_shares(masks: torch.Tensor) -> torch.Tensor:
    """Masks [N, K, H, W] in [0, 1], of the kinds that :class:`RegionCutout` takes."""
    if masks.dtype != torch.uint8:
        shares("masks", masks)
        return masks.float()
    # Without asking what the largest value is: a GPU would be waited for.
    of_255 = masks.amax((1, 2, 3), keepdim=True) > 1
    return masks.float() / (1 + 254 * of_255)
