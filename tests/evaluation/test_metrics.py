"""Measures by attribute and of maps: against numbers worked out by hand, and over batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_average_precision,
    binary_recall,
    binary_specificity,
)

from fastcam.evaluation import (
    CamAttentionIoU,
    CamEnergy,
    CamIoU,
    CamPointingGame,
    CamSizeCorrectedEnergy,
    attention_iou,
    energy_share,
    peak_in_region,
    set_iou,
    size_corrected_energy,
)
from fastcam.evaluation.given import judged_right
from fastcam.evaluation.metrics import (
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    calibration_error,
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


def test_a_score_or_cell_at_its_threshold_is_not_above_it() -> None:
    zeros, labels = torch.zeros(4, 2), torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 0]])
    assert accuracy(zeros, labels).tolist() == [0.75, 0.75]
    assert mean_accuracy(zeros, labels).item() == 0.75
    assert judged_right(zeros, labels).mean(0).tolist() == [0.75, 0.75]
    assert balanced_accuracy(zeros, labels).tolist() == [0.5, 0.5]
    cams, everywhere = torch.tensor([0.5, 1, 0, 0.25]).view(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert set_iou(cams, everywhere).item() == 0.25
    assert set_iou(cams, everywhere, 0.25).item() == 0.5


def test_other_measures_of_maps_by_hand() -> None:
    sized, pointing, likeness = CamSizeCorrectedEnergy(), CamPointingGame(), CamAttentionIoU()
    for metric in (sized, pointing, likeness):
        metric.update(CAMS, REGIONS)
    # Regions of 3/8, 1/4 and 1/2 of the area.
    assert sized.compute().item() == pytest.approx((0.7 / 1.8 / 0.375 + 1 / 0.25 + 0) / 3)
    # The first map's peak is a cell that is half covered; the third has two peaks, both outside.
    assert pointing.compute().item() == 0.5
    # Maps over 1.8 and regions over 1.5: [0, 1, 5, 3] / 9 and [0, 6, 3, 0] / 9.
    first = (1 * 6 + 5 * 3) / ((7**2 + 8**2 + 3**2) / 4)
    assert likeness.compute().item() == pytest.approx((first + 1 + 0 + 0) / 4)
    none = torch.zeros(1, 1, 2, 2)
    sized.reset()
    sized.update(CAMS[:1, :1], none)
    assert math.isnan(sized.compute())
    assert size_corrected_energy(CAMS[:1, :1], none).isnan().all()
    for measure in (peak_in_region, attention_iou):
        assert measure(CAMS[:1, :1], none).item() == 0
        assert measure(none, none).item() == 0
    even = torch.full((1, 1, 4, 5), 0.3)
    assert size_corrected_energy(even, torch.rand(1, 1, 4, 5)).item() == pytest.approx(1)


def test_the_peak_is_the_first_and_small_regions_have_a_cell() -> None:
    cams = torch.tensor([0.2, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    regions = torch.tensor([[0, 0.6, 0, 0], [0, 0.4, 0.6, 0], [0, 0, 1.0, 0], [0, 0.2, 0.2, 0.1]])
    found = [peak_in_region(cams, region.view(1, 1, 2, 2)).item() for region in regions]
    assert found == [1, 0, 0, 1]


def test_attention_iou_minds_neither_scale_nor_order() -> None:
    cams, regions = torch.rand(6, 2, 5, 4).double(), torch.rand(6, 2, 5, 4).double()
    found = attention_iou(cams, regions)
    assert ((found > 0) & (found < 1)).all()
    torch.testing.assert_close(attention_iou(7 * regions, cams / 3), found)
    torch.testing.assert_close(attention_iou(cams, 2 * cams), torch.ones(6, 2).double())


OF_SHARES = (energy_share, set_iou, size_corrected_energy, peak_in_region)


@pytest.mark.parametrize("measure", OF_SHARES)
def test_regions_are_bool_or_shares(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    cams, inside = torch.rand(3, 2, 5, 4), torch.rand(3, 2, 5, 4) < 0.4
    found = measure(cams, inside)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, measure(cams, inside.float()))
    assert measure(cams.double(), inside).dtype == torch.float64
    wrong = r"regions: expected values in \[0, 1\], got 0 to 255 \(divide a mask .* by 255\)"
    with pytest.raises(ValueError, match=wrong):
        measure(cams, inside * 255.0)
    with pytest.raises(ValueError, match=r"regions: expected values in \[0, 1\], got nan"):
        measure(cams, torch.where(inside, torch.nan, 0))
    for dtype in (torch.uint8, torch.int64):
        words = f"regions: expected dtype bool, float32, .* got {dtype}; pass a 0/1 mask"
        with pytest.raises(TypeError, match=words):
            measure(cams, inside.to(dtype))


@pytest.mark.parametrize("measure", [*OF_SHARES, attention_iou])
def test_regions_have_the_maps_shape(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    """[N,h,w] beside maps [N,1,h,w] would give N×N values: of each region in every image's map."""
    cams = torch.rand(4, 1, 4, 4)
    wrong = r"regions: expected shape \[4, 1, 4, 4\] \(of cams\), got \[4, 4, 4\]; of one target: "
    with pytest.raises(ValueError, match=wrong + r"regions\[:, None\]"):
        measure(cams, torch.rand(4, 4, 4))
    for regions in (torch.rand(1, 1, 4, 4), torch.rand(4, 1, 5, 5)):
        with pytest.raises(ValueError, match=r"regions: expected shape \[4, 1, 4, 4\] \(of cams\)"):
            measure(cams, regions)
    with pytest.raises(ValueError, match=r"one for all targets: regions\[:, None\]\.expand_as"):
        measure(torch.rand(4, 2, 4, 4), torch.rand(4, 4, 4))


