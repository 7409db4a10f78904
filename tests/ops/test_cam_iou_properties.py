"""Properties of the IoU-CAM loss that hold for any input (hypothesis)."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import LAYOUTS, make, status_of

from fastcam import functional as F
from fastcam import reference

SIZES = st.integers(1, 9)


@st.composite
def samples(draw, dtype=torch.float64):
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 6)),
        draw(st.integers(1, 40)),
        (draw(SIZES), draw(SIZES)),
        (draw(SIZES), draw(SIZES)),
    )
    return make(
        shape,
        dtype=dtype,
        layout=draw(st.sampled_from(LAYOUTS)),
        seed=draw(st.integers(0, 2**16)),
        threshold=draw(st.floats(0.05, 0.95)),
        sharpness=draw(st.floats(1, 30)),
        binarize=draw(st.sampled_from(("tone", "sigmoid", "hard"))),
    )


def loss(sample, **changes):
    arguments = (sample.activations, sample.gradients, sample.regions)
    return F.cam_iou_loss(*arguments, reduction="none", **(sample.options | changes))


@settings(max_examples=150, deadline=None)
@given(sample=samples())
def test_equals_the_reference(sample, device):
    sample = sample.on(device)
    results = []
    for function in (F.cam_iou_loss, reference.cam_iou_loss):
        leaves = sample.leaves()
        value = function(*leaves, sample.regions, reduction="none", **sample.options)
        results.append((value, *torch.autograd.grad(value.sum(), leaves)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(sample=samples(torch.float32))
def test_loss_is_between_zero_and_that_of_an_empty_set(sample, device):
    sample = sample.on(device)
    value = loss(sample)
    size = sample.regions.sum((-2, -1))
    worst = -torch.log(1e-6 / (size + sample.regions[0, 0].numel() + 1e-6))
    valid = F.valid_targets(sample.regions)
    assert (value >= -1e-5).all() and (value <= worst + 1e-4)[valid].all()
    assert (value[~valid] == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    sample=samples(),
    by_activation=st.floats(1e-3, 1e3),
    by_gradient=st.floats(1e-3, 1e3),
)
def test_scaling_the_map_changes_nothing(sample, by_activation, by_gradient, device):
    sample = sample.on(device)
    wanted = loss(sample)
    sample.activations = sample.activations * by_activation
    sample.gradients = sample.gradients * by_gradient
    if sample.options["binarize"] != "hard":  # a cell on the threshold may move across it
        torch.testing.assert_close(loss(sample), wanted, rtol=1e-6, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(sample=samples(), seed=st.integers(0, 2**16))
def test_order_of_channels_targets_and_cells_does_not_matter(sample, seed, device):
    sample = sample.on(device)
    rng = torch.Generator().manual_seed(seed)
    wanted = loss(sample)
    if sample.options["binarize"] == "hard":
        return
    channels = torch.randperm(sample.activations.shape[1], generator=rng)
    targets = torch.randperm(sample.gradients.shape[1], generator=rng)
    sample.activations = sample.activations[:, channels].flip(-1)
    sample.gradients = sample.gradients[:, targets][:, :, channels].flip(-2)
    sample.regions = sample.regions[:, targets].flip(-1)
    torch.testing.assert_close(loss(sample), wanted[:, targets], rtol=1e-6, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(sample=samples())
def test_gradient_may_be_summed_before(sample, device):
    """Only the sum of D over its cells counts (docs/method.md)."""
    sample = sample.on(device)
    wanted = loss(sample)
    sample.gradients = sample.gradients.sum((-2, -1), keepdim=True)
    if sample.options["binarize"] != "hard":
        torch.testing.assert_close(loss(sample), wanted, rtol=1e-6, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(sample=samples(), weight=st.floats(0.5, 4))
def test_equal_cell_weights_are_no_weights(sample, weight, device):
    """A constant weight cancels in I/U up to eps."""
    sample = sample.on(device)
    value = loss(sample, eps=1e-12)
    weights = torch.full(sample.regions.shape[-2:], weight, device=device)
    weighted = loss(sample, eps=1e-12, cell_weights=weights)
    dead = status_of(sample) == 3
    torch.testing.assert_close(weighted[~dead], value[~dead], rtol=1e-4, atol=1e-6)
