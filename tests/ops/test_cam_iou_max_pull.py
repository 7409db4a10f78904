"""``max_pair_pull``: one pair's gradient is cut down, its value stays."""

from __future__ import annotations

import pytest
import torch
from samples import SHAPES, make

from fastcam import IoUCamLoss, reference
from fastcam import functional as F

MODES = ("tone", "sigmoid", "hard")


def loss_and_grads(function, sample, reduction="sum", **options):
    activations, gradients = sample.leaves()
    loss = function(
        activations,
        gradients,
        sample.regions,
        reduction=reduction,
        **{**sample.options, **options},
    )
    weights = torch.arange(1.0, loss.numel() + 1).to(loss).view_as(loss)  # any upstream gradient
    return loss.detach(), *torch.autograd.grad((weights * loss).sum(), (activations, gradients))


@pytest.mark.parametrize("binarize", MODES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_gradient_is_the_reference_s(binarize, reduction, device):
    for shape in SHAPES:
        sample = make(shape, dtype=torch.float64, device=device, binarize=binarize, sharpness=3.0)
        for limit in (1e-3, 0.5, 1e6):
            options = {"reduction": reduction, "max_pair_pull": limit}
            got = loss_and_grads(F.cam_iou_loss, sample, **options)
            wanted = loss_and_grads(reference.cam_iou_loss, sample, **options)
            for a, b in zip(got, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_each_pair_is_cut_to_the_limit_and_no_further(device):
    sample = make(SHAPES[-1], dtype=torch.float64, device=device, sharpness=3.0)
    loss, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, sample, "none")
    limit = 0.3
    cut_loss, cut_a, cut_d = loss_and_grads(F.cam_iou_loss, sample, "none", max_pair_pull=limit)
    assert torch.equal(loss, cut_loss)  # the value is as it was
    factor = cut_d.flatten(2).norm(dim=-1) / grad_d.flatten(2).norm(dim=-1)
    factor = factor[grad_d.flatten(2).any(-1)]
    assert (factor < 0.999).any() and (factor <= 1 + 1e-9).all()
    wide = loss_and_grads(F.cam_iou_loss, sample, "none", max_pair_pull=1e9)
    assert torch.equal(wide[1], grad_a) and torch.equal(wide[2], grad_d)
    assert cut_a.norm() < grad_a.norm()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit, device):
    sample = make(SHAPES[0], device=device)
    with pytest.raises(
        ValueError, match="max_pair_pull: expected a number finite and > 0, or None"
    ):
        F.cam_iou_loss(sample.activations, sample.gradients, sample.regions, max_pair_pull=limit)
    with pytest.raises(ValueError, match="max_pair_pull"):
        IoUCamLoss(max_pair_pull=limit)
