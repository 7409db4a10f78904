"""The CUDA kernels, emulated, against the reference: shapes, dtypes, layouts, alignments."""

from __future__ import annotations

import pytest
import torch
from emulation import Emulator, compiler
from torch import Tensor

from fastcam import reference

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

# Error allowed in float64, float32 arithmetic, and (of a stored gradient) in the 16-bit types.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-5, torch.bfloat16: 2e-5}
STORED = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

# N, T, C, (H, W), (H', W'): what each is there for.
SHAPES = {
    "AlexNet": (2, 1, 256, (13, 13), (6, 6)),
    "ResNet, several blocks a sample": (1, 1, 2048, (7, 7), (7, 7)),
    "more targets than a block takes": (2, 6, 24, (5, 7), (3, 3)),
    "a full block of targets": (1, 4, 40, (6, 6), (2, 3)),
    "one cell": (3, 2, 50, (1, 1), (1, 1)),
    "fewer cells than a vector": (2, 1, 33, (1, 3), (2, 1)),
    "one channel": (2, 1, 1, (9, 11), (4, 4)),
    "rows longer than a block, odd": (1, 2, 11, (23, 29), (25, 27)),
    "rows longer than a block, even": (1, 1, 10, (40, 44), (42, 46)),
    "map too large for shared memory": (1, 4, 4, (61, 67), (3, 3)),
    "all of CelebA's attributes": (1, 40, 136, (13, 13), (2, 2)),
    "many targets, maps too large for shared memory": (1, 6, 5, (61, 67), (3, 3)),
    "closed-form head": (2, 3, 72, (4, 6), (1, 1)),
}


