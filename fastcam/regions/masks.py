"""Segmentation masks as grids: any field's regions, not only a face's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastcam._util import checks as check
from fastcam._util.names import did_you_mean
from fastcam.regions.region import REGION_NAMES

if TYPE_CHECKING:
    import torch

# As kSliver of csrc/regions/grid.h: a cell of which less is covered is not, so that a region drawn
# as a mask and as rectangles gives the same binary grid.
_SLIVER = 1e-6
# What resizing a mask may leave beyond [0, 1]: as of the losses' regions (fastcam.ops.checks).
_ROUNDING = 1e-3

Masks = TypeVar("Masks", "torch.Tensor", "NDArray[Any]")


def from_masks(masks: Masks, size: int | Sequence[int]) -> Masks:
    """Masks at image resolution as the grid that the losses take.

    Each cell holds the exact share of its area that the mask covers, also where the cells' borders
    cut through pixels (224 pixels on 13 cells): no area is lost or counted twice.
    For boxes see :func:`fastcam.regions.grids`.

    Args:
        masks: [N, h, w] or [N, T, h, w], a torch tensor on any device or a numpy array: bool, or
            numbers in [0, 1] (what resizing leaves beyond, up to 0.001, counts as 0 or 1). A label
            map gives one mask a label: ``labels == 3``.
        size: (H, W) of the grid, or one number for both: the target layer's height and width.

    Returns:
        float32 [N, H, W] or [N, T, H, W] in [0, 1], of the masks' kind and on their device.

    Raises:
        TypeError: no array or tensor, or a size that is no whole number.
        ValueError: another shape, no pixels, or values further beyond [0, 1] (NaN included).
    """
    rows, cols = _size(size)
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    if torch is not None and isinstance(masks, torch.Tensor):
        if masks.layout != torch.strided or masks.is_complex():
            raise TypeError(
                f"masks: expected a dense tensor of bool or real numbers, got {masks.dtype}, "
                f"layout {masks.layout}"
            )
        values = masks.detach().to(torch.float32)
    elif isinstance(masks, np.ndarray) and masks.dtype.kind in "biuf":
        values = masks.astype(np.float32)
    else:
        raise TypeError(
            "masks: expected a torch.Tensor or a numpy array of bool or numbers, got "
            f"{masks.dtype if isinstance(masks, np.ndarray) else type(masks).__name__}"
        )
    if values.ndim not in (3, 4) or 0 in values.shape[-2:]:
        raise ValueError(
            f"masks: expected shape [N,h,w] or [N,T,h,w] with h, w >= 1, got {list(values.shape)}"
            + (" (of one image: mask[None])" if values.ndim == 2 else "")
        )
    shape_alone = not isinstance(values, np.ndarray) and values.is_meta
    if 0 not in values.shape and not shape_alone:
        least, most = float(values.min()), float(values.max())
        if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
            raise ValueError(
                f"masks: expected values in [0, 1], got {least:g} to {most:g} (of a label map give "
                "one mask a label, as labels == 3; divide a mask of 0 to 255 by 255)"
            )
        if least < 0 or most > 1:
            values = values.clip(0, 1)
    return _on_cells(values, rows, cols)


def _names_in(text: str, known: Sequence[str]) -> Iterator[str]:
    """The names of a text with commas between: at each place the longest that is known."""
    parts = text.split(",")
    while parts:
        ends = range(len(parts), 0, -1)
        here = ((end, ",".join(parts[:end]).strip()) for end in ends)
        end, name = next((found for found in here if found[1] in known), (1, parts[0].strip()))
        yield name
        parts = parts[end:]


@dataclass(frozen=True)
class MaskRegion:
    """One of a data set's masks, or several as one region: what :class:`Region` is for faces.

    Attributes:
        names: of the masks.
        channels: which of a sample's masks they are.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]

    @classmethod
    def parse(cls, text: str, known: Sequence[str]) -> MaskRegion:
        """Read a region from text: names of masks with commas between.

        Args:
            text: for example ``"wing"`` or ``"wing,beak"``. A name that is known is one, commas
                in it or not.
            known: names of a sample's masks, in their order.

        Raises:
            TypeError: not a string, or names that are no sequence.
            ValueError: no name, or an unknown one; the message lists those that there are.
        """
        if not isinstance(text, str):
            raise TypeError(f"region: expected text such as 'wing', got {type(text).__name__}")
        if not isinstance(known, Sequence):
            raise TypeError(f"known: expected a sequence of names, got {type(known).__name__}")
        if not all(isinstance(name, str) for name in known):
            raise TypeError(f"known: expected names, got {known!r}")
        names = tuple(dict.fromkeys(_names_in(text, known)))
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known)
                listed = f"it has: {', '.join(known)}" if known else "it has none"
                if name in REGION_NAMES:
                    listed += "; parts of faces are regions of data in CelebA's layout alone"
                raise ValueError(f"this data has no region {name!r}{hint}; {listed}")
        return cls(names, tuple(known.index(name) for name in names))

    def __str__(self) -> str:
        return ",".join(self.names)

    def grid(
        self,
        masks: Masks,
        image_size: tuple[float, float],
        grid_size: tuple[int, int],
        mode: Literal["coverage", "binary"] = "coverage",
    ) -> Masks:
        """The region as a grid for each image; see :func:`from_masks`. Does not wait for a GPU.

        Args:
            masks: uint8 [N, R, h, w], every mask of the images: 255 where it covers a pixel; a
                numpy array, or a tensor on any device.
            image_size: (height, width) of the images, which the masks have, too.
            grid_size: (H, W), for example the target layer's height and width.
            mode: ``"coverage"``; or ``"binary"``, 1 where more than a millionth of the cell is
                covered, else 0, as :func:`fastcam.regions.grids` has it.

        Returns:
            float32 [N, H, W] in [0, 1], of the masks' kind; all zero where they are.

        Raises:
            TypeError, ValueError: masks of another dtype or shape, or without one of the region's
                channels; no such size or mode.
        """
        check.one_of("mode", mode, ("coverage", "binary"))
        rows, cols = _size(grid_size, "grid_size")
        self._check(masks)
        # One by one: a list of channels would be copied to the device, which waits for it.
        parts: Any = [masks[:, channel] for channel in self.channels]
        if isinstance(masks, np.ndarray):
            union = np.stack(parts).max(0).astype(np.float32) / np.float32(255)
        else:
            union = sys.modules["torch"].stack(parts).amax(0).float() / 255
        covered = _on_cells(union, rows, cols)
        if mode == "coverage":
            return covered
        binary: Any = covered > _SLIVER
        return binary.astype(np.float32) if isinstance(masks, np.ndarray) else binary.float()

    def _check(self, masks: Any) -> None:
        """TypeError or ValueError for masks that are no uint8 [N,R,h,w] with all channels."""
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(masks, torch.Tensor):
            fits = masks.dtype == torch.uint8 and masks.layout == torch.strided
        else:
            fits = isinstance(masks, np.ndarray) and masks.dtype == np.uint8
        if not fits:
            got = getattr(masks, "dtype", type(masks).__name__)
            raise TypeError(f"masks: expected a uint8 array or dense tensor, got {got}")
        if masks.ndim != 4 or 0 in masks.shape[-2:]:
            raise ValueError(
                f"masks: expected shape [N,R,h,w] with h, w >= 1, got {list(masks.shape)}"
            )
        most = masks.shape[1]
        if not self.channels or not all(0 <= channel < most for channel in self.channels):
            raise ValueError(
                f"channels: expected one or more of the {most} masks, got {self.channels}"
            )


