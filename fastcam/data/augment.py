"""Augmentation of whole batches, each image by draws of its own, and its regions with it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from fastcam._util import checks as check
from fastcam._util.seeds import uniforms
from fastcam.data.batches import Batch
from fastcam.data.choices import Augmentation
from fastcam.data.hiding import hide
from fastcam.data.transforms import RegionCutout
from fastcam.regions import flip_landmarks

#: What ``"full"`` draws: turns of up to so many degrees; shifts up to this share of width and
#: height; changes up to these of the scale, and of brightness, contrast and saturation.
TURN, SHIFT, SCALE, LIGHT = 10.0, 0.05, 0.1, 0.2
#: Red, green and blue in the grey of an image (ITU-R BT.601).
GREY = (0.2989, 0.587, 0.114)

# Brightness, contrast and saturation mix an image with black, with the mean of its grey and with
# its grey: shares of (grey, mean) in what each mixes with, and the orders that the three can have.
_MIXED_WITH = np.array([(0, 0), (0, 1), (1, 0)])
_ORDERS = np.array([*itertools.permutations(range(3))])
# The columns of a batch's draws: Motion.sampling, light_steps, and whether a region is hidden.
_COLUMNS = (6, 9, 1)


@dataclass(frozen=True)
class Motion:
    """How N images of one size move: mirrored or not, turned and scaled about the centre, shifted.

    Attributes:
        size: (height, width) of the images.
        flip: bool [N].
        angle: float64 [N], in degrees, clockwise.
        scale: float64 [N], above 1 for larger.
        shift: float64 [N, 2], (x, y) in pixels.
    """

    size: tuple[int, int]
    flip: NDArray[np.bool_]
    angle: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def points(self, landmarks: Tensor) -> Tensor:
        """Landmarks [N, 68, 2] of the moved images; see :func:`fastcam.regions.flip_landmarks`."""
        found = landmarks.numpy()
        mirrored = flip_landmarks(found, self.size[1])
        found = np.where(self.flip[:, None, None], mirrored, found)
        centre = np.array(self.size[::-1]) / 2
        turned = (found - centre) @ self._turn().transpose(0, 2, 1)
        return torch.from_numpy(turned + centre + self.shift[:, None]).to(landmarks.dtype)

    def sampling(self) -> NDArray[np.float64]:
        """Where each pixel comes from: [N, 2, 3], in the coordinates of ``affine_grid``."""
        half = np.array(self.size[::-1]) / 2
        back = np.linalg.inv(self._turn())
        back = np.concatenate([back, -back @ self.shift[:, :, None]], 2)
        back[:, 0] *= np.where(self.flip, -1, 1)[:, None]
        return back / half[:, None] * np.array([*half, 1])

    def _turn(self) -> NDArray[np.float64]:
        radians = np.deg2rad(self.angle)
        cos, sin = np.cos(radians), np.sin(radians)
        rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
        return rotation * self.scale[:, None, None]


def light_steps(factors: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Changes of light, one after the other, as :func:`lit` takes them.

    Args:
        factors: [N, 3], of brightness, contrast and saturation, as torchvision defines them.
        order: [N], which of the six orders of the three, 0 to 5; 0 is the one above.

    Returns:
        [N, 3, 3]: for each step the image's share in the mixture, and of what it is mixed with the
        shares of the grey and of its mean.
    """
    kinds = _ORDERS[order]
    ratios = np.take_along_axis(factors, kinds, 1)
    return np.concatenate([ratios[:, :, None], _MIXED_WITH[kinds]], 2)


def moved(images: Tensor, sampling: Tensor) -> Tensor:
    """Images [N, C, H, W], floating, at the places ``sampling`` [N, 2, 3]; 0 beyond the border."""
    y, x = (
        ((2 * torch.arange(n, dtype=sampling.dtype, device=sampling.device) + 1) / n - 1)
        for n in images.shape[-2:]
    )
    # affine_grid with rows and columns apart: in a fraction of the time, which is a product's.
    from_x, from_y, shift = sampling[:, :, None, None].unbind(-1)
    grid = from_x * x + (from_y * y[:, None] + shift)
    return nnf.grid_sample(images, grid.permute(0, 2, 3, 1), align_corners=False)


def lit(images: Tensor, steps: Tensor, top: float) -> Tensor:
    """Images [N, 3, H, W], floating in [0, ``top``], in the light of ``steps`` [N, 3, 3]."""
    images = images.clone()
    for step in steps.unbind(1):
        ratio, grey_share, mean_share = step[:, :, None, None, None].unbind(1)
        red, green, blue = images.split(1, 1)
        grey = (GREY[0] * red).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])
        rest = 1 - ratio
        mean = grey.mean((2, 3), keepdim=True) * (mean_share * rest)
        images.mul_(ratio).add_(grey.mul_(grey_share * rest).add_(mean)).clamp_(0, top)
    return images


