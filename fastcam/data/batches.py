"""Batches: a resumable order of images, and the collation that draws the region grids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from fastcam._util import checks as check
from fastcam._util.seeds import derive_seed
from fastcam.data.celeba import Sample
from fastcam.regions import Region


class Batch(TypedDict, total=False):
    """N faces.

    image: uint8 [N, 3, H, W].
    labels: float32 [N, K].
    landmarks: float32 [N, 68, 2].
    index: int64 [N].
    regions: float32 [N, T, h, w], the share of each cell that region t covers; only with regions.
    """

    image: Tensor
    labels: Tensor
    landmarks: Tensor
    index: Tensor
    regions: Tensor


class Collate:
    """Stack samples, and draw the region grids from the landmarks as they lie after augmentation.

    Args:
        regions: the regions to draw, T of them; none leaves ``regions`` out of the batch.
        grid_size: (h, w) of the target layer.
        mode: ``"coverage"`` or ``"binary"``, see :meth:`fastcam.regions.Region.grid`.
    """

    def __init__(
        self,
        regions: Sequence[Region] = (),
        grid_size: tuple[int, int] | None = None,
        mode: str = "coverage",
    ) -> None:
        if regions and grid_size is None:
            raise ValueError("grid_size: expected (h, w), to draw regions, got None")
        self.regions, self.grid_size, self.mode = tuple(regions), grid_size or (1, 1), mode

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        batch: Batch = {
            "image": torch.stack([s["image"].as_subclass(torch.Tensor) for s in samples]),
            "labels": torch.stack([s["labels"] for s in samples]),
            "landmarks": torch.stack([s["landmarks"].as_subclass(torch.Tensor) for s in samples]),
            "index": torch.tensor([s["index"] for s in samples]),
        }
        if self.regions:
            height, width = batch["image"].shape[-2:]
            batch["regions"] = region_grids(
                self.regions, batch["landmarks"], (height, width), self.grid_size, self.mode
            )
        return batch


def region_grids(
    regions: Sequence[Region],
    landmarks: Tensor,
    image_size: tuple[int, int],
    grid_size: tuple[int, int],
    mode: str = "coverage",
) -> Tensor:
    """Grids of T regions: float32 [N, T, h, w] from ``landmarks`` [N, 68, 2] in pixels."""
    points = landmarks.numpy()
    grids = [
        region.grid(points, image_size, grid_size, cast(Literal["coverage", "binary"], mode))
        for region in regions
    ]
    return torch.from_numpy(np.stack(grids, axis=1))


class EpochBatches(Sampler[list[int]]):
    """Index batches of one epoch, in an order that depends on seed and epoch alone.

    Args:
        length: number of images.
        batch_size: images per batch; the last batch may be smaller.
        seed, epoch: together they fix the order.
        start: batches to leave out at the front, because a killed run has seen them.

    ``len`` is that of the whole epoch, as a resuming trainer expects.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, epoch: int, start: int = 0
    ) -> None:
        check.at_least("batch_size", batch_size, 1)
        self.length, self.batch_size = length, batch_size
        self.seed, self.epoch, self.start = seed, epoch, start

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order: Any = torch.randperm(self.length, generator=generator).tolist()
        for batch in range(self.start, len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]
