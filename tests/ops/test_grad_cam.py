"""``F.grad_cam`` and ``F.valid_targets``."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from samples import LAYOUTS, SHAPES, expected_cam, far_apart, make

from fastcam import functional as F
from fastcam import reference


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalize", (True, False))
@pytest.mark.parametrize(
    "dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str
)
def test_value_is_the_expectation(shape, normalize, dtype, device):
    sample = make(shape, dtype=dtype, device=device)
    cam = F.grad_cam(sample.activations, sample.gradients, normalize)
    assert cam.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(
        cam.cpu().double(),
        expected_cam(sample.activations, sample.gradients, normalize),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("normalize", (True, False))
def test_gradcheck(layout, normalize, device):
    sample = make((2, 3, 5, (4, 3), (2, 1)), dtype=torch.float64, layout=layout, device=device)
    assert torch.autograd.gradcheck(lambda a, d: F.grad_cam(a, d, normalize), sample.leaves())


@pytest.mark.parametrize("normalize", (True, False))
def test_gradients_are_the_reference_with_dead_maps_and_ties(normalize, device):
    sample = make(SHAPES[2], dtype=torch.float64, device=device)
    sample.gradients[1, 0] = -sample.gradients[1, 0].abs()
    sample.activations[2] = sample.activations[2].round()  # many equal cells
    sample.gradients[2] = sample.gradients[2].round()
    grads = []
    for function in (F.grad_cam, reference.grad_cam):
        activations, gradients = sample.leaves()
        cam = function(activations, gradients, normalize)
        scale = torch.linspace(0.5, 2, cam.numel(), dtype=cam.dtype, device=device).view_as(cam)
        grads.append(torch.autograd.grad((cam * scale).sum(), (activations, gradients)))
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted)


def test_samples_further_apart_than_32_bits_count(device):
    """Of a large batch, say, of which some are taken: grad_cam and a loss."""
    sample = make((2, 3, 16, (5, 7), (3, 3)), dtype=torch.float16, device=device)
    far = far_apart(sample.activations, sample.gradients)
    for function in (F.grad_cam, partial(F.cam_loss, regions=sample.regions, loss="energy")):
        results = []
        for inputs in ((sample.activations, sample.gradients), far):
            leaves = [t.detach().requires_grad_() for t in inputs]
            out = function(*leaves)
            grads = torch.autograd.grad(out.square().sum(), leaves)
            results.append([out.detach(), *grads])
        for near_by, apart in zip(*results, strict=True):
            torch.testing.assert_close(apart, near_by, rtol=1e-3, atol=1e-6)


def test_peak_is_one_and_a_dead_map_is_zero(device):
    sample = make(SHAPES[3], device=device)
    sample.gradients[0, 1] = -sample.gradients[0, 1].abs()
    cam = F.grad_cam(sample.activations, sample.gradients)
    peaks = cam.flatten(-2).max(-1).values
    assert peaks[0, 1] == 0
    alive = [0, 2, 3, 4]
    assert (peaks[0, alive] == 1).all() and (peaks[1] == 1).all() and (cam >= 0).all()


def test_one_target_may_leave_out_its_axis(device):
    sample = make(SHAPES[1], device=device)
    short = F.grad_cam(sample.activations, sample.gradients[:, 0])
    assert torch.equal(short, F.grad_cam(sample.activations, sample.gradients))


def test_nan_is_seen(device):
    sample = make(SHAPES[2], device=device)
    sample.activations[0, 3, 1, 1] = float("nan")
    cam = F.grad_cam(sample.activations, sample.gradients)
    assert cam[0].isnan().all() and cam[1:].isfinite().all()
    raw = F.grad_cam(sample.activations, sample.gradients, normalize=False)
    assert raw[0, :, 1, 1].isnan().all() and raw[0].isnan().sum() == 2


def test_valid_targets(device):
    regions = torch.zeros(3, 2, 4, 4, device=device)
    regions[0, 0, 1, 1] = 0.1
    regions[1, :, 2, 3] = 1
    weights = torch.ones(4, 4, device=device)
    weights[2, 3] = 0
    where = torch.tensor([True, False, True], device=device)
    assert F.valid_targets(regions).tolist() == [[True, False], [True, True], [False, False]]
    assert F.valid_targets(regions, weights).tolist() == [[True, False]] + [[False] * 2] * 2
    assert F.valid_targets(regions, where=where).tolist() == [[True, False]] + [[False] * 2] * 2
    assert F.valid_targets(regions[:, 0]).shape == (3, 1)
    for options in ({}, {"cell_weights": weights}, {"where": where}):
        assert torch.equal(
            F.valid_targets(regions, **options), reference.valid_targets(regions, **options)
        )
    with pytest.raises(ValueError, match=r"regions.*\[3\]"):
        F.valid_targets(torch.ones(3))
    with pytest.raises(ValueError, match=r"cell_weights.*\[4,4\].*\[5,5\]"):
        F.valid_targets(regions.cpu(), torch.ones(5, 5))


def test_bad_input():
    sample = make(SHAPES[2])
    with pytest.raises(ValueError, match=r"gradients: expected shape \[3,19,H',W'\]"):
        F.grad_cam(sample.activations, sample.gradients[:, :, :4])
    with pytest.raises(TypeError, match="activations: expected a torch.Tensor"):
        F.grad_cam(None, sample.gradients)


def test_one_input_in_float64_makes_it_all_float64(device):
    a = torch.rand(2, 3, 4, 4, device=device, dtype=torch.float64)
    d = torch.randn(2, 1, 3, 4, 4, device=device, dtype=torch.float64)
    wanted = F.grad_cam(a.float().double(), d)
    got = F.grad_cam(a.float(), d)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)