@dataclass(frozen=True)
class Augment:
    """A recipe for batches: first :meth:`draw`, where they are made; then :meth:`apply`, on the
    device of the network.

    What is drawn for an image depends on the seed and the image's ``index`` alone: not on the order
    of the images, the size of a batch, or the process that makes it.

    Attributes:
        recipe: ``"none"``; ``"flip"`` mirrors every other image; ``"full"`` moves all a little and
            changes their light as well.
        cutout: hides its region in some images, last. It needs ``regions`` of its own.
        seed: at least 0; take another one for each epoch.

    Raises:
        ValueError: an unknown recipe, a cut-out without regions, or a seed below 0.
        TypeError: a seed that is no whole number.
    """

    recipe: Augmentation = "none"
    cutout: RegionCutout | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check.one_of("augmentation", self.recipe, get_args(Augmentation))
        check.whole("seed", self.seed, 0)
        if self.cutout is not None and self.cutout.regions is None:
            raise ValueError("cutout: expected one of regions, got one that hides a sample's masks")

    def draw(self, batch: Batch) -> Batch:
        """A batch on the CPU with its draws; landmarks are moved, images and masks not yet.

        It gains ``draws``, and with a cut-out of landmarks ``hidden``, which :meth:`apply` takes.
        """
        found: Any = {**batch}
        height, width = batch["image"].shape[-2:]
        u = uniforms(self.seed, batch["index"].numpy(), 10)
        motion = self._motion(u, (height, width))
        steps = light_steps(1 + LIGHT * (2 * u[:, 7:] - 1), (6 * u[:, 6]).astype(np.int64))
        cut = u[:, 1] < (self.cutout.share if self.cutout is not None else 0)
        columns = [motion.sampling().reshape(-1, 6), steps.reshape(-1, 9), cut[:, None]]
        found["draws"] = torch.from_numpy(np.concatenate(columns, 1).astype(np.float32))
        if "landmarks" in batch:
            found["landmarks"] = motion.points(batch["landmarks"])
            if self.cutout is not None:
                hidden = torch.zeros(len(u), height, width, dtype=torch.uint8)
                covered = self.cutout.covered(found["landmarks"][cut], (height, width))
                hidden[torch.from_numpy(cut)] = (255 * covered).round().byte()
                found["hidden"] = hidden
        return found

    def _motion(self, u: NDArray[np.float64], size: tuple[int, int]) -> Motion:
        flip = (u[:, 0] < 0.5) & (self.recipe != "none")
        small = 2 * u[:, 2:6] - 1 if self.recipe == "full" else np.zeros((len(u), 4))
        shift = SHIFT * small[:, 1:3] * size[::-1]
        return Motion(size, flip, TURN * small[:, 0], 1 + SCALE * small[:, 3], shift)

    def apply(self, batch: Batch) -> Batch:
        """The batch with images and masks as its draws have them, without a wait for its device.

        Images are uint8 or floating in [0, 1], and keep their dtype. A batch without draws is
        returned as it is.
        """
        if "draws" not in batch:
            return batch
        found: Any = {**batch}
        draws, hidden = found.pop("draws"), found.pop("hidden", None)
        if not len(draws):
            return found
        sampling, light, cut = draws.split(_COLUMNS, 1)
        if self.recipe == "flip":
            flip = (sampling[:, 0] < 0)[:, None, None, None]
            for key in _pixels(batch):
                found[key] = torch.where(flip, found[key].flip(-1), found[key])
        elif self.recipe == "full":
            found |= _moved_and_lit(batch, sampling.view(-1, 2, 3), light.view(-1, 3, 3))
        if self.cutout is not None:
            image = found["image"]
            if hidden is None:
                covered = self.cutout.covered(found["masks"], image.shape[-2:])
                covered = covered * cut[:, :, None]
            else:
                covered = hidden.float() / 255
            found["image"] = hide(image, covered, self.cutout.fill)
        return found


def _pixels(batch: Batch) -> list[str]:
    """The keys of what has a value for each pixel."""
    return [key for key in ("image", "masks") if key in batch]


def _moved_and_lit(batch: Any, sampling: Tensor, light: Tensor) -> dict[str, Tensor]:
    keys, image = _pixels(batch), batch["image"]
    dtype = torch.promote_types(image.dtype, torch.float32)
    sampling, light = sampling.to(dtype), light.to(dtype)
    # One sampling of image and masks, so that they cannot part.
    together = torch.cat([batch[key] for key in keys], 1).to(dtype)
    parts = moved(together, sampling).split([batch[key].shape[1] for key in keys], 1)
    found = dict(zip(keys, parts, strict=True))
    found["image"] = lit(found["image"], light, 1 if image.is_floating_point() else 255)
    return {key: _as_before(found[key], batch[key].dtype) for key in keys}


def _as_before(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype) if dtype.is_floating_point else values.round_().to(dtype)
