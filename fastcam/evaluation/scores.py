"""Runs a classifier over a split and sums up accuracy and attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastcam._util import checks as check
from fastcam._util.modules import evaluating
from fastcam._util.progress import Count
from fastcam.data import CelebA, PreparedFaces
from fastcam.data.batches import Collate
from fastcam.data.celeba import attribute_index, attribute_subsets
from fastcam.evaluation.cam_maps import attention_maps, check_scores, energy_share, set_iou
from fastcam.evaluation.metrics import (
    average_precision,
    balanced_accuracy,
    judged_right,
    mean_accuracy,
)
from fastcam.evaluation.result import Evaluation, SubsetScore
from fastcam.evaluation.splits import prepare_split, prepared_for
from fastcam.models import Checkpoint, grid_size
from fastcam.regions import Region


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about N images, and where it looks for one attribute.

    logits, labels: [N, K]. energy, iou: [N] (energy NaN for a dead map). dead: bool [N]. visible:
    bool [N], images in which the region lies. The last four are None without a region.
    """

    logits: Tensor
    labels: Tensor
    energy: Tensor | None = None
    iou: Tensor | None = None
    dead: Tensor | None = None
    visible: Tensor | None = None


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
    cells = grid_size(model, spec.target_layer, size)
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


def summarize(
    predictions: Predictions,
    attributes: list[str],
    *,
    attribute: str,
    other: str | None = None,
    region: str | None = None,
    data: str = "",
    split: str = "test",
    threshold: float = 0.5,
) -> Evaluation:
    """Sum predictions up over the subsets of Yang et al..

    Args:
        predictions: of one classifier.
        attributes: names of the logits.
        attribute, other: a and b. Without b there are no E1 and E2.
        region, data, split, threshold: noted in the result.
    """
    a = attribute_index(attributes, attribute)
    labels, logits = predictions.labels, predictions.logits
    chosen = subset_rows(labels, attributes, attribute, other)
    right = judged_right(logits[:, a], labels[:, a])
    column = logits[:, a : a + 1], labels[:, a : a + 1]
    return Evaluation(
        attribute=attribute,
        other=other,
        region=region,
        data=data,
        split=split,
        threshold=threshold,
        subsets=tuple(_score(name, rows, right, predictions) for name, rows in chosen.items()),
        balanced_accuracy=_defined(balanced_accuracy(*column)),
        average_precision=_defined(average_precision(*column)),
        mean_accuracy=float(mean_accuracy(logits, labels)),
    )


def _defined(value: Tensor) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number


def subset_rows(
    labels: Tensor, attributes: list[str], attribute: str, other: str | None = None
) -> dict[str, Tensor]:
    """Rows of ``labels`` [N, K] by the name of the subset, see :class:`SubsetScore`."""
    a = attribute_index(attributes, attribute)
    everything = torch.arange(len(labels))
    positive = labels[:, a] > 0.5
    chosen = {"all": everything}
    if other is not None:
        parts = attribute_subsets(labels, a, attribute_index(attributes, other))
        chosen |= {"E1": parts.both, "E2": parts.only_a}
    return chosen | {"a": everything[positive], "not a": everything[~positive]}


def _score(name: str, rows: Tensor, right: Tensor, predictions: Predictions) -> SubsetScore:
    accuracy = float(right[rows].mean()) if len(rows) else None
    if predictions.dead is None or predictions.visible is None:
        return SubsetScore(name, len(rows), accuracy)
    assert predictions.energy is not None
    assert predictions.iou is not None
    seen = rows[predictions.visible[rows]]
    live = seen[~predictions.dead[seen]]
    return SubsetScore(
        name,
        len(rows),
        accuracy,
        energy=float(predictions.energy[live].mean()) if len(live) else None,
        iou=float(predictions.iou[seen].mean()) if len(seen) else None,
        dead=int(predictions.dead[seen].sum()),
    )


def evaluate(
    checkpoint: Checkpoint,
    data: str | Path,
    *,
    attribute: str,
    other: str | None = None,
    region: str | None = None,
    split: str = "test",
    threshold: float = 0.5,
    landmarks: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int = 2,
    progress: Count | None = None,
) -> Evaluation:
    """Evaluate a classifier on a split of a data folder.

    Args:
        checkpoint: the classifier.
        data: folder in the CelebA layout.
        attribute: a, whose accuracy and Grad-CAM are measured.
        other: b, for E1 = a∩b and E2 = a∩¬b.
        region: where the Grad-CAM of a should lie; None measures accuracy only.
        split: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``.
        landmarks: landmark table in place of the data folder's own.
        limit: only the first so many images.
        progress: called with (done, total).

    Raises:
        ValueError: an unknown name, a limit below 1, a threshold outside (0, 1), or data that do
            not fit the classifier.
        FileNotFoundError: data are missing.
    """
    check.fraction("threshold", threshold)
    attribute_index(checkpoint.attributes, attribute)
    if other is not None:
        attribute_index(checkpoint.attributes, other)
    faces = prepare_split(checkpoint, data, split, landmarks=landmarks, limit=limit, cache=False)
    predictions = predict(
        checkpoint,
        faces,
        attribute=attribute,
        region=region,
        threshold=threshold,
        batch_size=batch_size,
        device=device,
        workers=workers,
        progress=progress,
    )
    return summarize(
        predictions,
        checkpoint.attributes,
        attribute=attribute,
        other=other,
        region=region,
        data=str(data),
        split=split,
        threshold=threshold,
    )
