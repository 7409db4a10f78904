"""Image transforms that carry the 68 landmarks along, and the named augmentation recipes."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from fastcam._util import checks as check
from fastcam.data.choices import Augmentation, Fit
from fastcam.regions import flip_landmarks

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
        size = [self.size, self.size]
        both = (image, landmarks)
        height, width = image.shape[-2:]
        if self.fit != "stretch":
            top, left, side = self._square(height, width)
            both = tuple(TF.crop(x, top, left, side, side) for x in both)  # type: ignore[assignment]
        return TF.resize(both[0], size, antialias=True), TF.resize(both[1], size)

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


def augmentation(name: str) -> v2.Transform | None:
    """A named recipe: ``"none"``, ``"flip"``, or ``"full"`` (flip, small affine motion, light).

    Raises:
        ValueError: an unknown name.
    """
    check.one_of("augmentation", name, get_args(Augmentation))
    if name == "none":
        return None
    if name == "flip":
        return FaceFlip()
    return v2.Compose(
        [
            FaceFlip(),
            v2.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1),
                            interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        ]
    )  # fmt: skip
