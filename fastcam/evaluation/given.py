"""What an evaluation is given: a device and checkpoints by name; scores, labels and regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastcam.data.batches import on_grid


def pick_device(name: str) -> torch.device:
    """``"auto"`` is the GPU where there is one, else the CPU; any other name is torch's own."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is not available: this torch sees no GPU")
    return device


def name_checkpoints(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """Paths by their folder's name, or by all of the path where folders repeat."""
    folders = [Path(p).resolve().parent.name for p in paths]
    unique = len(set(folders)) == len(folders)
    return {(f if unique else str(p)): p for f, p in zip(folders, paths, strict=True)}


def check_labels(labels: Tensor) -> None:
    """Refuse labels that say neither present nor absent: NaN would count as absent.

    Raises:
        ValueError: labels beyond [0, 1], or NaN; shares between are soft labels.
    """
    bad = labels[~((labels >= 0) & (labels <= 1))]
    if len(bad):
        raise ValueError(
            f"labels: expected 0 or 1, got {float(bad[0]):g} ({len(bad)} of {labels.numel()} are"
            " neither)"
        )


def check_named(region: object) -> None:
    """TypeError for a position in place of a region, which only batches have."""
    if isinstance(region, int):
        raise TypeError(f"region: expected text or a region, of batches a position, got {region!r}")


def regions_at(regions: Tensor, columns: Sequence[int], cells: Sequence[int]) -> Tensor:
    """Those of a batch's regions that are meant, on a grid: [N, len(columns), h, w].

    Args:
        regions: see :class:`fastcam.data.batches.Batch`.
        columns: positions of regions.
        cells: (h, w).

    Raises:
        ValueError: a position that there is not.
        TypeError, ValueError: as :func:`fastcam.data.batches.on_grid`.
    """
    found = on_grid(regions, tuple(cells))
    for column in columns:
        if not 0 <= column < found.shape[1]:
            raise ValueError(
                f"region: expected a position in [0, {found.shape[1] - 1}] of the batches'"
                f" {found.shape[1]} regions, got {column}"
            )
    return found[:, list(columns)]


def judged_right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where a logit is on the right side (above 0: present), else 0: float32.

    Args:
        logits, labels: of shapes that broadcast; a label above 0.5 means present.
    """
    return ((logits > 0) == (labels > 0.5)).float()
