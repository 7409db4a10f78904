"""The raw ops of a loss of the map: schemas, what is kept, what is refused, few large samples."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from samples import SHAPES, make
from test_cam_iou import in_float64, loss_and_grads

from fastcam import functional as F
from fastcam import reference
from fastcam.ops import checks
from fastcam.ops.cam_loss import loss_and_status, map_loss
from fastcam.ops.library import DTYPES, raw
from fastcam.ops.pair_cells import PairCells


@pytest.mark.parametrize("value", ("parts", "ring", "twopass"))
def test_the_variable(value):
    script = "import fastcam.functional"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FASTCAM_CAM_KERNELS": value},
        capture_output=True,
        text=True,
    )
    if value == "twopass":
        assert result.returncode != 0
        said = "FASTCAM_CAM_KERNELS: expected 'parts', 'ring' or nothing, got 'twopass'"
        assert said in result.stderr
    else:
        assert result.returncode == 0


def test_activations_are_not_kept(device):
    """The backward may run after their memory has gone to other use."""
    sample = make(SHAPES[3], device=device)
    wanted = loss_and_grads(F.cam_iou_loss, sample, "mean")[1:]
    leaves = sample.leaves()
    loss = F.cam_iou_loss(*leaves, sample.regions)
    with torch.no_grad():
        leaves[0].fill_(torch.nan)
    for got, want in zip(torch.autograd.grad(loss, leaves), wanted, strict=True):
        assert torch.equal(got, want)


TESTS = ("test_schema", "test_faketensor")


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed"))
@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16), ids=str)
def test_opcheck(dtype, layout, device):
    sample = make(SHAPES[2], dtype=dtype, layout=layout, device=device)
    inputs = (sample.activations, sample.gradients, sample.regions, None, None)
    for reduction, need in ((0, False), (1, True)):
        arguments = (*inputs, 0, [0.5, 8.0, 1e-6], 0.0, reduction, need)
        torch.library.opcheck(raw._cam_loss_forward, arguments, test_utils=TESTS)
    _, status, reduced, count, alpha, grad_map, constants = raw._cam_loss_forward(*arguments)
    saved, grad = (alpha, grad_map), reduced.expand(status.shape)
    for last in (False, True):
        for given, need in ((constants, True), (None, True), (constants, False)):
            arguments = (*saved, given, status, grad, count, DTYPES.index(dtype), last, need)
            torch.library.opcheck(raw._cam_loss_backward, arguments, test_utils=TESTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": 8}, "there is no loss of kind 8"),
        ({"params": [0.0] * 5}, "too many parameters"),
        ({"reduction": 3}, "reduction must be 0, 1 or 2"),
    ],
)
def test_raw_op_refuses_what_it_does_not_know(changes, message):
    sample = make(SHAPES[1])
    rest = {"loss": 0, "params": [0.5, 8.0, 1e-6], "max_pull": 0.0, "reduction": 1} | changes
    with pytest.raises(RuntimeError, match=message):
        raw._cam_loss_forward(
            sample.activations, sample.gradients, sample.regions, None, None, *rest.values(), True
        )


def test_fullgraph_equals_eager(device):
    torch._dynamo.reset()
    compiled = torch.compile(F.cam_iou_loss, fullgraph=True, backend="aot_eager")
    sample = make(SHAPES[3], layout="channels_last", device=device)
    for got, wanted in zip(
        loss_and_grads(compiled, sample, "mean"),
        loss_and_grads(F.cam_iou_loss, sample, "mean"),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("batch", (1, 3))
def test_few_large_samples_are_cut_into_channel_blocks(batch, dtype, layout):
    """On the CPU: their maps are summed over blocks, whose number depends on shapes alone."""
    shape = (batch, 6, 200, (28, 26), (3, 3))
    where = torch.arange(batch * 6).view(batch, 6) % 4 != 1
    sample = make(shape, dtype=dtype, layout=layout, sharpness=3.0, where=where)
    sample.regions[0, 2] = 0
    exact = loss_and_grads(reference.cam_iou_loss, in_float64(sample), "mean")
    got = loss_and_grads(F.cam_iou_loss, sample, "mean")
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 2e-2)
    for one, wanted in zip(got, exact, strict=True):
        scale = wanted.abs().max().item()
        torch.testing.assert_close(
            one.double(), wanted, rtol=tolerance, atol=0.1 * tolerance * scale
        )
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            again = loss_and_grads(F.cam_iou_loss, sample, "mean")
            assert all(torch.equal(x, y) for x, y in zip(got, again, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_the_gradient_of_what_is_subtracted_is_the_opposite(device):
    sample = make(SHAPES[2], device=device)
    a, d = (x.detach().requires_grad_() for x in (sample.activations, sample.gradients))
    losses = F.cam_loss(a, d, sample.regions, reduction="none")
    signs = torch.ones_like(losses)
    signs[::2] = -1
    wanted = torch.autograd.grad(losses.sum(), [a, d], retain_graph=True)
    got = torch.autograd.grad((signs * losses).sum(), [a, d])
    for one, plain in zip(got, wanted, strict=True):
        assert plain[0].any()
        torch.testing.assert_close(one[::2], -plain[::2])
        torch.testing.assert_close(one[1::2], plain[1::2])


@pytest.mark.parametrize(
    ("loss", "options"), [("energy", {}), ("outside", {}), ("outside", {"away": True})]
)
def test_pairs_are_counted_alike_with_and_without_kernels(loss, options, device, monkeypatch):
    sample = make(SHAPES[2], device=device)
    gradients, regions = sample.gradients.clone(), sample.regions.clone()
    gradients[0] = -gradients[0].abs()  # dead
    regions[:2, 0] = 0  # invalid, dead or not
    regions[2, 0] = 1  # nothing is outside
    cells = PairCells.of(regions, None, None, sample.activations, gradients.shape[:2])
    found = []
    for plainly in (False, True):
        monkeypatch.setattr(checks, "plainly", lambda tensor, plainly=plainly: plainly)
        found.append(
            loss_and_status(
                sample.activations, gradients, cells, map_loss(loss, **options),
                max_pair_pull=None, reduction="none",
            )
        )  # fmt: skip
    torch.testing.assert_close(*(losses for losses, _ in found))
    assert torch.equal(*(status for _, status in found))
