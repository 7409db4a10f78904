"""The corners of ``F.cam_iou_loss``: dead maps, invalid pairs, ties, NaN, empty axes, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from samples import SHAPES, make, status_of
from test_cam_iou import loss_and_grads

from fastcam import functional as F
from fastcam import reference

MODES = ("tone", "sigmoid", "hard")


@pytest.mark.parametrize("binarize", MODES)
def test_dead_map_costs_the_full_region_and_has_no_gradient(binarize, device):
    sample = make(SHAPES[2], dtype=torch.float64, device=device, binarize=binarize)
    sample.gradients[1, 0] = -sample.gradients[1, 0].abs()  # all weights negative: ReLU kills it
    loss, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, sample, "none")
    if binarize != "sigmoid":  # a sigmoid of a zero map is not zero
        size = sample.regions[1, 0].sum().item()
        assert loss[1, 0].item() == pytest.approx(-math.log(1e-6 / (size + 1e-6)), rel=1e-12)
    assert (grad_d[1, 0] == 0).all() and grad_d[0, 0].abs().sum() > 0
    status = status_of(sample, binarize=binarize)
    assert status[1, 0] == 3 and (status[[0, 2]] == 1).all()
    exact = loss_and_grads(reference.cam_iou_loss, sample, "none")
    for got, wanted in zip((loss, grad_a, grad_d), exact, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("poison", (float("nan"), float("inf"), -float("inf")))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_invalid_pair_is_exactly_zero_whatever_the_inputs_hold(poison, layout, device):
    sample = make(SHAPES[3], layout=layout, device=device, sharpness=2.0)
    clean = loss_and_grads(F.cam_iou_loss, sample, "none")
    sample.regions[0] = 0
    sample.activations[0, ::3] = poison
    sample.gradients[0] = poison
    sample.gradients[1, 2] = poison
    where = torch.ones(2, 5, dtype=torch.bool, device=device)
    where[1, 2] = False
    sample.options["where"] = where
    loss, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, sample, "none")
    assert (loss[0] == 0).all() and (grad_a[0] == 0).all() and (grad_d[0] == 0).all()
    assert loss[1, 2] == 0 and (grad_d[1, 2] == 0).all()
    assert torch.isfinite(grad_a).all()
    others = [0, 1, 3, 4]
    torch.testing.assert_close(loss[1, others], clean[0][1, others])
    torch.testing.assert_close(grad_d[1, others], clean[2][1, others])
    exact = loss_and_grads(reference.cam_iou_loss, sample, "none")
    for got, wanted in zip((loss, grad_a, grad_d), exact, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_no_valid_pair_gives_zero_not_nan(device):
    sample = make(SHAPES[2], device=device)
    sample.regions.zero_()
    loss, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, sample, "mean")
    assert loss == 0 and (grad_a == 0).all() and (grad_d == 0).all()


@pytest.mark.parametrize("poison", (float("nan"), float("inf")))
@pytest.mark.parametrize("binarize", MODES)
@pytest.mark.parametrize("cell", (0, 5, 48))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_nan_and_inf_in_a_valid_pair_stay_visible(poison, binarize, cell, layout, device):
    sample = make(SHAPES[2], layout=layout, device=device, binarize=binarize)
    sample.gradients.abs_()
    sample.activations[1, 4, cell // 7, cell % 7] = poison
    loss, *grads = loss_and_grads(F.cam_iou_loss, sample, "none")
    assert loss[1].isnan().all() and loss[[0, 2]].isfinite().all()
    exact, *exact_grads = loss_and_grads(reference.cam_iou_loss, sample, "none")
    assert torch.equal(loss.isnan(), exact.isnan())
    assert grads[1][1].isnan().any() and exact_grads[1][1].isnan().any()
    for grad in (grads[0], exact_grads[0]):
        assert grad[1, :, cell // 7, cell % 7].isnan().all()
    assert grads[1][[0, 2]].isfinite().all() and grads[0][[0, 2]].isfinite().all()


@pytest.mark.parametrize("binarize", ("tone", "sigmoid"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_ties_give_the_peak_gradient_to_the_first_cell(binarize, dtype, device):
    """Two cells share the maximum: only the first in row-major order is divided through."""
    activations = torch.tensor([[0.2, 1.0, 0.5], [1.0, 0.7, 1.0]], dtype=dtype)
    activations = activations[None, None].to(device).requires_grad_()
    gradients = torch.full((1, 1, 1, 1, 1), 6.0, dtype=dtype, device=device)
    regions = torch.tensor([[1.0, 0.0, 0.4], [0.0, 1.0, 0.0]], dtype=dtype)[None, None]
    options = {"sharpness": 2.0, "threshold": 0.4, "binarize": binarize, "reduction": "sum"}
    (grad,) = torch.autograd.grad(
        F.cam_iou_loss(activations, gradients, regions.to(device), **options), activations
    )
    (wanted,) = torch.autograd.grad(
        reference.cam_iou_loss(activations, gradients, regions.to(device), **options), activations
    )
    torch.testing.assert_close(grad, wanted)
    tied = grad[0, 0][[0, 1, 1], [1, 0, 2]]
    assert tied[1] == tied[2] and tied[0] != tied[1]


def test_x_on_the_threshold(device):
    """x = theta belongs to the upper branch; both branches meet there in value and slope."""
    activations = torch.tensor([[0.5, 1.0], [0.25, 0.0]], dtype=torch.float64, device=device)
    gradients = torch.full((1, 1, 1, 1, 1), 4.0, dtype=torch.float64, device=device)
    regions = torch.ones(1, 1, 2, 2, dtype=torch.float64, device=device)
    for binarize, inside in (("tone", 0.5 + 1 + 0.0625 * 2), ("hard", 1.0)):
        loss = F.cam_iou_loss(
            activations[None, None], gradients, regions, sharpness=2.0, binarize=binarize
        )
        assert loss.item() == pytest.approx(-math.log((inside + 1e-6) / (4 + 1e-6)), rel=1e-12)


def test_tiny_and_huge_maps_are_normalised(device):
    """A subnormal peak has no inverse in float32, a huge one no square."""
    for factor in (1e-41, 1e36):
        sample = make(SHAPES[2], device=device)
        plain = F.cam_iou_loss(sample.activations, sample.gradients, sample.regions)
        sample.gradients.mul_(factor)
        loss = F.cam_iou_loss(sample.activations, sample.gradients, sample.regions)
        torch.testing.assert_close(loss, plain, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    "shape",
    (
        (0, 2, 4, (5, 5), (3, 3)),
        (3, 0, 4, (5, 5), (3, 3)),
        (3, 2, 0, (5, 5), (3, 3)),
        (0, 0, 0, (1, 1), (1, 1)),
    ),
)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_empty_axes(shape, layout, device):
    sample = make(shape, layout=layout, device=device)
    n, t, c, (h, w), _ = shape
    loss, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, sample, "none")
    assert loss.shape == (n, t) and grad_a.shape == (n, c, h, w)
    assert (grad_a == 0).all() and grad_d.shape == sample.gradients.shape
    mean = F.cam_iou_loss(sample.activations, sample.gradients, sample.regions)
    wanted = reference.cam_iou_loss(sample.activations, sample.gradients, sample.regions)
    torch.testing.assert_close(mean, wanted)
    assert F.grad_cam(sample.activations, sample.gradients).shape == (n, t, h, w)


@pytest.mark.parametrize("sharpness", (1.0, 1.5, 8.0, 20.0, 300.0))
@pytest.mark.parametrize("threshold", (0.01, 0.5, 0.99))
def test_any_sharpness_and_threshold_stay_finite(sharpness, threshold, device):
    sample = make(SHAPES[2], device=device, sharpness=sharpness, threshold=threshold)
    got = loss_and_grads(F.cam_iou_loss, sample)
    exact = loss_and_grads(reference.cam_iou_loss, sample.to(torch.float64))
    for value, wanted in zip(got, exact, strict=True):
        assert value.isfinite().all() and wanted.isfinite().all()
        scale = wanted.abs().max().item()
        torch.testing.assert_close(value.double(), wanted, rtol=2e-3, atol=1e-3 * scale + 1e-6)


GOOD = make(SHAPES[2])


def call(**changes):
    arguments = {
        "activations": GOOD.activations,
        "gradients": GOOD.gradients,
        "regions": GOOD.regions,
    } | changes
    return F.cam_iou_loss(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "parts"),
    [
        ({"activations": [1.0]}, TypeError, ["activations", "torch.Tensor", "list"]),
        ({"activations": GOOD.activations.int()}, TypeError, ["activations", "int32"]),
        (
            {"activations": GOOD.activations[0]},
            ValueError,
            ["activations", "[N,C,H,W]", "[19,7,7]"],
        ),
        ({"activations": torch.ones(3, 19, 0, 7)}, ValueError, ["activations", "[3,19,0,7]"]),
        (
            {"gradients": GOOD.gradients[:2]},
            ValueError,
            ["gradients", "[3,19,H',W']", "[2,2,19,3,3]"],
        ),
        ({"gradients": GOOD.gradients[:, :, :5]}, ValueError, ["gradients", "[3,2,5,3,3]"]),
        ({"gradients": GOOD.gradients.long()}, TypeError, ["gradients", "int64"]),
        ({"gradients": torch.ones(3, 2, 19, 0, 3)}, ValueError, ["gradients", "[3,2,19,0,3]"]),
        ({"regions": GOOD.regions[:, 0]}, ValueError, ["regions", "[3,2,7,7]", "[3,7,7]"]),
        ({"regions": GOOD.regions[:, :1]}, ValueError, ["regions", "[3,2,7,7]", "[3,1,7,7]"]),
        ({"regions": GOOD.regions[..., :5]}, ValueError, ["regions", "[3,2,7,5]"]),
        ({"regions": (GOOD.regions * 255).byte()}, TypeError, ["regions", "uint8"]),
        ({"regions": GOOD.regions.clone().requires_grad_()}, ValueError, ["regions", "detach"]),
        ({"cell_weights": torch.ones(7)}, ValueError, ["cell_weights", "[7,7]", "[7]"]),
        ({"cell_weights": torch.ones(2, 1, 7, 7)}, ValueError, ["cell_weights", "[2,1,7,7]"]),
        ({"cell_weights": torch.ones(3, 7, 7)}, ValueError, ["cell_weights", "[3,7,7]"]),
        ({"where": torch.ones(3)}, TypeError, ["where", "bool", "float32"]),
        ({"where": torch.ones(2, dtype=torch.bool)}, ValueError, ["where", "[3] or [3,2]", "[2]"]),
        ({"where": torch.ones(3, 1, dtype=torch.bool)}, ValueError, ["where", "[3,1]"]),
        ({"threshold": 0.0}, ValueError, ["threshold", "(0, 1)", "0.0"]),
        ({"threshold": float("nan")}, ValueError, ["threshold", "nan"]),
        ({"sharpness": 0.5}, ValueError, ["sharpness", ">= 1", "0.5"]),
        ({"sharpness": float("inf")}, ValueError, ["sharpness", "finite", "inf"]),
        ({"eps": 0.0}, ValueError, ["eps", "> 0"]),
        ({"threshold": "a"}, TypeError, ["threshold", "in (0, 1)", "str"]),
        ({"sharpness": None}, TypeError, ["sharpness", ">= 1", "NoneType"]),
        ({"eps": torch.tensor([1.0])}, TypeError, ["eps", "> 0", "Tensor"]),
        ({"binarize": "soft"}, ValueError, ["binarize", "'tone'", "'soft'"]),
        ({"reduction": "avg"}, ValueError, ["reduction", "'mean'", "'avg'"]),
        ({"regions": GOOD.regions.to("meta")}, ValueError, ["regions", "device cpu", "meta"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input_names_the_argument_what_fits_and_what_came(changes, error, parts):
    with pytest.raises(error) as caught:
        call(**changes)
    message = str(caught.value)
    assert message.startswith(parts[0])
    for part in parts[1:]:
        assert part in message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensor_without_kernels_gets_one_clear_error(monkeypatch):
    monkeypatch.setattr("fastcam.ops.library.cuda_missing", "built for CPU only")
    with pytest.raises(RuntimeError, match="built for CPU only"):
        call(activations=GOOD.activations.cuda())
