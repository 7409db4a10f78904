"""Images in which regions are hidden: a fixed sample of a data set, or the first batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from fastcam._util import checks as check
from fastcam.data import CelebA
from fastcam.data.batches import Batch, labels_of, loader, places_of, region_grids
from fastcam.data.labelled import AnyRegion
from fastcam.evaluation.given import check_batch, check_named, regions_at
from fastcam.evaluation.splits import Prepared, prepared_for
from fastcam.models import Checkpoint

#: Images [N, 3, S, S], grids of the regions [N, M, S, S], and labels [N, K].
Shown = tuple[Tensor, Tensor, Tensor]


def stratified_sample(labels: Tensor, count: int) -> Tensor:
    """The first ``count`` images of an order in which those with and without take turns.

    The order depends on the labels alone, so that a smaller sample is the beginning of a larger
    one, and every classifier is asked about the same images. Where one kind runs out, the other
    goes on alone.

    Args:
        labels: [N], above 0.5 where an image has the attribute.
        count: at least 1.

    Returns:
        int64 positions, ``min(count, N)`` of them.
    """
    check.at_least("images", count, 1)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    present = labels[order] > 0.5
    turn = torch.empty(len(order), dtype=torch.int64)
    turn[present] = 2 * torch.arange(int(present.sum()))
    turn[~present] = 2 * torch.arange(int((~present).sum())) + 1
    return order[turn.argsort()][:count]


def present_in(checkpoint: Checkpoint, attribute: str, labels: Tensor) -> Tensor:
    """Images [N] that have the attribute; their own class all have."""
    if attribute not in checkpoint.attributes:
        return torch.ones(len(labels), dtype=torch.bool)
    return labels[:, checkpoint.attributes.index(attribute)] > 0.5


class FixedSample:
    """Images of a data set in which regions are hidden: a fixed sample.

    guided: whether the first region is that which the score should rely on. names: of the regions,
    M of them. count: images. present: bool, images of the whole split that have the attribute.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        faces: CelebA | Prepared,
        attribute: str,
        region: str | AnyRegion | None,
        others: Sequence[str | AnyRegion] | None,
        images: int,
    ) -> None:
        self._faces = prepared_for(checkpoint, faces)
        wanted = [region] if region is not None else []
        wanted += [*(self._faces.parts if others is None else others)]
        for each in wanted:
            check_named(each)
        named = {
            str(r): r for r in (self._faces.region(r) if isinstance(r, str) else r for r in wanted)
        }
        if not named:
            raise ValueError("others: expected one region or more to hide, got none")
        self.guided, self.names, self._regions = region is not None, [*named], [*named.values()]
        self.present: Tensor | None = present_in(checkpoint, attribute, self._faces.labels)
        self._rows = stratified_sample(self.present.float(), images).tolist()
        self.count: int | None = len(self._rows)

    def batches(self, size: int, workers: int, extra: int) -> Iterator[Shown]:
        """Batches of ``size``, with ``extra`` more images at the end of each, which come next."""
        rows, count = self._rows, len(self._rows)
        order = [
            [*rows[i : i + size], *rows[min(i + size, count) % count :][:extra]]
            for i in range(0, count, size)
        ]
        pixels = (self._faces.size, self._faces.size)
        for batch in loader(self._faces, order, workers=workers):
            grids = region_grids(self._regions, places_of(batch), pixels, pixels)
            yield batch["image"], grids, batch["labels"]


class FirstBatches:
    """The same of batches, which have their regions with them: the first images that come."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        batches: Iterable[Batch],
        attribute: str,
        region: int | None,
        others: Sequence[int] | None,
        images: int,
    ) -> None:
        check.at_least("images", images, 1)
        wanted = [*([] if region is None else [region]), *(others or [])]
        if not wanted or not all(isinstance(r, int) and not isinstance(r, bool) for r in wanted):
            raise ValueError(
                "region, others: batches have their regions with them: expected one's position, or"
                f" several, got {wanted or None}"
            )
        self._columns = [*dict.fromkeys(wanted)]
        self.guided, self.names = region is not None, [str(c) for c in self._columns]
        self._given, self._images = batches, images
        self._checkpoint = checkpoint
        self.present: Tensor | None = None
        self.count: int | None = None

    def batches(self, size: int, workers: int, extra: int) -> Iterator[Shown]:
        """The batches as they come, with ``extra`` more images, the first of each, at its end."""
        left, of = self._images, self._checkpoint
        for batch in self._given:
            if left <= 0:
                return
            check_batch(batch, of, True, first=True)
            pixels = batch["image"]
            grids = regions_at(batch["regions"], self._columns, pixels.shape[-2:]).float()
            labels = labels_of(batch, len(of.attributes), of.exclusive)
            if extra and min(left, len(pixels)) == 1:
                raise ValueError("images: expected two or more to swap parts between, got one")
            found = [x[:left] for x in (pixels, grids, labels)]
            yield tuple(torch.cat([x, x[:extra]]) for x in found)  # type: ignore[misc]
            left -= len(pixels)
