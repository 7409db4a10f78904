"""Sums a classifier's predictions up: accuracy, attention, and what needs no threshold."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fastcam._util import checks as check
from fastcam._util.progress import Count
from fastcam.data.celeba import attribute_index, attribute_subsets
from fastcam.evaluation.metrics import (
    auc,
    average_precision,
    balanced_accuracy,
    calibration_error,
    judged_right,
    mean_accuracy,
)
from fastcam.evaluation.predictions import Predictions, predict
from fastcam.evaluation.result import Evaluation, SubsetScore
from fastcam.evaluation.splits import prepare_split
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
            _ranked(s, column, chosen[s.name]) if s.name in ranked else s for s in scores
        ),
        balanced_accuracy=_defined(balanced_accuracy(*column)),
        average_precision=_defined(average_precision(*column)),
        mean_accuracy=float(mean_accuracy(logits, labels)),
        worst_group=min(cells) if cells else None,
        calibration_error=float(calibration_error(*column)),
    )


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
        parts = attribute_subsets(labels, a, attribute_index(attributes, other))
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
    cache: bool | None = None,
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
        cache: see :class:`fastcam.data.PreparedFaces`.
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
    faces = prepare_split(
        checkpoint, data, split, landmarks=landmarks, limit=limit, cache=cache, workers=workers
    )
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
