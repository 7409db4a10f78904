"""Measures of a classifier: by attribute from its logits, and of its Grad-CAM maps over batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multilabel_accuracy,
    multilabel_auroc,
    multilabel_average_precision,
    multilabel_recall,
    multilabel_specificity,
)

from fastcam._util.checks import fraction
from fastcam.evaluation.cam_maps import (
    attention_iou,
    energy_share,
    peak_in_region,
    set_iou,
    size_corrected_energy,
)
from fastcam.ops import checks as check


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the images that are judged right, float32 [K] from two [N, K]."""
    return _by_attribute(multilabel_accuracy, logits > 0, labels)


def mean_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Accuracy averaged over attributes, float32 scalar from two [N, K]."""
    return multilabel_accuracy(
        (logits > 0).int(),
        (labels > 0.5).int(),
        logits.shape[1],
        average="macro",
        validate_args=False,
    )


def balanced_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the accuracies on images with and without each attribute.

    Returns:
        float64 [K] from two [N, K]; NaN where only one class occurs.
    """
    both = _both_classes(labels)
    found = torch.full(both.shape, torch.nan, dtype=torch.float64)
    if both.any():
        chosen = logits[:, both] > 0, labels[:, both]
        sides = [_by_attribute(m, *chosen) for m in (multilabel_recall, multilabel_specificity)]
        found[both] = (sides[0].double() + sides[1].double()) / 2
    return found


def average_precision(logits: Tensor, labels: Tensor) -> Tensor:
    """Area under precision against recall of each attribute.

    Returns:
        float32 [K] from two [N, K]; NaN where only one class occurs.
    """
    return _of_ranking(multilabel_average_precision, logits, labels)


def auc(logits: Tensor, labels: Tensor) -> Tensor:
    """Area under the receiver operating characteristic of each attribute.

    Returns:
        float32 [K] from two [N, K]; NaN where only one class occurs.
    """
    return _of_ranking(multilabel_auroc, logits, labels)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error of each attribute.

    The images are put into ``bins`` of equal width by the probability σ(logit) of the attribute;
    averaged is the distance of a bin's mean probability from its share of images that have the
    attribute, weighted by its images (Guo et al., "On Calibration of Modern Neural Networks",
    eq. 3, for the class that is present).

    Returns:
        float32 [K] from two [N, K], N >= 1.
    """
    # torchmetrics would put what is rounded to 1 into a bin of its own.
    certain = 1 - torch.finfo(torch.float32).eps / 2
    shares = logits.float().sigmoid().clamp(max=certain)
    columns = zip(shares.unbind(1), (labels > 0.5).int().unbind(1), strict=True)
    return torch.stack([binary_calibration_error(p.contiguous(), y, bins) for p, y in columns])


def _of_ranking(metric: Any, logits: Tensor, labels: Tensor) -> Tensor:
    both = _both_classes(labels)
    found = torch.full(both.shape, torch.nan)
    if both.any():
        ranks = torch.stack([_ranks(scores) for scores in logits[:, both].unbind(1)], 1)
        found[both] = _by_attribute(metric, ranks, labels[:, both])
    return found


def _ranks(scores: Tensor) -> Tensor:
    """The order and ties of scores [N] as numbers in (0, 1), float64 [N].

    torchmetrics would make probabilities of what lies beyond [0, 1], of which large ones are equal.
    """
    kinds, ranks = scores.unique(return_inverse=True)
    return (ranks + 1).double() / (len(kinds) + 1)


def _both_classes(labels: Tensor) -> Tensor:
    present = labels > 0.5
    return present.any(0) & ~present.all(0)


def _by_attribute(metric: Any, predicted: Tensor, labels: Tensor) -> Tensor:
    # Without torchmetrics' validation, which refuses a single attribute.
    options = {"num_labels": labels.shape[1], "average": None, "validate_args": False}
    predicted = predicted.int() if predicted.dtype == torch.bool else predicted
    return metric(predicted, (labels > 0.5).int(), **options).reshape(-1)


class _MapMean(Metric):
    """Mean of a measure of maps over all (image, target) pairs that were chosen."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def _measure(self, cams: Tensor, regions: Tensor) -> Tensor:
        raise NotImplementedError

    def _counts(self, cams: Tensor, regions: Tensor) -> Tensor:
        """Which pairs have such a measure: bool [N, T]."""
        return torch.ones(cams.shape[:2], dtype=torch.bool, device=cams.device)

    def update(self, cams: Tensor, regions: Tensor, where: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            cams: floating [N, T, h, w], >= 0.
            regions: [N, T, h, w], bool or in [0, 1]: the share of each cell that the region covers.
            where: bool [N, T] or [N], which pairs count; None counts all.

        Raises:
            TypeError, ValueError: regions or ``where`` of another kind or shape.
        """
        values = self._measure(cams, regions)  # checks regions
        counts = self._counts(cams, regions)
        if where is not None:
            counts = counts & check.where(where, cams, cams.shape[:2])
        values = values[counts]
        self.total += values.sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean over all batches: scalar, NaN if no pair was counted."""
        return self.total / self.count


class CamEnergy(_MapMean):
    """Mean share of a map's energy that lies in its region; maps that are all zero are left out.

    Args:
        options: of :class:`torchmetrics.Metric`.
    """

    def _measure(self, cams: Tensor, regions: Tensor) -> Tensor:
        return energy_share(cams, regions)

    def _counts(self, cams: Tensor, regions: Tensor) -> Tensor:
        return cams.flatten(2).any(-1)


class CamSizeCorrectedEnergy(CamEnergy):
    """That share over the region's share of the area; regions without area are left out, too.

    See :func:`fastcam.evaluation.size_corrected_energy`; options as for :class:`CamEnergy`.
    """

    def _measure(self, cams: Tensor, regions: Tensor) -> Tensor:
        return size_corrected_energy(cams, regions)

    def _counts(self, cams: Tensor, regions: Tensor) -> Tensor:
        return super()._counts(cams, regions) & regions.flatten(2).any(-1)


class CamPointingGame(_MapMean):
    """Share of the maps whose peak lies in their region; an all-zero map counts 0, and one map that
    is not finite makes it NaN.

    See :func:`fastcam.evaluation.peak_in_region`; options as for :class:`CamEnergy`.
    """

    def _measure(self, cams: Tensor, regions: Tensor) -> Tensor:
        return peak_in_region(cams, regions)


class CamAttentionIoU(_MapMean):
    """Mean likeness of map and region as distributions; an all-zero map counts 0.

    See :func:`fastcam.evaluation.attention_iou`; options as for :class:`CamEnergy`.
    """

    def _measure(self, cams: Tensor, regions: Tensor) -> Tensor:
        return attention_iou(cams, regions)


class CamIoU(_MapMean):
    """Mean intersection over union of {map > threshold} and the region; an all-zero map counts 0,
    and one map that is not finite makes it NaN.

    Args:
        threshold: of the map, in (0, 1).
        options: of :class:`torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: a threshold that is no such number.

    See :func:`fastcam.evaluation.set_iou`.
    """

    def __init__(self, threshold: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        fraction("threshold", threshold)
        self.threshold = threshold

    def _measure(self, cams: Tensor, regions: Tensor) -> Tensor:
        return set_iou(cams, regions, self.threshold)