EVERY = (CamEnergy, CamIoU, CamSizeCorrectedEnergy, CamPointingGame, CamAttentionIoU)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_maps_that_are_not_finite_give_nan(kind: type[CamEnergy | CamIoU], value: float) -> None:
    cams, regions = torch.rand(3, 2, 5, 4), torch.rand(3, 2, 5, 4)
    cams[1, 0, 2, 3] = value
    regions[1, 0, 2, 3] = 1
    rest = torch.ones(3, 2, dtype=torch.bool)
    rest[1, 0] = False
    found, others = kind(), kind()
    found.update(cams, regions)
    others.update(cams, regions, rest)
    assert math.isnan(found.compute()) and not math.isnan(others.compute())
    # Not only where the peak or what is above the threshold would be lost.
    measure = set_iou if kind is CamIoU else peak_in_region
    assert measure(cams, regions).isnan().equal(~rest)


@pytest.mark.parametrize("kind", EVERY)
def test_which_pairs_count_is_bool(kind: type[CamEnergy | CamIoU]) -> None:
    cams, metric = torch.rand(3, 2, 5, 4), kind()
    for where in (torch.tensor([[1, 0], [0, 1], [1, 1]]), torch.ones(3, 2)):
        with pytest.raises(TypeError, match="where: expected dtype bool"):
            metric.update(cams, cams, where)
    with pytest.raises(ValueError, match=r"where: expected shape \[3\] or \[3,2\], got \[2,3\]"):
        metric.update(cams, cams, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"regions: expected shape \[3, 2, 5, 4\] \(of cams\)"):
        metric.update(cams, cams[:, 0])
    metric.update(cams, cams, torch.tensor([True, False, False]))
    assert metric.count == 2


@pytest.mark.parametrize(
    ("threshold", "error"),
    [(-1, ValueError), (0, ValueError), (1, ValueError), (math.nan, ValueError), ("x", TypeError)],
)
def test_a_threshold_lies_between_0_and_1(threshold: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"threshold: expected a number in \(0, 1\), got"):
        CamIoU(threshold)


@pytest.mark.parametrize("kind", [CamEnergy, CamIoU, CamSizeCorrectedEnergy, CamPointingGame])
def test_metrics_take_bool_regions(kind: type[CamEnergy | CamIoU]) -> None:
    cams, inside = torch.rand(3, 2, 5, 4), torch.rand(3, 2, 5, 4) < 0.4
    found, wanted = kind(), kind()
    found.update(cams, inside)
    wanted.update(cams, inside.float())
    assert found.compute() == wanted.compute()


