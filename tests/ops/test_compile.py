"""The ops under torch's own checks and under ``torch.compile(fullgraph=True)``."""

from __future__ import annotations

import warnings

import pytest
import torch
from samples import LAYOUTS, SHAPES, make, weights_for

from fastcam import functional as F
from fastcam.ops.library import raw

TESTS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", (SHAPES[0], SHAPES[2], (0, 2, 3, (4, 4), (2, 2))))
def test_opcheck(layout, dtype, shape, device):
    if layout == "sliced" and shape[0] == 0:
        pytest.skip("torch's checker cannot copy an empty tensor with gaps")
    sample = make(shape, dtype=dtype, layout=layout, device=device)
    a, d, s = sample.activations, sample.gradients, sample.regions
    weights = weights_for(shape)["[H,W]"].to(device).expand_as(s)
    where = torch.ones(s.shape[:2], dtype=torch.bool, device=device)
    for normalize in (True, False):
        torch.library.opcheck(raw._cam_forward, (a, d, normalize), test_utils=TESTS)
    for extra in ((None, None), (weights, where)):
        arguments = (a, d, s, *extra, 0, [0.5, 8.0, 1e-6], 0.0, 0, False)
        torch.library.opcheck(raw._cam_loss_forward, arguments, test_utils=TESTS)
    cam, alpha, peak = raw._cam_forward(a, d, True)
    for need_a, need_d in ((True, True), (True, False), (False, True)):
        for grad in (torch.rand_like(cam), torch.ones((), device=device).expand(cam.shape)):
            arguments = (a, alpha, cam, peak, grad, need_a, need_a, need_d)
            torch.library.opcheck(raw._cam_backward, arguments, test_utils=TESTS)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_fullgraph_equals_eager(layout, device):
    sample = make(SHAPES[2], layout=layout, device=device)
    weights = weights_for(SHAPES[2])["[1,T,H,W]"].to(device)
    where = torch.tensor([True, False, True], device=device)

    def everything(a, d):
        loss = F.cam_iou_loss(
            a, d, sample.regions, cell_weights=weights, where=where, sharpness=3.0
        )
        pairs = F.cam_iou_loss(a, d, sample.regions, binarize="hard", reduction="none")
        valid = F.valid_targets(sample.regions, weights, where)
        return loss + pairs.sum() + (F.grad_cam(a, d) ** 2).sum(), valid

    compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
    results = []
    for function in (everything, compiled):
        leaves = sample.leaves()
        loss, valid = function(*leaves)
        results.append((loss, valid, *torch.autograd.grad(loss, leaves)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_dynamic_batch(device):
    compiled = torch.compile(F.cam_iou_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (2, 3, 5):
        sample = make((batch, 2, 8, (5, 5), (3, 3)), device=device)
        leaves = sample.leaves()
        got = compiled(*leaves, sample.regions)
        got_grads = torch.autograd.grad(got, leaves)
        wanted = F.cam_iou_loss(*leaves, sample.regions)
        torch.testing.assert_close(got, wanted)
        for one, other in zip(got_grads, torch.autograd.grad(wanted, leaves), strict=True):
            torch.testing.assert_close(one, other)


def test_dynamo_warns_of_nothing():
    torch._dynamo.reset()
    torch._dynamo.utils.warn_once_cache.clear()
    sample = make(SHAPES[2])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Dynamo detected")
        compiled = torch.compile(F.cam_iou_loss, fullgraph=True, backend="aot_eager")
        compiled(sample.activations, sample.gradients, sample.regions)


@pytest.mark.slow
def test_inductor(device):
    sample = make(SHAPES[2], device=device)
    compiled = torch.compile(F.cam_iou_loss, fullgraph=True)
    results = []
    for function in (compiled, F.cam_iou_loss):
        leaves = sample.leaves()
        loss = function(*leaves, sample.regions)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_meta_tensors_give_shapes():
    sample = make(SHAPES[2])
    loss = F.cam_iou_loss(
        sample.activations.to("meta"),
        sample.gradients.to("meta"),
        sample.regions.to("meta"),
        reduction="none",
    )
    assert loss.shape == (3, 2) and loss.device.type == "meta"
