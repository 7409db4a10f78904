"""``F.cam_iou_loss`` against a slow expectation, its reference twin, and finite differences."""

from __future__ import annotations

import pytest
import torch
from samples import LAYOUTS, SHAPES, Sample, expected_loss, make, weights_for

from fastcam import functional as F
from fastcam import reference

MODES = ("tone", "sigmoid", "hard")
FLOATS = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)


def loss_and_grads(function, sample: Sample, reduction: str = "sum"):
    activations, gradients = sample.leaves()
    loss = function(activations, gradients, sample.regions, reduction=reduction, **sample.options)
    grads = torch.autograd.grad(loss.sum(), (activations, gradients))
    return loss.detach(), *grads


def in_float64(sample: Sample) -> Sample:
    """What the kernels should compute exactly: the same stored values, in double."""
    return sample.to(torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("binarize", MODES)
@pytest.mark.parametrize("dtype", FLOATS + HALVES, ids=str)
def test_value_is_the_expectation(shape, binarize, dtype, device):
    sample = make(shape, dtype=dtype, device=device, binarize=binarize, sharpness=3.0)
    loss = F.cam_iou_loss(
        sample.activations, sample.gradients, sample.regions, reduction="none", **sample.options
    )
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(
        loss.cpu().double(), expected_loss(sample), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS + HALVES, ids=str)
@pytest.mark.parametrize("binarize", MODES)
def test_gradients_are_the_reference_in_every_layout(layout, dtype, binarize, device):
    for shape in SHAPES:
        sample = make(
            shape, dtype=dtype, layout=layout, device=device, binarize=binarize, sharpness=2.5
        )
        loss, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, sample)
        exact = loss_and_grads(reference.cam_iou_loss, in_float64(sample))
        assert grad_a.dtype == dtype and grad_d.dtype == dtype
        tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 2e-2)
        for got, wanted in zip((loss, grad_a, grad_d), exact, strict=True):
            scale = wanted.abs().max().item() + 1e-12
            torch.testing.assert_close(
                got.double(), wanted, rtol=tolerance, atol=tolerance * scale * 0.1
            )


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_low_precision_is_no_worse_than_twice_plain_pytorch(dtype, layout, device):
    """Error against float64 of the same stored inputs, beside that of plain PyTorch in the dtype.

    A sampled minimum: plain PyTorch is sometimes right by luck, so its error has a floor of one
    rounding of the result.
    """
    for seed, shape in enumerate(SHAPES[2:]):
        sample = make(shape, dtype=dtype, layout=layout, device=device, seed=seed, sharpness=4.0)

        def plain(activations, gradients, regions, **options):
            alpha = gradients.sum((-2, -1)) / activations[0, 0].numel()
            raw = torch.einsum("ntc,nchw->nthw", alpha, activations).relu()
            x = reference._normalize(raw)
            soft = reference.soft_threshold(x, 0.5, 4.0, "tone")
            ones = torch.ones((), dtype=soft.dtype, device=soft.device)
            return reference._iou_loss(soft, regions.to(soft.dtype), ones, 1e-6).sum()

        exact = loss_and_grads(reference.cam_iou_loss, in_float64(sample))
        ours = loss_and_grads(F.cam_iou_loss, sample)
        theirs = loss_and_grads(plain, sample)
        for got, other, wanted in zip(ours, theirs, exact, strict=True):
            floor = torch.finfo(dtype).eps * wanted.abs().max()
            error = (got.double() - wanted).abs().max()
            assert error <= 2 * torch.maximum((other.double() - wanted).abs().max(), floor)