@pytest.mark.parametrize("kind", [CamEnergy, CamIoU, CamPointingGame, CamAttentionIoU])
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
    functions = {CamEnergy: energy_share, CamIoU: set_iou, CamPointingGame: peak_in_region}
    measured = functions.get(kind, attention_iou)(cams, regions)
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
        ranked = float(auc(logits, labels)[k])
        assert ranked == float(binary_auroc(score, truth))
        above = logits[truth == 1, k, None] > logits[truth == 0, k]
        assert ranked == pytest.approx(float(above.double().mean()), abs=1e-6)
    assert judged_right(logits, labels).mean(0).tolist() == found[0].tolist()
    assert float(mean_accuracy(logits, labels)) == pytest.approx(float(found[0].mean()))


def test_scores_are_ranked_as_they_are() -> None:
    # σ of all these is 1 in float32, and of the second column only two differ.
    logits = torch.tensor([[18.0, 30], [19, 12.5], [25, 12.25], [30, 12]])
    labels = torch.tensor([[0.0, 1], [0, 1], [1, 0], [1, 0]])
    for measure in (auc, average_precision):
        assert measure(logits, labels).tolist() == [1, 1]
        assert measure(-logits, 1 - labels).tolist() == [1, 1]
    ends = torch.tensor([[-torch.inf], [3.0], [torch.inf], [torch.inf]])
    assert auc(ends, torch.tensor([[0.0], [1], [0], [1]])).tolist() == [0.625]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.01, 1, 8, 1000])
def test_ranking_is_scikit_learns(dtype: torch.dtype, scale: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="an extra of the experiments")
    labels = (torch.rand(400, 3) > 0.8).float()
    logits = (2 * torch.randn(400, 3) + labels).to(dtype)
    logits[:90] = logits[:90].round()  # ties
    moved = logits * scale
    found = auc(moved, labels), average_precision(moved, labels)
    for k in range(3):
        truth, scores = labels[:, k].numpy(), moved[:, k].double().numpy()
        assert float(found[0][k]) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-6)
        wanted = metrics.average_precision_score(truth, scores)
        assert float(found[1][k]) == pytest.approx(wanted, abs=1e-6)
    if scale == 8:  # exact in each of them
        assert found[0].equal(auc(logits, labels))
        assert found[1].equal(average_precision(logits, labels))


def test_an_attribute_of_one_class_has_only_an_accuracy() -> None:
    logits = torch.tensor([[1.0, 1, -1], [-1, -2, 1], [1, 3, 2]])
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert accuracy(logits, labels).tolist() == pytest.approx([2 / 3, 1, 1 / 3])
    for measure in (balanced_accuracy, average_precision, auc):
        assert measure(logits, labels).isnan().tolist() == [True, False, True]
        assert measure(logits[:, :1], labels[:, :1]).isnan().all()


def test_calibration_error_by_hand() -> None:
    # Probabilities .5 and .9 (bins of a fifth), of which 1 of 2 and 1 of 3 are present.
    odds = torch.tensor([0.0, 0, math.log(9), math.log(9), math.log(9)])
    labels = torch.tensor([1.0, 0, 1, 0, 0])
    found = calibration_error(torch.stack([odds, odds], 1), torch.stack([labels, 1 - labels], 1), 5)
    assert found.tolist() == pytest.approx(
        [2 / 5 * 0 + 3 / 5 * (0.9 - 1 / 3), 3 / 5 * (0.9 - 2 / 3)]
    )


def test_probabilities_that_are_rounded_to_1_have_no_bin_of_their_own() -> None:
    logits = torch.tensor([[40.0], [40.0], [3.0], [3.0]])
    labels = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    last = (1 + torch.tensor(3.0).sigmoid()) / 2
    assert float(calibration_error(logits, labels)) == pytest.approx(float(last) - 0.75, abs=1e-6)
