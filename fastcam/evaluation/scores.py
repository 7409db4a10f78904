"""Sums a classifier's predictions up: accuracy, attention, and what needs no threshold."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastcam._util import checks as check
from fastcam._util.progress import Count
from fastcam.data import DataFolder, FaceFolder, MaskedFolder, open_folder
from fastcam.data.batches import Batch
from fastcam.data.labelled import attribute_index, attribute_pair, attribute_subsets
from fastcam.evaluation.given import judged_right
from fastcam.evaluation.metrics import (
    auc,
    average_precision,
    balanced_accuracy,
    calibration_error,
    mean_accuracy,
)
from fastcam.evaluation.predictions import Predictions, predict
from fastcam.evaluation.result import Evaluation, SubsetScore
from fastcam.evaluation.splits import check_other, labels_with, prepare_split
from fastcam.models import Checkpoint

#: The four cells of (a, b), by their names.
CELLS = ("E1", "E2", "not a, b", "not a, not b")


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
        predictions: of one classifier; of a label that it does not judge the last column of labels
            may be.
        attributes: names of the logits, see :attr:`fastcam.models.Checkpoint.judged`, and of that.
        attribute, other: a and b. Without b there are no E1 and E2.
        region, data, split, threshold: noted in the result.

    Warns:
        UserWarning: no image shows the region, so that nothing is measured of it.
    """
    if region is not None and predictions.visible is not None and not predictions.visible.any():
        warnings.warn(
            f"none of the {len(predictions.labels)} images shows the region {region}: what lies"
            " in it and what relies on it is not measured",
            stacklevel=3,
        )
    a = attribute_index(attributes, attribute)
    labels, logits = predictions.labels, predictions.logits
    chosen = subset_rows(labels, attributes, attribute, other)
    right = judged_right(logits[:, a], labels[:, a])
    column = logits[:, a : a + 1], labels[:, a : a + 1]
    ranking = predictions.ranking[:, a : a + 1], column[1]
    scores = [_score(name, rows, right, predictions) for name, rows in chosen.items()]
    cells = [s.accuracy for s in scores if s.name in CELLS and s.accuracy is not None]
    if other is not None:
        chosen |= _halves(labels, attributes, other)
        scores += [_score(name, chosen[name], right, predictions) for name in ("b", "not b")]
    ranked = {"all", "b", "not b"}
    return Evaluation(
        attribute=attribute,
        other=other,
        region=region,
        data=data,
        split=split,
        threshold=threshold,
        subsets=tuple(
            _ranked(s, ranking, chosen[s.name]) if s.name in ranked else s for s in scores
        ),
        balanced_accuracy=_defined(balanced_accuracy(*column)),
        average_precision=_defined(average_precision(*ranking)),
        mean_accuracy=_mean_accuracy(predictions),
        worst_group=min(cells) if cells else None,
        calibration_error=_calibration(predictions, a),
        exclusive=predictions.exclusive,
        judged=None if predictions.exclusive else tuple(attributes[: logits.shape[1]]),
    )


def _mean_accuracy(predictions: Predictions) -> float:
    """Of all attributes; of classes, the share of the images whose own class is chosen."""
    logits, labels = predictions.logits, predictions.labels
    if predictions.exclusive:
        own = logits.shape[1] - 1
        return float(judged_right(logits[:, own], labels[:, own]).mean())
    return float(mean_accuracy(logits, labels[:, : logits.shape[1]]))


def _calibration(predictions: Predictions, a: int) -> float | None:
    """That of a's probability; None for ``own_class``, which has one kind of label."""
    odds, labels = predictions.ranking, predictions.labels
    if predictions.exclusive and a == odds.shape[1] - 1:
        return None
    return float(calibration_error(odds[:, a : a + 1], labels[:, a : a + 1]))


def _defined(value: Tensor) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number


def subset_rows(
    labels: Tensor, attributes: list[str], attribute: str, other: str | None = None
) -> dict[str, Tensor]:
    """Rows of ``labels`` [N, K] by the name of the subset, see :class:`SubsetScore`.

    All but b and ¬b.
    """
    a = attribute_index(attributes, attribute)
    everything = torch.arange(len(labels))
    positive = labels[:, a] > 0.5
    chosen = {"all": everything}
    if other is not None:
        parts = attribute_subsets(labels, *attribute_pair(attributes, attribute, other))
        chosen |= {"E1": parts.both, "E2": parts.only_a}
    chosen |= {"a": everything[positive], "not a": everything[~positive]}
    if other is not None:
        b = labels[:, attribute_index(attributes, other)] > 0.5
        chosen |= {"not a, b": everything[~positive & b]}
        chosen |= {"not a, not b": everything[~positive & ~b]}
    return chosen


def subset_names(attribute: str, other: str | None) -> dict[str, str]:
    """What to call the subsets in a table."""
    a, b = attribute, other
    return {
        "all": "all images", "E1": f"E1 = {a} ∩ {b}", "E2": f"E2 = {a} ∩ not {b}", "a": a,
        "not a": f"not {a}", "not a, b": f"not {a} ∩ {b}", "not a, not b": f"not {a} ∩ not {b}",
        "b": f"{b}", "not b": f"not {b}",
    }  # fmt: skip