@pytest.mark.parametrize("binarize", ("tone", "sigmoid"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(binarize, layout, device):
    weights = weights_for(SHAPES[2])["[N,T,H,W]"].double()
    sample = make(
        (2, 2, 6, (4, 3), (2, 2)),
        dtype=torch.float64,
        layout=layout,
        device=device,
        binarize=binarize,
        sharpness=2.0,
        threshold=0.4,
        where=torch.tensor([[True, True], [False, True]]),
    )
    weights = torch.rand(2, 2, 4, 3, dtype=torch.float64, device=device) + 0.5
    for reduction in ("none", "sum", "mean"):
        assert torch.autograd.gradcheck(
            lambda a, d, reduction=reduction: F.cam_iou_loss(
                a, d, sample.regions, cell_weights=weights, reduction=reduction, **sample.options
            ),
            sample.leaves(),
        )


def test_hard_has_the_gradient_of_tone(device):
    tone = make(SHAPES[3], dtype=torch.float64, device=device, binarize="tone", sharpness=3.0)
    hard = make(SHAPES[3], dtype=torch.float64, device=device, binarize="hard", sharpness=3.0)
    value, *grads = loss_and_grads(F.cam_iou_loss, hard)
    tone_value, *tone_grads = loss_and_grads(F.cam_iou_loss, tone)
    assert not torch.equal(value, tone_value)
    for got, wanted in zip(grads, tone_grads, strict=True):
        assert wanted.abs().max() > 0
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", weights_for(SHAPES[2]))
def test_cell_weights_in_every_shape(name, device):
    sample = make(SHAPES[2], device=device, cell_weights=weights_for(SHAPES[2])[name])
    loss, *grads = loss_and_grads(F.cam_iou_loss, sample, "none")
    torch.testing.assert_close(loss.cpu().double(), expected_loss(sample), rtol=2e-5, atol=2e-5)
    exact = loss_and_grads(reference.cam_iou_loss, in_float64(sample), "none")
    for got, wanted in zip((loss, *grads), exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("per_target", (False, True))
def test_where_switches_pairs_off(per_target, device):
    shape = SHAPES[2]
    where = torch.tensor([True, False, True])
    if per_target:
        where = torch.tensor([[True, False], [False, False], [True, True]])
    sample = make(shape, device=device, where=where, sharpness=2.0)
    loss, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, sample, "none")
    torch.testing.assert_close(loss.cpu().double(), expected_loss(sample), rtol=2e-5, atol=2e-5)
    off = ~(where if per_target else where[:, None].expand(3, 2)).to(device)
    assert (loss[off] == 0).all() and (grad_d[off] == 0).all()
    assert (loss[~off] > 0).all() and grad_d[~off].abs().sum() > 0
    assert (grad_a[off.all(1)] == 0).all()


def test_reductions(device):
    where = torch.tensor([[True, False], [True, True], [False, True]], device=device)
    sample = make(SHAPES[2], dtype=torch.float64, device=device)
    args = (sample.activations, sample.gradients, sample.regions)
    pairs = F.cam_iou_loss(*args, where=where, reduction="none")
    total = F.cam_iou_loss(*args, where=where, reduction="sum")
    mean = F.cam_iou_loss(*args, where=where)
    assert pairs.shape == (3, 2) and total.shape == mean.shape == ()
    torch.testing.assert_close(total, pairs.sum())
    torch.testing.assert_close(mean, pairs.sum() / where.sum())


def test_one_target_may_leave_out_its_axis(device):
    sample = make((3, 1, 8, (5, 5), (2, 2)), device=device)
    full = F.cam_iou_loss(sample.activations, sample.gradients, sample.regions)
    short = F.cam_iou_loss(sample.activations, sample.gradients[:, 0], sample.regions[:, 0])
    none = F.cam_iou_loss(
        sample.activations, sample.gradients[:, 0], sample.regions[:, 0], reduction="none"
    )
    assert torch.equal(full, short) and none.shape == (3, 1)


def test_only_what_requires_grad_gets_one(device):
    sample = make(SHAPES[2], device=device)
    activations, gradients = sample.leaves()
    F.cam_iou_loss(activations, gradients.detach(), sample.regions).backward()
    both = loss_and_grads(F.cam_iou_loss, sample, "mean")
    torch.testing.assert_close(activations.grad, both[1])
    assert gradients.grad is None
    F.cam_iou_loss(activations.detach(), gradients, sample.regions).backward()
    torch.testing.assert_close(gradients.grad, both[2])


def test_expanded_gradients_and_regions(device):
    """A closed-form head hands over [N,T,C,1,1]; one region may serve all targets as a view."""
    sample = make((2, 3, 9, (6, 6), (3, 3)), dtype=torch.float64, device=device)
    summed = sample.gradients.sum((-2, -1), keepdim=True)
    one_region = sample.regions[:, :1].expand(-1, 3, -1, -1)
    wanted = F.cam_iou_loss(sample.activations, sample.gradients, one_region.contiguous())
    spread = (summed / 9).expand(-1, -1, -1, 3, 3)
    for gradients in (summed, spread):
        torch.testing.assert_close(
            F.cam_iou_loss(sample.activations, gradients, one_region), wanted
        )


def test_mixed_dtypes(device):
    sample = make(SHAPES[2], dtype=torch.float64, device=device, sharpness=2.0)
    for a_type in FLOATS + HALVES:
        for d_type in FLOATS + HALVES:
            mixed = Sample(
                sample.activations.to(a_type),
                sample.gradients.to(d_type),
                sample.regions.float(),
                sample.options,
            )
            loss, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, mixed)
            wide = torch.float64 in (a_type, d_type)
            assert loss.dtype == (torch.float64 if wide else torch.float32)
            assert grad_a.dtype == a_type and grad_d.dtype == d_type
            exact, *_ = loss_and_grads(reference.cam_iou_loss, in_float64(mixed))
            torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)


def test_regions_and_weights_may_be_bool(device):
    sample = make(SHAPES[2], device=device)
    regions = sample.regions > 0.5
    got = F.cam_iou_loss(sample.activations, sample.gradients, regions)
    wanted = F.cam_iou_loss(sample.activations, sample.gradients, regions.float())
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("which", (0, 1))
def test_double_backward_says_it_is_not_supported(which, device):
    """Also when the incoming gradient is a constant, as in a plain gradient penalty."""
    sample = make(SHAPES[1], device=device)
    activations, gradients = sample.leaves()
    leaf = (activations, gradients)[which]

    def loss_of(leaf: torch.Tensor) -> torch.Tensor:
        given = [activations, gradients]
        given[which] = leaf
        return F.cam_iou_loss(*given, sample.regions)

    def map_of(leaf: torch.Tensor) -> torch.Tensor:
        given = [activations, gradients]
        given[which] = leaf
        return F.grad_cam(*given).sum()

    for function in (loss_of, map_of):
        loss = function(leaf)
        with pytest.raises(RuntimeError, match="differentiated twice.*fastcam.reference"):
            torch.autograd.grad(loss, leaf, create_graph=True)
        # The second differentiation of these visits nothing but what leads to its inputs.
        for second in (torch.autograd.functional.hessian, torch.autograd.functional.hvp):
            arguments = (torch.ones_like(leaf),) if second is torch.autograd.functional.hvp else ()
            with pytest.raises(RuntimeError, match="differentiated twice"):
                second(function, leaf.detach(), *arguments)


def test_repeats_bit_for_bit_and_with_any_number_of_threads(device):
    sample = make((9, 2, 70, (13, 13), (6, 6)), device=device)
    first = loss_and_grads(F.cam_iou_loss, sample)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for got, wanted in zip(loss_and_grads(F.cam_iou_loss, sample), first, strict=True):
                assert torch.equal(got, wanted)
    finally:
        torch.set_num_threads(threads)