def lay_out(t: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return t.movedim(-3, -1).contiguous().movedim(-1, -3)
    if layout == "offset":  # one value off any alignment, gaps between the samples
        wide = t.new_full((t.shape[0], t[0].numel() + 3), torch.nan)
        view = wide[:, 1 : 1 + t[0].numel()].view(t.shape)
        return view.copy_(t)
    if layout == "offset channels_last":
        return lay_out(lay_out(t, "channels_last").movedim(-3, -1), "offset").movedim(-1, -3)
    return t.contiguous()


LAYOUTS = ("contiguous", "channels_last", "offset", "offset channels_last")


def make(shape, dtype, layout):
    n, t, c, cells, grad_cells = shape
    rng = torch.Generator().manual_seed(3)
    activations = (torch.rand(n, c, *cells, generator=rng) - 0.2).relu().to(dtype)
    gradients = (torch.randn(n, t, c, *grad_cells, generator=rng) + 0.1).to(dtype)
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    regions = torch.rand(n, t, *cells, generator=rng).to(acc)
    weights = 1 + torch.rand(1, t, *cells, generator=rng).to(acc)
    return lay_out(activations, layout), lay_out(gradients, layout), regions, weights


def assert_near(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    size = wanted.abs().max().clamp(min=1e-3)
    torch.testing.assert_close(got.double() / size, wanted / size, rtol=0, atol=tolerance)


def run(emulator, sample, scale, **options):
    """The loss in two launches, and its backward."""
    activations, gradients, regions, weights = sample
    n = gradients.shape[0]
    loss, alpha, grad_map, status, constants = emulator.cam_iou_forward(
        activations,
        gradients,
        regions,
        weights.expand(n, -1, -1, -1),
        need_gradients=True,
        **options,
    )
    assert emulator.traffic.launches == 2
    grads = emulator.cam_iou_backward(activations, alpha, grad_map, status, constants, scale)
    return loss, alpha, grad_map, status, *grads


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_iou_forward_and_backward(shape, layout, dtype):
    sample = make(shape, dtype, layout)
    activations, gradients, regions, weights = sample
    n, t = gradients.shape[:2]
    scale = torch.linspace(0.5, 2, n * t, dtype=regions.dtype).view(n, t)

    a = activations.double().requires_grad_()
    d = gradients.double().requires_grad_()
    options = {"threshold": 0.4, "sharpness": 3.0}
    wanted = reference.cam_iou_loss(
        a, d, regions.double(), cell_weights=weights.double(), reduction="none", **options
    )
    wanted_a, wanted_d = torch.autograd.grad((wanted * scale).sum(), (a, d))
    wanted = wanted.detach()

    ascending = run(Emulator(), sample, scale, **options)
    loss, alpha, _, status, grad_a, grad_d = ascending
    assert_near(loss, wanted, TOLERANCE[dtype])
    assert_near(alpha, gradients.double().sum((-2, -1)) / regions[0, 0].numel(), TOLERANCE[dtype])
    assert (status & 1).all()
    assert_near(grad_a, wanted_a, STORED[dtype])
    assert_near(grad_d, wanted_d[..., 0, 0], 10 * TOLERANCE[dtype])
    assert grad_a.stride() == torch.empty_like(activations).stride() or layout.startswith("offset")

    # The result depends on no order of warps or blocks.
    descending = run(Emulator(reversed=True), sample, scale, **options)
    for first, second in zip(ascending, descending, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("normalize", (True, False))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_grad_cam(shape, layout, dtype, normalize):
    activations, gradients, upstream, _ = make(shape, dtype, layout)
    a = activations.double().requires_grad_()
    d = gradients.double().requires_grad_()
    wanted = reference.grad_cam(a, d, normalize)
    raw = reference.grad_cam(activations.double(), gradients.double(), False)
    wanted_a, wanted_d = torch.autograd.grad((wanted * upstream).sum(), (a, d))
    results = []
    for backwards in (False, True):
        emulator = Emulator(reversed=backwards)
        cam, alpha, peak = emulator.cam_forward(activations, gradients, normalize)
        assert_near(cam, wanted.detach(), TOLERANCE[dtype])
        assert_near(peak, raw.flatten(-2).amax(-1), TOLERANCE[dtype])
        grads = emulator.cam_backward(activations, alpha, cam, peak, upstream, normalize)
        assert emulator.traffic.launches == 2
        assert_near(grads[0], wanted_a, STORED[dtype])
        assert_near(grads[1], wanted_d[..., 0, 0], 10 * TOLERANCE[dtype])
        results.append((cam, alpha, peak, *grads))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


UPSTREAM = {
    "one value": lambda g: g[:1, :1, :1, :1].expand(g.shape),
    "one for each pair": lambda g: g[..., :1, :1].expand(g.shape),
    "targets last": lambda g: g.movedim(1, -1).contiguous().movedim(-1, 1),
    "rows last": lambda g: g.mT.contiguous().mT,
    "every other column": lambda g: g.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("lay", UPSTREAM.values(), ids=UPSTREAM.keys())
def test_grad_cam_reads_any_upstream_gradient_where_it_lies(lay):
    shape = SHAPES["more targets than a block takes"]
    activations, gradients, upstream, _ = make(shape, torch.float32, "contiguous")
    upstream = lay(upstream)
    cam, alpha, peak = Emulator().cam_forward(activations, gradients)
    got, wanted = (
        Emulator().cam_backward(activations, alpha, cam, peak, grad)
        for grad in (upstream, upstream.contiguous())
    )
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_grad_cam_of_more_targets_than_shared_memory_holds(layout):
    activations, gradients, upstream, _ = make((1, 400, 5, (3, 4), (1, 1)), torch.float32, layout)
    a = activations.double().requires_grad_()
    d = gradients.double().requires_grad_()
    wanted = torch.autograd.grad((reference.grad_cam(a, d) * upstream).sum(), (a, d))
    cam, alpha, peak = Emulator().cam_forward(activations, gradients)
    grad_a, grad_d = Emulator().cam_backward(activations, alpha, cam, peak, upstream)
    assert_near(grad_a, wanted[0], 2e-5)
    assert_near(grad_d, wanted[1][..., 0, 0], 2e-4)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_gradients_in_the_arithmetic_dtype(layout, dtype):
    sample = make(SHAPES["AlexNet"], dtype, layout)
    mixed = (sample[0], sample[1].float(), *sample[2:])
    for got, wanted in zip(
        run(Emulator(), mixed, None), run(Emulator(), sample, None), strict=True
    ):
        assert_near(got, wanted.double(), 1e-5)


@pytest.mark.parametrize("multiprocessors", (1, 8, 132, 1000))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(
    "shape",
    ((2, 2, 1024, (7, 7), (7, 7)), (2, 1, 2048, (7, 7), (7, 7)), (2, 1, 12, (28, 56), (28, 56))),
    ids=str,
)
def test_any_number_of_multiprocessors(shape, layout, dtype, multiprocessors):
    """Few: one small block a sample; many: channel blocks whose parts the last one adds up."""
    sample = make(shape, dtype, layout)
    a, d, regions, weights = (t.double() for t in sample)
    a.requires_grad_()
    d.requires_grad_()
    wanted = reference.cam_iou_loss(a, d, regions, cell_weights=weights, reduction="none")
    wanted_a, wanted_d = torch.autograd.grad(wanted.sum(), (a, d))
    got = run(Emulator(multiprocessors=multiprocessors), sample, None)
    loss, alpha, _, _, grad_a, grad_d = got
    assert_near(loss, wanted.detach(), TOLERANCE[dtype])
    assert_near(alpha, d.detach().sum((-2, -1)) / regions[0, 0].numel(), TOLERANCE[dtype])
    assert_near(grad_a, wanted_a, STORED[dtype])
    assert_near(grad_d, wanted_d[..., 0, 0], 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("only", ("activations", "gradients"))
def test_only_one_gradient(only, layout):
    activations, gradients, upstream, _ = make(SHAPES["AlexNet"], torch.float32, layout)
    emulator = Emulator()
    cam, alpha, peak = emulator.cam_forward(activations, gradients)
    both = emulator.cam_backward(activations, alpha, cam, peak, upstream)
    one = emulator.cam_backward(
        activations,
        alpha,
        cam,
        peak,
        upstream,
        need_activations=only == "activations",
        need_gradients=only == "gradients",
    )
    kept = 0 if only == "activations" else 1
    assert one[1 - kept].numel() == 0
    assert torch.equal(one[kept], both[kept])


@pytest.mark.parametrize("poison", (torch.nan, torch.inf))
@pytest.mark.parametrize("splits", (1, 132))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_invalid_pairs_are_zero_whatever_the_inputs_hold(layout, splits, poison):
    """Off by `where`, or with an empty region; next to a valid pair of the sample, or alone."""
    activations, gradients, regions, _ = make((3, 3, 512, (6, 5), (6, 5)), torch.float32, layout)
    activations[1:], gradients[0, :2], gradients[1:] = poison, poison, poison
    regions[0, 1] = 0
    regions[2] = 0
    where = torch.ones(3, 3, dtype=torch.bool)
    where[0, 0] = False
    where[1] = False
    emulator = Emulator(multiprocessors=splits)
    loss, alpha, grad_map, status, constants = emulator.cam_iou_forward(
        activations, gradients, regions, where=where, need_gradients=True
    )
    grad_a, grad_d = emulator.cam_iou_backward(activations, alpha, grad_map, status, constants)
    valid = torch.zeros(3, 3, dtype=torch.bool)
    valid[0, 2] = True
    assert torch.equal(status & 1, valid.to(torch.uint8))
    for out in (loss, alpha, grad_map, grad_d):
        assert (out[~valid] == 0).all()
        assert torch.isfinite(out[valid]).all() and out[valid].abs().sum() > 0
    assert (grad_a[1:] == 0).all() and torch.isfinite(grad_a[0]).all()


def test_nan_of_a_valid_pair_stays_visible():
    activations, gradients, regions, _ = make(SHAPES["AlexNet"], torch.float32, "contiguous")
    activations[1, 3, 2, 2] = torch.nan
    loss, alpha, grad_map, status, constants = Emulator().cam_iou_forward(
        activations, gradients, regions, need_gradients=True
    )
    assert torch.isfinite(loss[0]).all() and loss[1].isnan().all() and (status & 1).all()
    grad_a, _ = Emulator().cam_iou_backward(activations, alpha, grad_map, status, constants)
    assert grad_a[1].isnan().any() and torch.isfinite(grad_a[0]).all()


def test_dead_map_and_first_peak_of_a_tie():
    activations = torch.zeros(2, 8, 6, 6)
    activations[1, :, 1, 4] = activations[1, :, 3, 0] = 2.0
    gradients = torch.ones(2, 1, 8, 3, 3)
    loss, _, grad_map, status, _ = Emulator().cam_iou_forward(
        activations, gradients, torch.rand(2, 1, 6, 6)
    )
    assert status.flatten().tolist() == [3, 1]
    assert (grad_map[0] == 0).all() and torch.isfinite(loss).all()
    cam, _, _ = Emulator().cam_forward(activations, gradients)
    assert cam[1, 0, 1, 4] == 1 and cam[1, 0, 3, 0] == 1
    a, d = activations.double().requires_grad_(), gradients.double()
    wanted = reference.cam_iou_loss(a, d, torch.ones(2, 1, 6, 6).double(), reduction="none")
    wanted_a = torch.autograd.grad(wanted.sum(), a)[0]
    out = Emulator().cam_iou_forward(activations, gradients, torch.ones(2, 1, 6, 6))
    grad_a, _ = Emulator().cam_iou_backward(activations, *out[1:4], None)
    assert_near(grad_a, wanted_a, 1e-5)
