"""Runs a classifier over images, and draws its Grad-CAM of one attribute."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastcam._util.modules import evaluating
from fastcam._util.progress import Count
from fastcam.data import CelebA, PreparedFaces
from fastcam.data.batches import Collate
from fastcam.data.celeba import attribute_index
from fastcam.evaluation.cam_maps import (
    attention_iou,
    attention_maps,
    check_scores,
    energy_share,
    peak_in_region,
    set_iou,
    size_corrected_energy,
)
from fastcam.evaluation.splits import prepared_for
from fastcam.models import Checkpoint, grid_size
from fastcam.regions import Region


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about N images, and where it looks for one attribute.

    logits, labels: [N, K]. energy, iou: [N] (energy NaN for a dead map). dead: bool [N]. visible:
    bool [N], images in which the region lies. size_corrected_energy (NaN as energy), pointing,
    attention_iou: [N]. All but the first two are None without a region.
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


def predict(
    checkpoint: Checkpoint,
    faces: CelebA | PreparedFaces,
    *,
    attribute: str,
    region: str | Region | None = None,
    threshold: float = 0.5,
    grid: str = "coverage",
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int = 2,
    progress: Count | None = None,
) -> Predictions:
    """Run a classifier over images.

    Args:
        checkpoint: the classifier.
        faces: images with labels; a :class:`PreparedFaces` must have the classifier's input size.
        attribute: whose Grad-CAM is drawn.
        region: where it is measured; None draws no maps.
        threshold: of the Grad-CAM set.
        grid: ``"coverage"`` or ``"binary"``, see :meth:`fastcam.regions.Region.grid`.
        progress: called with (done, total).

    Raises:
        ValueError: an unknown attribute or region, attributes that are not the classifier's, or
            scores that are not finite.
    """
    target = attribute_index(checkpoint.attributes, attribute)
    chosen = Region.parse(region) if isinstance(region, str) else region
    faces = prepared_for(checkpoint, faces)
    preprocessing, spec = checkpoint.preprocessing, checkpoint.spec
    model = checkpoint.model
    size = (preprocessing.size, preprocessing.size)
    cells = grid_size(model, spec, size)
    loader = DataLoader(
        faces,
        batch_size=batch_size,
        num_workers=0 if faces.cached else workers,
        collate_fn=Collate([chosen], cells, grid) if chosen is not None else Collate(),
    )
    parts: list[tuple[Tensor, ...]] = []
    done = 0
    with evaluating(model, device):
        for batch in loader:
            images = preprocessing.normalize(batch["image"].to(device))
            if chosen is None:
                with torch.no_grad():
                    parts.append((model(images).cpu(), batch["labels"]))
            else:
                maps = attention_maps(model, images, [target], spec)
                regions = batch["regions"].to(device)
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
                parts.append((maps.logits.cpu(), batch["labels"], *one_target))
            done += len(images)
            if progress is not None:
                progress(done, len(faces))
    if not parts:
        raise ValueError("there are no images to evaluate")
    predictions = Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))
    check_scores(predictions.logits)
    return predictions