def _halves(labels: Tensor, attributes: list[str], other: str) -> dict[str, Tensor]:
    b = labels[:, attribute_index(attributes, other)] > 0.5
    return {"b": b.nonzero().squeeze(1), "not b": (~b).nonzero().squeeze(1)}


def _ranked(score: SubsetScore, column: tuple[Tensor, Tensor], rows: Tensor) -> SubsetScore:
    """With what ranks the images of the subset by a's score; ``column``: two [N, 1]."""
    logits, labels = (part[rows] for part in column)
    return replace(
        score,
        auc=_defined(auc(logits, labels)),
        average_precision=_defined(average_precision(logits, labels)),
    )


def _score(name: str, rows: Tensor, right: Tensor, predictions: Predictions) -> SubsetScore:
    accuracy = float(right[rows].mean()) if len(rows) else None
    if predictions.dead is None or predictions.visible is None:
        return SubsetScore(name, len(rows), accuracy)
    seen = rows[predictions.visible[rows]]
    live = seen[~predictions.dead[seen]]
    return SubsetScore(
        name,
        len(rows),
        accuracy,
        energy=_mean(predictions.energy, live),
        iou=_mean(predictions.iou, seen),
        dead=int(predictions.dead[seen].sum()),
        size_corrected_energy=_mean(predictions.size_corrected_energy, live),
        pointing=_mean(predictions.pointing, seen),
        attention_iou=_mean(predictions.attention_iou, seen),
    )


def _mean(values: Tensor | None, rows: Tensor) -> float | None:
    return float(values[rows].mean()) if values is not None and len(rows) else None


def evaluate(
    checkpoint: Checkpoint,
    data: str | Path | DataFolder | Iterable[Batch],
    *,
    attribute: str,
    other: str | None = None,
    region: str | int | None = None,
    split: str = "test",
    threshold: float = 0.5,
    landmarks: str | Path | None = None,
    regions: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    cache: bool | None = None,
    workers: int = 2,
    progress: Count | None = None,
) -> Evaluation:
    """Evaluate a classifier on a split of a data folder, or on batches.

    Args:
        checkpoint: the classifier.
        data: a folder that :func:`fastcam.data.open_folder` can read; or any iterable of
            :class:`fastcam.data.batches.Batch`, as a data loader of your own, for which ``split``,
            ``landmarks``, ``regions`` and ``limit`` have no meaning.
        attribute: a, whose accuracy and Grad-CAM are measured; of classes also ``own_class``, that
            of each image.
        other: b, for E1 = a∩b and E2 = a∩¬b; of a folder also a label that is not judged, or a
            further column of its table (of 0 and 1, or ``COLUMN=VALUE``).
        region: where the Grad-CAM of a should lie (of batches its position among their regions);
            None measures accuracy only.
        split: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``.
        threshold: in (0, 1), which share of its peak counts as the map's set, for its IoU.
        landmarks: of faces: landmark table in place of the data folder's own.
        regions: of other data: where the masks lie, see :func:`fastcam.data.open_folder`.
        limit: only so many images, see :func:`fastcam.evaluation.splits.prepare_split`.
        batch_size: images in one forward; batches are taken as they come.
        device: where the classifier runs; it is moved there and back. None: where it is.
        cache: see :class:`fastcam.data.PreparedFaces`.
        workers: processes that decode images which are not in memory.
        progress: called with (done, total).

    Raises:
        ValueError: an unknown name, a limit below 1, a threshold outside (0, 1), labels beyond
            [0, 1] or NaN, or data that do not fit the classifier.
        TypeError: of a folder a region's position; of batches one that is no dict of tensors, or
            lacks one.
        FileNotFoundError: data are missing.
    """
    check.fraction("threshold", threshold)
    attribute_index(checkpoint.judged, attribute, "the checkpoint judges")
    names = checkpoint.judged
    running: dict[str, Any] = {
        "attribute": attribute, "region": region, "threshold": threshold,
        "batch_size": batch_size, "device": device, "workers": workers, "progress": progress,
    }  # fmt: skip
    noted: dict[str, Any] = {"data": "batches", "split": "batches"}
    if isinstance(data, str | Path | FaceFolder | MaskedFolder):
        folder = open_folder(data, landmarks=landmarks, regions=regions)
        check_other(checkpoint, folder, attribute, other, "the checkpoint judges")
        noted = {"data": str(folder.root), "split": split}
        shown = [region] if isinstance(region, str) else []
        faces = prepare_split(
            checkpoint, folder, split, regions=shown, limit=limit, cache=cache, workers=workers
        )
        predictions = predict(checkpoint, faces, **running)
        labels, names = labels_with(predictions.labels, names, other, folder, faces)
        predictions = replace(predictions, labels=labels)
    else:
        if other is not None:
            attribute_pair(names, attribute, other, "the checkpoint judges")
        predictions = predict(checkpoint, data, **running)
    return summarize(
        predictions,
        names,
        attribute=attribute,
        other=other,
        region=None if region is None else str(region),
        threshold=threshold,
        **noted,
    )
