"""Runs a classifier over images, and draws its Grad-CAM of one attribute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastcam._util.modules import evaluating
from fastcam._util.progress import Count
from fastcam.data import CelebA
from fastcam.data.batches import Batch, Collate, loader
from fastcam.data.labelled import AnyRegion, attribute_index
from fastcam.evaluation.cam_maps import (
    attention_iou,
    attention_maps,
    check_scores,
    energy_share,
    peak_in_region,
    set_iou,
    size_corrected_energy,
)
from fastcam.evaluation.classes import judged_columns, odds_columns, targets_of
from fastcam.evaluation.given import check_batch, check_named, regions_at
from fastcam.evaluation.splits import Prepared, inputs_of, prepared_for
from fastcam.models import Checkpoint, grid_size

#: Where a region is looked for in batches of one's own: its text has no meaning there.
_PLACE = "region: batches have their regions with them: expected None or one's position, got {!r}"


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about N images, and where it looks for one attribute.

    logits, labels: [N, K], of what :attr:`fastcam.models.Checkpoint.judged` names; a logit above 0
    says yes. energy, iou: [N] (energy NaN for a dead map). dead: bool [N]. visible: bool [N],
    images in which the region lies. size_corrected_energy (NaN as energy), pointing, attention_iou:
    [N]. All but the first two are None without a region. exclusive: the attributes are classes, see
    :func:`fastcam.evaluation.classes.judged_columns`. odds: [N, K], of classes the log-odds, which
    rank images as the probabilities do; None: the logits are that.
    """

    logits: Tensor
    labels: Tensor
    energy: Tensor | None = None
    iou: Tensor | None = None
    dead: Tensor | None = None
    visible: Tensor | None = None
    size_corrected_energy: Tensor | None = None
    pointing: Tensor | None = None
    attention_iou: Tensor | None = None
    exclusive: bool = False
    odds: Tensor | None = None

    @property
    def ranking(self) -> Tensor:
        """By what images are ranked, [N, K]: σ of it is the probability."""
        return self.logits if self.odds is None else self.odds


def predict(
    checkpoint: Checkpoint,
    faces: CelebA | Prepared | Iterable[Batch],
    *,
    attribute: str,
    region: str | AnyRegion | int | None = None,
    threshold: float = 0.5,
    grid: str = "coverage",
    batch_size: int = 64,
    device: str | torch.device | None = None,
    workers: int = 2,
    progress: Count | None = None,
) -> Predictions:
    """Run a classifier over images.

    Args:
        checkpoint: the classifier.
        faces: images with labels, which must have the classifier's input size; or any iterable of
            :class:`fastcam.data.batches.Batch`.
        attribute: whose Grad-CAM is drawn; of classes also ``own_class``, that of each image.
        region: where it is measured, of batches its position among their regions; None draws no
            maps.
        threshold: of the Grad-CAM set.
        grid: ``"coverage"`` or ``"binary"``, see :meth:`fastcam.regions.Region.grid`.
        batch_size: images in one forward.
        device: where the classifier runs; None: where it is.
        workers: processes that decode images which are not in memory.
        progress: called with (done, total); of batches the total is not known, and stands at done.

    Raises:
        ValueError: an unknown attribute or region, attributes that are not the classifier's, labels
            beyond [0, 1] or NaN, or scores that are not finite.
        TypeError: of images with labels a region's position; of batches one that is no dict of
            tensors, or lacks one.
    """
    attribute_index(checkpoint.judged, attribute, "the checkpoint judges")
    batches, total = _batches(checkpoint, faces, region, grid, batch_size, workers)
    column = region if isinstance(region, int) else 0
    model, spec = checkpoint.model, checkpoint.spec
    parts: list[tuple[Tensor, ...]] = []
    done = 0
    with evaluating(model, device) as device:
        for batch in batches:
            check_batch(batch, checkpoint, region is not None, first=True)
            images, labels = inputs_of(checkpoint, batch, device)
            if region is None:
                with torch.no_grad():
                    parts.append((model(images).cpu(), labels))
            else:
                target = targets_of(checkpoint, [attribute], labels)
                maps = attention_maps(model, images, target, spec, checkpoint.scores)
                regions = regions_at(batch["regions"], [column], maps.cams.shape[-2:]).to(device)
                measures = (
                    energy_share(maps.cams, regions),
                    set_iou(maps.cams, regions, threshold),
                    maps.dead,
                    regions.flatten(2).any(-1),
                    size_corrected_energy(maps.cams, regions),
                    peak_in_region(maps.cams, regions),
                    attention_iou(maps.cams, regions),
                )
                one_target = [m[:, 0].cpu() for m in measures]
                parts.append((maps.logits.cpu(), labels, *one_target))
            done += len(images)
            if progress is not None:
                progress(done, total or done)
    if not parts:
        raise ValueError("there are no images to evaluate")
    columns: Any = [torch.cat(column) for column in zip(*parts, strict=True)]
    found = Predictions(*columns)
    check_scores(found.logits)
    logits, labels = judged_columns(checkpoint, found.logits, found.labels)
    odds = odds_columns(checkpoint, found.logits, found.labels)
    return replace(found, logits=logits, labels=labels, exclusive=checkpoint.exclusive, odds=odds)


def _batches(
    checkpoint: Checkpoint,
    faces: CelebA | Prepared | Iterable[Batch],
    region: str | AnyRegion | int | None,
    grid: str,
    batch_size: int,
    workers: int,
) -> tuple[Iterable[Batch], int | None]:
    """The images in batches, with the region drawn; and how many there are, where that is known."""
    if not isinstance(faces, CelebA | Prepared):
        if not (region is None or isinstance(region, int)) or isinstance(region, bool):
            raise ValueError(_PLACE.format(str(region)))
        return faces, None
    check_named(region)
    images = prepared_for(checkpoint, faces)
    collate = Collate()
    if region is not None:
        chosen = images.region(region) if isinstance(region, str) else region
        side = checkpoint.preprocessing.size
        cells = grid_size(checkpoint.model, checkpoint.spec, (side, side))
        collate = Collate([chosen], cells, grid)  # type: ignore[list-item]
    return loader(images, batch_size, collate, workers), len(images)
