"""``FASTCAM_CAM_KERNELS=onepass``: the loss whose gradients are made in the forward."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import test_cam_iou
import test_cam_iou_edges
import test_cam_iou_pull
import test_cam_iou_values
import torch
from samples import SHAPES, make
from test_cam_iou import loss_and_grads

from fastcam import functional as F
from fastcam.ops import cam_iou
from fastcam.ops.library import DTYPES, raw

for _module, _names in {
    test_cam_iou: (
        "test_gradients_are_the_reference_in_every_layout",
        "test_cell_weights_in_every_shape",
        "test_where_switches_pairs_off",
        "test_reductions",
        "test_only_what_requires_grad_gets_one",
        "test_mixed_dtypes",
        "test_double_backward_says_it_is_not_supported",
        "test_repeats_bit_for_bit_and_with_any_number_of_threads",
    ),
    test_cam_iou_edges: (
        "test_dead_map_costs_the_full_region_and_has_no_gradient",
        "test_no_valid_pair_gives_zero_not_nan",
        "test_ties_give_the_peak_gradient_to_the_first_cell",
        "test_empty_axes",
    ),
    test_cam_iou_pull: ("test_the_gradient_is_the_reference_s",),
    test_cam_iou_values: ("test_regions_beyond_0_to_1",),
}.items():
    for _name in _names:
        globals()[_name] = getattr(_module, _name)


@pytest.fixture(autouse=True)
def _one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cam_iou, "_ONE_PASS", True)


@pytest.mark.parametrize("value", ("onepass", "twopass"))
def test_the_variable(value):
    script = "from fastcam.ops import cam_iou; print(cam_iou._ONE_PASS)"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FASTCAM_CAM_KERNELS": value},
        capture_output=True,
        text=True,
    )
    if value == "twopass":
        assert result.returncode != 0
        assert "FASTCAM_CAM_KERNELS: expected 'onepass' or nothing, got 'twopass'" in result.stderr
    else:
        assert result.stdout.strip() == "True"


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
        ({"loss": 3}, "there is no loss of kind 3"),
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
