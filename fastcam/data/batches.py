"""Batches: a resumable order of images, and the collation that draws the region grids."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from fastcam._util import checks as check
from fastcam._util.seeds import derive_seed
from fastcam.data.labelled import AnyRegion, Sample
from fastcam.regions import from_masks

if TYPE_CHECKING:
    from fastcam.data.augment import Augment

#: What regions are drawn from, by its key in samples and batches.
PLACES: tuple[Literal["landmarks", "masks"], ...] = ("landmarks", "masks")


class Batch(TypedDict, total=False):
    """N images; a data loader of your own gives ``image``, ``labels`` and ``regions``.

    image: [N, 3, H, W], uint8; or floating, which is taken for normalised.
    labels: float32 [N, K], 0 or 1; int64 [N] for classes, of which each image has one.
    landmarks: float32 [N, 68, 2]; of faces.
    masks: uint8 [N, R, H, W]; of other data.
    index: int64 [N].
    regions: float32 [N, T, h, w], the share of each cell that region t covers; on the grid of the
        guided layer or finer, up to masks of the images' size. Only with regions.
    draws, hidden: of a batch that is not augmented yet, see :meth:`fastcam.data.Augment.draw`.
    """

    image: Tensor
    labels: Tensor
    landmarks: Tensor
    masks: Tensor
    index: Tensor
    regions: Tensor
    draws: Tensor
    hidden: Tensor


class Collate:
    """Stack samples, and draw the region grids from landmarks or masks as augmentation leaves them.

    With ``augment`` a batch is done only after :meth:`finish`, on the device of the network.

    Args:
        regions: the regions to draw, T of them; none leaves ``regions`` out of the batch.
        grid_size: (h, w) of the target layer.
        mode: ``"coverage"`` or ``"binary"``, see :meth:`fastcam.regions.Region.grid`.
        augment: the augmentation.
    """

    def __init__(
        self,
        regions: Sequence[AnyRegion] = (),
        grid_size: tuple[int, int] | None = None,
        mode: str = "coverage",
        augment: Augment | None = None,
    ) -> None:
        if regions and grid_size is None:
            raise ValueError("grid_size: expected (h, w), to draw regions, got None")
        self.regions, self.grid_size, self.mode = tuple(regions), grid_size or (1, 1), mode
        self.augment = augment

    def seeded(self, seed: int) -> Collate:
        """The same with another seed of the augmentation."""
        other = copy.copy(self)
        other.augment = self.augment and replace(self.augment, seed=seed)
        return other

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        batch: Batch = {
            "image": torch.stack([s["image"].as_subclass(torch.Tensor) for s in samples]),
            "labels": torch.stack([s["labels"] for s in samples]),
            "index": torch.tensor([s["index"] for s in samples]),
        }
        for key in PLACES:
            if key in samples[0]:
                batch[key] = torch.stack([s[key].as_subclass(torch.Tensor) for s in samples])
        if self.augment is not None:
            batch = self.augment.draw(batch)
        # Masks have yet to move with their images.
        return batch if "draws" in batch and "masks" in batch else self._with_regions(batch)

    def finish(self, batch: Batch) -> Batch:
        """A batch on its device as augmentation leaves it; one without draws as it is."""
        if self.augment is None or "draws" not in batch:
            return batch
        batch = self.augment.apply(batch)
        return self._with_regions(batch) if "masks" in batch else batch

    def _with_regions(self, batch: Batch) -> Batch:
        if self.regions:
            height, width = batch["image"].shape[-2:]
            batch["regions"] = region_grids(
                self.regions, places_of(batch), (height, width), self.grid_size, self.mode
            )
        return batch


class Readable(Protocol):
    """Images that a :func:`loader` reads; ``cached`` where that takes no processes of its own."""

    @property
    def cached(self) -> bool: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def loader(
    images: Readable,
    batches: int | Iterable[list[int]],
    collate: Collate | None = None,
    workers: int = 0,
) -> DataLoader[Batch]:
    """The images in batches.

    Args:
        images: a prepared split.
        batches: how many images a batch has, in order; or the indices of each. A batch of none is
            an empty one, of the other batches' shapes.
        collate: makes the samples a batch; None leaves regions out.
        workers: processes that read images which are not decoded yet.
    """
    data: Any = images  # its samples become batches in the collation
    order: dict[str, Any] = {"batch_sampler": batches}
    if isinstance(batches, int):
        order = {"batch_size": batches}
    return DataLoader(
        data,
        **order,
        collate_fn=partial(_collated, collate or Collate(), images),
        num_workers=0 if images.cached else workers,
    )


def _collated(collate: Collate, images: Readable, samples: Sequence[Sample]) -> Batch:
    batch: Any = collate(samples or [images[0]])
    return batch if samples else Batch(**{key: value[:0] for key, value in batch.items()})


def labels_of(batch: Batch, classes: int, exclusive: bool) -> Tensor:
    """The labels of a batch as 0 and 1: float32 [N, K], of classes from int64 [N], too.

    Raises:
        ValueError: another shape; the message says which was expected.
    """
    labels = batch["labels"]
    if exclusive and labels.dim() == 1 and not labels.is_floating_point():
        labels = torch.nn.functional.one_hot(labels.long(), classes)
    if labels.dim() != 2 or labels.shape[1] != classes:
        forms = f"[N,{classes}] of 0 and 1" + (" or int64 [N]" if exclusive else "")
        raise ValueError(f"labels: expected {forms}, got {labels.dtype} {list(labels.shape)}")
    return labels.to(torch.float32)


def on_grid(regions: Tensor, grid_size: tuple[int, ...]) -> Tensor:
    """The regions of a batch on a grid: float32 [N, T, h, w].

    Regions [N, H, W] stand for T = 1. Those of another size (masks at the images' resolution, a
    finer grid) give each cell the share that they cover, see :func:`fastcam.regions.from_masks`.

    Raises:
        TypeError, ValueError: they are no masks or shares.
    """
    regions = regions.unsqueeze(1) if regions.dim() == 3 else regions
    if tuple(regions.shape[-2:]) == tuple(grid_size) and regions.is_floating_point():
        return regions
    return from_masks(regions, (grid_size[0], grid_size[1]))


def places_of(batch: Batch) -> Tensor:
    """What the regions of a batch are drawn from: its landmarks or its masks."""
    return next(batch[key] for key in PLACES if key in batch)


def region_grids(
    regions: Sequence[AnyRegion],
    places: Tensor,
    image_size: tuple[int, int],
    grid_size: tuple[int, int],
    mode: str = "coverage",
) -> Tensor:
    """Grids of T regions: float32 [N, T, h, w] from :func:`places_of` N images.

    Landmarks have to be on the CPU; masks may be on any device, and are not waited for.
    """
    how = cast(Literal["coverage", "binary"], mode)
    if places.dim() == 4:
        of_masks: Any = regions
        return torch.stack([r.grid(places, image_size, grid_size, how) for r in of_masks], 1)
    found = places.numpy()
    grids = [region.grid(found, image_size, grid_size, how) for region in regions]
    return torch.from_numpy(np.stack(grids, axis=1))


class EpochBatches(Sampler[list[int]]):
    """Index batches of one epoch, in an order that depends on seed and epoch alone.

    Args:
        length: number of images.
        batch_size: images per batch; the last batch may be smaller.
        seed, epoch: together they fix the order; a seed of None leaves it as it is.
        start: batches to leave out at the front, because a killed run has seen them.
        share: (rank, count) of this process: each takes every ``count``-th image of a batch, so
            that all together have the batch of one. A share may be smaller than another, or empty.

    ``len`` is that of the whole epoch, as a resuming trainer expects.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int | None,
        epoch: int = 0,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        check.at_least("batch_size", batch_size, 1)
        self.length, self.batch_size = length, batch_size
        self.seed, self.epoch, self.start, self.share = seed, epoch, start, share

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order: Any = list(range(self.length))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
        rank, count = self.share
        for batch in range(self.start, len(self)):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield whole[rank::count]
