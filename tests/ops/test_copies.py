"""The raw ops read A and D where they lie: nothing contiguous or channels_last is copied."""

from __future__ import annotations

import pytest
import torch
from samples import make

from fastcam.ops.library import raw

SHAPE = (3, 2, 24, (7, 5), (3, 2))
COPIES = {"aten::clone", "aten::copy_", "aten::_to_copy"}


def copies_of(call) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.name in COPIES for event in profile.events())


def forward_and_backward(sample) -> dict[str, int]:
    """Copies that each op makes."""
    inputs = sample.activations, sample.gradients
    loss = (*inputs, sample.regions, None, None, 0, [0.5, 8.0, 1e-6], 0.0, 0, True)
    cam, alpha, peak = raw._cam_forward(*inputs, True)
    grad = torch.ones((), dtype=cam.dtype, device=cam.device).expand(cam.shape)
    saved = sample.activations, alpha, cam, peak
    return {
        "loss forward": copies_of(lambda: raw._cam_loss_forward(*loss)),
        "grad_cam forward": copies_of(lambda: raw._cam_forward(*inputs, True)),
        "backward": copies_of(lambda: raw._cam_backward(*saved, grad, True, True, True)),
    }


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16))
def test_dense_inputs_are_read_where_they_lie(dtype, layout, device):
    sample = make(SHAPE, dtype=dtype, layout=layout, device=device)
    assert set(forward_and_backward(sample).values()) == {0}


def test_a_layout_that_no_kernel_reads_is_copied(device):
    """A and D once in each forward, A once in backward: and so a copy would have been seen."""
    copies = forward_and_backward(make(SHAPE, layout="transposed", device=device))
    assert copies["loss forward"] >= 2 and copies["grad_cam forward"] >= 2
    assert copies["backward"] >= 1


def test_expanded_arguments_are_not_spread_out(device):
    """One region for all targets, one upstream gradient for all cells: strides of 0."""
    sample = make(SHAPE, device=device)
    sample.regions = sample.regions[:1, :1].expand(sample.regions.shape)
    assert set(forward_and_backward(sample).values()) == {0}
