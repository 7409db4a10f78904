"""Segmentation masks as grids: any field's regions, not only a face's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Masks = TypeVar("Masks", "torch.Tensor", "NDArray[Any]")


def from_masks(masks: Masks, size: int | Sequence[int]) -> Masks:
    """Masks at image resolution as the grid that the losses take.

    Each cell holds the exact share of its area that the mask covers, also where the cells' borders
    cut through pixels (224 pixels on 13 cells): no area is lost or counted twice.
    For boxes see :func:`fastcam.regions.grids`.

    Args:
        masks: [N, h, w] or [N, T, h, w], a torch tensor on any device or a numpy array: bool, or
            numbers in [0, 1]. A label map gives one mask a label: ``labels == 3``.
        size: (H, W) of the grid, or one number for both: the target layer's height and width.

    Returns:
        float32 [N, H, W] or [N, T, H, W] in [0, 1], of the masks' kind and on their device.

    Raises:
        TypeError: no array or tensor, or a size that is no whole number.
        ValueError: another shape, no pixels, or values beyond [0, 1] (NaN included).
    """
    rows, cols = _size(size)
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    if torch is not None and isinstance(masks, torch.Tensor):
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
        )
    if 0 not in values.shape:
        least, most = float(values.min()), float(values.max())
        if not (least >= 0 and most <= 1):
            raise ValueError(
                f"masks: expected values in [0, 1], got {least:g} to {most:g} (of a label map give "
                "one mask a label, as labels == 3; divide a mask of 0 to 255 by 255)"
            )
    height, width = values.shape[-2:]
    down: Any = _shares(height, rows)
    across: Any = _shares(width, cols).T
    if torch is not None and isinstance(values, torch.Tensor):
        down, across = (torch.from_numpy(m.copy()).to(values.device) for m in (down, across))
        return (down @ values @ across).clamp(0, 1)
    return np.clip(down @ values @ across, 0, 1)


def _shares(pixels: int, cells: int) -> NDArray[np.float32]:
    """[cells, pixels]: the share of each cell's length that each pixel fills."""
    borders = np.linspace(0, pixels, cells + 1)[:, None]
    pixel = np.arange(pixels)[None, :]
    low, high = np.maximum(borders[:-1], pixel), np.minimum(borders[1:], pixel + 1)
    return (np.maximum(high - low, 0) * cells / pixels).astype(np.float32)


def _size(size: int | Sequence[int]) -> tuple[int, int]:
    pair = [size, size] if isinstance(size, (int, np.integer)) else list(size)
    if len(pair) != 2 or not all(
        isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in pair
    ):
        raise TypeError(f"size: expected a whole number or two (H, W), got {size!r}")
    if min(pair) < 1:
        raise ValueError(f"size: expected H, W >= 1, got {size!r}")
    return int(pair[0]), int(pair[1])
