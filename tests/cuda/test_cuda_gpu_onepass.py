"""What only a GPU can show of the one-pass form of the loss: launches, graphs, clusters."""

from __future__ import annotations

import pytest
import torch
from gpu import (
    assert_launches,
    assert_near_exact,
    assert_repeatable,
    check_loss_graph,
    loss_and_grads,
)
from samples import make
from test_cuda_gpu import some_targets

from fastcam import functional as F
from fastcam import reference

pytestmark = pytest.mark.cuda


@pytest.fixture
def clusters(device: torch.device) -> None:
    if torch.cuda.get_device_capability(device) < (9, 0):
        pytest.skip("this GPU has no clusters")


@pytest.mark.usefixtures("clusters")
@some_targets
@pytest.mark.parametrize("batch", (1, 64))
@pytest.mark.parametrize("weight_grad", ("full", "detach"))
@pytest.mark.parametrize("reduction", ("mean", "none"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_one_launch_forward_and_one_backward(
    layout, reduction, weight_grad, batch, targets, device
):
    """Of the public function, whose mean may clear its counter before."""
    sample = make((batch, targets, 256, (13, 13), (6, 6)), layout=layout, device=device)
    activations, gradients = sample.leaves()
    if weight_grad == "detach":
        gradients = gradients.detach()
    leaves = [t for t in (activations, gradients) if t.requires_grad]

    def forward():
        return F.cam_iou_loss(activations, gradients, sample.regions, reduction=reduction)

    loss = forward()
    upstream = torch.full_like(loss, 0.5)
    for call, cleared in (
        (forward, reduction == "mean" and batch > 1),
        (lambda: torch.autograd.grad(loss, leaves, upstream, retain_graph=True), False),
    ):
        assert_launches(call, 1, cleared)


# The last two are RegNet's and DenseNet-161's, whose last block has fewer channels.
NETWORKS = ((256, 13, 6), (512, 14, 14), (512, 28, 14), (2048, 7, 7), (400, 7, 1), (2208, 7, 1))


@pytest.mark.parametrize(
    ("batch", "targets", "kernels"),
    (
        (1, 1, ""),
        (3, 4, ""),
        (3, 16, ""),
        (2, 40, ""),
        (200, 1, ""),
        (64, 4, "ring"),
        (3, 16, "ring"),
    ),
)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "sliced"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_against_the_reference_at_network_sizes(
    dtype, layout, batch, targets, kernels, device, monkeypatch
):
    monkeypatch.setenv("FASTCAM_CAM_KERNELS", kernels)
    for channels, side, grad_side in NETWORKS:
        shape = (batch, targets, channels, (side, side), (grad_side, grad_side))
        sample = make(shape, dtype=dtype, layout=layout, device=device)
        exact = loss_and_grads(sample.to(torch.float64), reference.cam_iou_loss)
        loose = 2e-2 if dtype == torch.bfloat16 else 1e-4
        assert_near_exact(loss_and_grads(sample), exact, loose)


@some_targets
@pytest.mark.parametrize("batch", (1, 300))
def test_bitwise_repeatable(batch, targets, device):
    sample = make((batch, targets, 256, (13, 13), (6, 6)), device=device)
    assert_repeatable(lambda: loss_and_grads(sample), 20)


@some_targets
def test_cuda_graph(targets, device):
    """The last cluster of every replay sums up the losses."""
    shape = (64, targets, 256, (13, 13), (6, 6))
    fresh = [make(shape, device=device, seed=seed) for seed in (1, 2)]
    check_loss_graph(make(shape, device=device), fresh, device)