def _on_cells(values: Any, rows: int, cols: int) -> Any:
    """Shares float32 [..., h, w] on a grid [..., rows, cols], by exact area."""
    height, width = values.shape[-2:]
    if (height, width) == (rows, cols):
        return values.clip(0, 1)
    if isinstance(values, np.ndarray):
        return (_shares(height, rows) @ values @ _shares(width, cols).T).clip(0, 1)
    import torch

    device = values.device
    down, across = (_shares_on(device, *s) for s in ((height, rows), (width, cols)))
    # Autocast would make shares of the masks that are half as precise; of "meta" it knows nothing.
    plain = nullcontext() if values.is_meta else torch.autocast(device.type, enabled=False)
    with plain:
        return (down @ values @ across.T).clip(0, 1)


@lru_cache(maxsize=64)  # so that a training step copies nothing to its device for them
def _shares_on(device: torch.device, pixels: int, cells: int) -> torch.Tensor:
    import torch

    with torch.inference_mode(False):
        return torch.from_numpy(_shares(pixels, cells)).to(device)


def _shares(pixels: int, cells: int) -> NDArray[np.float32]:
    """[cells, pixels]: the share of each cell's length that each pixel fills."""
    # In units in which all borders are whole, so that none is rounded into a neighbour.
    cell, pixel = np.arange(cells)[:, None] * pixels, np.arange(pixels)[None, :] * cells
    low, high = np.maximum(cell, pixel), np.minimum(cell + pixels, pixel + cells)
    return (np.maximum(high - low, 0) / pixels).astype(np.float32)


def _size(size: int | Sequence[int], name: str = "size") -> tuple[int, int]:
    try:
        pair = [size, size] if isinstance(size, (int, np.integer)) else list(size)
    except TypeError:
        pair = []
    if len(pair) != 2 or not all(
        isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in pair
    ):
        raise TypeError(f"{name}: expected a whole number or two (H, W), got {size!r}")
    if min(pair) < 1:
        raise ValueError(f"{name}: expected H, W >= 1, got {size!r}")
    return int(pair[0]), int(pair[1])
