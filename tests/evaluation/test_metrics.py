"""Measures by attribute and of maps: against numbers worked out by hand, and over batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_average_precision,
    binary_recall,
    binary_specificity,
)

from fastcam.evaluation import CamEnergy, CamIoU, energy_share, set_iou
from fastcam.evaluation.metrics import (
    accuracy,
    average_precision,
    balanced_accuracy,
    judged_right,
    mean_accuracy,
)

#: Two images, two targets, 2×2 cells; the last map is dead.
CAMS = torch.tensor([[[0.0, 0.2, 1.0, 0.6], [1.0, 0, 0, 0]], [[1.0, 1, 0, 0], [0.0, 0, 0, 0]]])
REGIONS = torch.tensor([[[0.0, 1.0, 0.5, 0.0], [1.0, 0, 0, 0]], [[0.0, 0, 1, 1], [1.0, 1, 1, 1]]])
CAMS, REGIONS = CAMS.unflatten(2, (2, 2)), REGIONS.unflatten(2, (2, 2))


def test_energy_and_iou_of_maps_by_hand() -> None:
    energy, iou, low = CamEnergy(), CamIoU(), CamIoU(threshold=0.1)
    for metric in (energy, iou, low):
        metric.update(CAMS, REGIONS)
    assert energy.compute().item() == pytest.approx((0.7 / 1.8 + 1 + 0) / 3)
    assert iou.compute().item() == pytest.approx((0.5 / 3 + 1 + 0 + 0) / 4)
    assert low.compute().item() == pytest.approx((1.5 / 3 + 1 + 0 + 0) / 4)
    where = torch.tensor([[True, False], [False, True]])
    energy.reset()
    energy.update(CAMS, REGIONS, where)
    assert energy.compute().item() == pytest.approx(0.7 / 1.8)
    iou.reset()
    iou.update(CAMS, REGIONS, where)
    assert iou.compute().item() == pytest.approx(0.5 / 6)


@pytest.mark.parametrize("kind", [CamEnergy, CamIoU])
def test_batches_add_up(kind: type[CamEnergy | CamIoU]) -> None:
    cams, regions = torch.rand(12, 2, 5, 4), torch.rand(12, 2, 5, 4)
    cams[3:5, 1] = 0
    where = torch.rand(12, 2) < 0.6
    whole, parts = kind(), kind()
    whole.update(cams, regions, where)
    for rows in torch.arange(12).split(5):
        parts.update(cams[rows], regions[rows], where[rows])
    torch.testing.assert_close(parts.compute(), whole.compute())
    live = cams.flatten(2).any(-1)
    measured = {CamEnergy: energy_share(cams, regions), CamIoU: set_iou(cams, regions)}[kind]
    chosen = where & live if kind is CamEnergy else where
    torch.testing.assert_close(whole.compute(), measured[chosen].mean())
    none = kind()
    none.update(cams, regions, torch.zeros_like(where))
    assert math.isnan(none.compute())


@pytest.mark.parametrize("attributes", [1, 2, 5])
def test_measures_by_attribute_are_those_of_its_column(attributes: int) -> None:
    logits, labels = torch.randn(97, attributes), (torch.rand(97, attributes) > 0.7).float()
    found = [f(logits, labels) for f in (accuracy, balanced_accuracy, average_precision)]
    for k in range(attributes):
        score, truth = logits[:, k].sigmoid(), labels[:, k].int()
        assert float(found[0][k]) == float(binary_accuracy(score, truth))
        sides: list[Tensor] = [f(score, truth) for f in (binary_recall, binary_specificity)]
        assert float(found[1][k]) == sum(map(float, sides)) / 2
        assert float(found[2][k]) == float(binary_average_precision(score, truth))
    assert judged_right(logits, labels).mean(0).tolist() == found[0].tolist()
    assert float(mean_accuracy(logits, labels)) == pytest.approx(float(found[0].mean()))


def test_an_attribute_of_one_class_has_only_an_accuracy() -> None:
    logits = torch.tensor([[1.0, 1, -1], [-1, -2, 1], [1, 3, 2]])
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert accuracy(logits, labels).tolist() == pytest.approx([2 / 3, 1, 1 / 3])
    for measure in (balanced_accuracy, average_precision):
        assert measure(logits, labels).isnan().tolist() == [True, False, True]
        assert measure(logits[:, :1], labels[:, :1]).isnan().all()
