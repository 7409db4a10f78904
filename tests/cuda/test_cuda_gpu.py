"""What only a GPU can show: streams, graphs, devices, launches (``--device cuda``)."""

from __future__ import annotations

import pytest
import torch
from gpu import (
    assert_all_close,
    assert_keeps_no_memory,
    assert_launches,
    assert_near_exact,
    assert_repeatable,
    check_loss_graph,
    loss_and_grads,
    on_a_late_stream,
)
from samples import SHAPES, make
from torch._dynamo.utils import counters

from fastcam import functional as F
from fastcam import reference

pytestmark = pytest.mark.cuda


def many(device: torch.device | str, batch: int = 64, targets: int = 2, **options):
    return make((batch, targets, 256, (13, 13), (6, 6)), device=device, **options)


# One sample is split over blocks, 300 are not; one target has kernels of its own.
some_batches = pytest.mark.parametrize("batch", (1, 300))
some_targets = pytest.mark.parametrize("targets", (1, 2, 6))


@some_batches
@some_targets
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16, torch.float64))
def test_bitwise_repeatable(dtype, layout, targets, batch, device):
    sample = many(device, batch, targets, dtype=dtype, layout=layout)
    assert_repeatable(lambda: loss_and_grads(sample), 20)


@some_batches
@some_targets
def test_side_stream(targets, batch, device):
    """The kernels queue behind what their stream holds: inputs appear only after a long wait."""
    sample = many(device, batch, targets)
    wanted = loss_and_grads(sample)
    late = many(device, batch, targets)
    late.activations.zero_()

    def prepare():
        late.activations.copy_(sample.activations)

    assert_all_close(on_a_late_stream(prepare, lambda: loss_and_grads(late), device), wanted)


@some_batches
@some_targets
def test_cuda_graph(targets, batch, device):
    fresh = [many(device, batch, targets, seed=seed) for seed in (1, 2, 3)]
    check_loss_graph(many(device, batch, targets), fresh, device)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_second_device(device):
    on_first = many("cuda:0")
    on_second = many("cuda:1")
    with torch.cuda.device(0):  # not the tensors' device
        got = loss_and_grads(on_second)
    assert all(t.device.index == 1 for t in got)
    assert_all_close([t.cpu() for t in got], [t.cpu() for t in loss_and_grads(on_first)])
    assert torch.cuda.current_device() == 0


def test_compiled_with_graphs(device):
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(F.cam_iou_loss, mode="reduce-overhead", fullgraph=True)
    for seed in range(4):  # the first call warms up, the second records
        sample = make(SHAPES[3], device=device, seed=seed)
        torch.compiler.cudagraph_mark_step_begin()
        assert_all_close(loss_and_grads(sample, compiled), loss_and_grads(sample))
    assert counters["inductor"]["cudagraph_skips"] == 0


@some_batches
@some_targets
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_one_launch_each_way_and_no_copy(dtype, layout, targets, batch, device, monkeypatch):
    """Of the public functions. Only the counters of a forward whose blocks wait for each other may
    be cleared before. The loss in its form for any GPU reads A a second time for dD, and dD in 16
    bits [N,T,C] is cast behind the backward."""
    monkeypatch.setenv("FASTCAM_CAM_KERNELS", "parts")
    sample = many(device, batch, targets, dtype=dtype, layout=layout)
    leaves = sample.leaves()
    cam = F.grad_cam(*leaves)
    loss = F.cam_iou_loss(*leaves, sample.regions)
    upstream, one = torch.rand_like(cam), torch.full_like(loss, 0.5)

    def gradients(of, upstream):
        return torch.autograd.grad(of, leaves, upstream, retain_graph=True)

    cast = dtype == torch.bfloat16
    for call, launches in (
        (lambda: F.grad_cam(*leaves), 1),
        (lambda: F.cam_iou_loss(leaves[0], leaves[1].detach(), sample.regions), 1),
        (lambda: F.cam_iou_loss(*leaves, sample.regions), 2),
    ):
        assert_launches(call, launches, cleared=True)
    assert_launches(lambda: gradients(cam, upstream), 1, cast=cast)
    assert_launches(lambda: gradients(loss, one), 1, cast=cast)


@pytest.mark.parametrize("batch", (1, 3, 200))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_against_the_reference_at_network_sizes(dtype, layout, batch, device):
    for channels, side, grad_side in ((256, 13, 6), (512, 14, 14), (512, 28, 14), (2048, 7, 7)):
        shape = (batch, 1, channels, (side, side), (grad_side, grad_side))
        sample = make(shape, dtype=dtype, layout=layout, device=device)
        exact = loss_and_grads(sample.to(torch.float64), reference.cam_iou_loss)
        loose = 2e-2 if dtype == torch.bfloat16 else 1e-4
        assert_near_exact(loss_and_grads(sample), exact, loose)


def test_no_memory_is_kept(device):
    sample = many(device)
    assert_keeps_no_memory(lambda: loss_and_grads(sample), 50, device)
