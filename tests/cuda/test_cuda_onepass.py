"""The one-pass form of the loss on emulated CUDA kernels."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from emulation import CLUSTER_SHARED_BYTES, EmulatedOps, Emulator, compiler
from samples import make
from test_cam_iou import in_float64, loss_and_grads

from fastcam import functional as F
from fastcam import reference
from fastcam.ops import cam_loss

pytestmark = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler")

FULL, HALF = (torch.float32, torch.float64), (torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class Counted(EmulatedOps):
    """The traffic of all ops that were called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(count=True, **options)
        self.emulators: list[Emulator] = []

    def emulator(self) -> Emulator:
        self.emulators.append(super().emulator())
        return self.emulators[-1]

    @property
    def launches(self) -> int:
        return sum(emulator.traffic.launches for emulator in self.emulators)

    @property
    def bytes(self) -> int:
        return sum(emulator.traffic.bytes for emulator in self.emulators)


@pytest.fixture
def ops(monkeypatch: pytest.MonkeyPatch):
    """``ops(**options)`` puts emulated ops of these options under the one-pass form."""

    def put(**options: Any) -> Counted:
        made = Counted(**{"cluster_bytes": CLUSTER_SHARED_BYTES, **options})
        monkeypatch.setattr(cam_loss, "raw", made)
        return made

    return put


def assert_reference(sample, reduction: str = "mean") -> None:
    exact = loss_and_grads(reference.cam_iou_loss, in_float64(sample), reduction)
    got = loss_and_grads(F.cam_iou_loss, sample, reduction)
    dtype = sample.activations.dtype
    tolerance = TOLERANCE.get(dtype, 2e-2)
    for one, wanted in zip(got, exact, strict=True):
        scale = wanted.abs().max().item() + 1e-12
        torch.testing.assert_close(
            one.double(), wanted, rtol=tolerance, atol=0.1 * tolerance * scale
        )


def where(*pairs: int) -> torch.Tensor:
    return torch.tensor(pairs).bool()


# Shape, layout, options of the loss. (One multiprocessor: few blocks a sample.)
CASES = {
    "odd map": ((2, 1, 32, (13, 13), (6, 6)), "contiguous", {}),
    "rows of vectors": ((1, 1, 24, (8, 8), (4, 4)), "contiguous", {"binarize": "hard"}),
    "unaligned": ((3, 2, 20, (5, 7), (3, 3)), "sliced", {"binarize": "sigmoid"}),
    "channels last": ((2, 1, 64, (7, 7), (7, 7)), "channels_last", {}),
    "odd channels, last": ((2, 2, 13, (4, 3), (1, 1)), "channels_last", {}),
    "some targets": ((2, 3, 40, (7, 7), (3, 3)), "contiguous", {"max_pair_pull": 1.0}),
    "many targets": ((1, 16, 40, (5, 5), (3, 3)), "contiguous", {}),
    "targets in turns": ((1, 18, 24, (3, 3), (2, 2)), "channels_last", {}),
    "one cell": ((2, 2, 9, (1, 1), (1, 1)), "contiguous", {}),
    "larger than a block": ((1, 2, 13, (18, 30), (2, 2)), "contiguous", {}),
    "a row and a bit": ((2, 1, 16, (1, 5), (1, 1)), "contiguous", {}),
    "a row and a bit, 16 bits": ((2, 1, 16, (3, 3), (1, 1)), "contiguous", {}),
    # The last block has fewer channels than the others, and more groups of threads for each.
    "fewer channels at the end": ((1, 1, 400, (7, 7), (1, 1)), "contiguous", {}),
    "fewer, some targets": ((2, 4, 313, (3, 3), (1, 1)), "contiguous", {}),
    "fewer, D of A's size": ((1, 4, 339, (6, 6), (6, 6)), "channels_last", {}),
    "fewer, many targets": ((2, 16, 371, (7, 7), (1, 1)), "contiguous", {}),
    "switched off": ((2, 2, 24, (6, 6), (3, 3)), "contiguous", {"where": where(1, 0)}),
    "switched off, the first turn": (
        (1, 18, 24, (3, 3), (2, 2)),
        "contiguous",
        {"where": torch.arange(18)[None] > 15},
    ),
}


@pytest.mark.parametrize("multiprocessors", (1, 132))
@pytest.mark.parametrize("backwards", (False, True))
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_the_reference_s(name, backwards, multiprocessors, ops):
    shape, layout, options = CASES[name]
    used = ops(reversed=backwards, multiprocessors=multiprocessors)
    assert_reference(make(shape, layout=layout, sharpness=3.0, **options))
    assert used.launches == 2


RING = {
    **{name: case for name, case in CASES.items() if 1 < case[0][1] <= 16},
    "ring that turns": ((2, 13, 48, (6, 6), (5, 5)), "contiguous", {}),
    "ring, channels last": ((1, 9, 24, (4, 5), (4, 5)), "channels_last", {}),
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("multiprocessors", (1, 132))
@pytest.mark.parametrize("name", RING)
def test_gradients_in_the_place_of_the_activations(name, multiprocessors, dtype, ops):
    """``FASTCAM_CAM_KERNELS=ring``."""
    shape, layout, options = RING[name]
    reverse = dtype == torch.float64
    used = ops(kernels="ring", reversed=reverse, multiprocessors=multiprocessors)
    assert_reference(make(shape, layout=layout, dtype=dtype, sharpness=3.0, **options))
    assert used.launches == 2


@pytest.mark.parametrize(("kernels", "launches"), (("ring", 2), ("", 3)))
def test_the_ring_needs_less_shared_memory(kernels, launches, ops):
    used = ops(kernels=kernels, cluster_bytes=64 * 1024)
    assert_reference(make((1, 4, 128, (20, 20), (20, 20)), sharpness=3.0))
    assert used.launches == launches


@pytest.mark.parametrize(
    "name", ("odd map", "unaligned", "channels last", "many targets", "a row and a bit, 16 bits")
)
@pytest.mark.parametrize("dtype", (torch.float64, *HALF), ids=str)
def test_other_dtypes(name, dtype, ops):
    shape, layout, options = CASES[name]
    ops(reversed=name == "unaligned")
    assert_reference(make(shape, layout=layout, dtype=dtype, sharpness=3.0, **options))


@pytest.mark.parametrize("seed", range(150))
def test_any_shape(seed, ops):
    """Channels that no block divides, maps a little wider than a vector, GPUs of all sizes."""
    draw = random.Random(seed)
    targets = draw.choice((1, 1, 2, 4, 4, 7, 16, 17))
    channels = draw.choice((draw.randint(3, 64), draw.randint(3, 600), 400, 2208))
    cells = draw.choice(((1, 5), (2, 3), (3, 3), (5, 7), (7, 7), (8, 8)))
    grad_cells = draw.choice(((1, 1), cells, (3, 3)))
    batch = 2 if targets * channels < 1200 else 1
    ops(
        kernels=draw.choice(("", "", "ring")),
        cluster_bytes=draw.choice((CLUSTER_SHARED_BYTES, CLUSTER_SHARED_BYTES, 100 * 1024, 0)),
        reversed=draw.random() < 0.5,
        multiprocessors=draw.choice((1, 16, 132)),
        seed=seed if seed % 2 == 1 else 0,
    )
    layout = draw.choice(("contiguous", "channels_last", "sliced"))
    dtype = draw.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16))
    shape = batch, targets, channels, cells, grad_cells
    assert_reference(make(shape, dtype=dtype, layout=layout, sharpness=3.0, seed=seed))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_only_the_first_sample_is_aligned(layout, ops):
    """A value lies between the samples, after which no vector of the second begins."""
    ops(multiprocessors=1)
    sample = make((2, 1, 24, (8, 8), (4, 4)), layout=layout, sharpness=3.0)
    strides = sample.activations.stride()
    apart = torch.empty_strided((2, 24, 8, 8), (strides[0] + 1, *strides[1:]))
    sample.activations = apart.copy_(sample.activations)
    assert_reference(sample)


@pytest.mark.parametrize("backwards", (False, True))
def test_the_mean_over_the_targets_of_one_sample_without_clusters(backwards, ops):
    """One block has all pairs: other threads than the one that stored their losses add them up."""
    used = ops(cluster_bytes=0, reversed=backwards)
    assert_reference(make((1, 4, 24, (6, 6), (3, 3)), sharpness=3.0))
    assert used.launches == 3


@pytest.mark.parametrize("reduction", ("none", "sum"))
def test_reductions_weights_and_empty_regions(reduction, ops):
    ops()
    weights = 1 + torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    sample = make((2, 3, 24, (6, 6), (3, 3)), cell_weights=weights, sharpness=3.0)
    sample.regions[1, 2] = 0
    assert_reference(sample, reduction)


def test_the_gradient_of_activations_alone(ops):
    """``weight_grad="detach"``: dD's constants are not made."""
    used = ops()
    sample = make((2, 2, 24, (6, 6), (3, 3)), sharpness=3.0)
    full = loss_and_grads(F.cam_iou_loss, sample, "mean")
    both = used.bytes
    activations = sample.activations.clone().requires_grad_()
    loss = F.cam_iou_loss(activations, sample.gradients, sample.regions, **sample.options)
    assert torch.equal(loss, full[0])
    assert torch.equal(torch.autograd.grad(loss, activations)[0], full[1])
    constants = 4 * 2 * 2 * 24  # written and read, and written once more
    assert both - (used.bytes - both) >= 3 * constants


def test_nothing_is_launched_without_targets(ops):
    """Where the gradient of D alone is asked for, too."""
    used = ops()
    activations, regions = torch.rand(2, 5, 3, 3), torch.rand(2, 0, 3, 3)
    gradients = torch.rand(2, 0, 5, 2, 2, requires_grad=True)
    loss = F.cam_iou_loss(activations, gradients, regions)
    (grad,) = torch.autograd.grad(loss, gradients)
    assert loss == 0 and grad.shape == gradients.shape
    assert used.launches == 0


@pytest.mark.parametrize("backwards", (False, True))
@pytest.mark.parametrize(
    ("channels", "multiprocessors", "kilobytes", "dtype"),
    (
        (272, 2, 227, torch.float32),
        (576, 4, 227, torch.bfloat16),  # MobileNetV3 small
        (8, 4, 17, torch.float64),
    ),
)
def test_a_block_that_is_ahead_leaves_its_part_of_the_map(
    channels, multiprocessors, kilobytes, dtype, backwards, ops
):
    """Other blocks may still read it. Shapes in which little memory lies before it."""
    used = ops(multiprocessors=multiprocessors, reversed=backwards, cluster_bytes=kilobytes * 1024)
    assert_reference(make((1, 1, channels, (7, 7), (1, 1)), dtype=dtype, sharpness=3.0))
    assert used.launches == 2


@pytest.mark.parametrize("poison", (torch.nan, torch.inf))
def test_an_invalid_pair_is_exactly_zero_whatever_it_holds(poison, ops):
    ops()
    sample = make((2, 2, 24, (6, 6), (3, 3)), where=where(0, 1))
    sample.activations[0], sample.gradients[0] = poison, poison
    _, grad_a, grad_d = loss_and_grads(F.cam_iou_loss, sample)
    assert not grad_a[0].any() and not grad_d[0].any()
    assert grad_a[1].any() and grad_d[1].any()


def test_what_does_not_fit_into_a_cluster_takes_more_launches(ops):
    used = ops()
    assert_reference(make((1, 1, 512, (28, 28), (2, 2)), sharpness=3.0, dtype=torch.float64))
    assert used.launches == 3  # maps, loss and mean; dD's constants; backward


@pytest.mark.parametrize(
    ("shape", "kernels"),
    [
        ((2, 1, 256, (13, 13), (6, 6)), ""),
        ((1, 1, 512, (14, 14), (14, 14)), ""),
        ((1, 1, 512, (7, 7), (7, 7)), ""),
        ((1, 4, 256, (13, 13), (6, 6)), ""),
        ((1, 4, 256, (13, 13), (6, 6)), "ring"),
    ],
)
def test_activations_and_gradients_are_read_once(shape, kernels, ops):
    """Also in a backward that reads nothing of their size. As with many samples a multiprocessor:
    few are cut into many blocks, which read the small tensors again."""
    used = ops(multiprocessors=1, kernels=kernels)
    sample = make(shape)
    loss_and_grads(F.cam_iou_loss, sample, "mean")
    assert used.launches == 2
    least = 4 * (2 * sample.activations.numel() + sample.gradients.numel())
    n, t, c, (h, w), _ = shape
    # alpha, d loss / d map and dD's constants: written by the forward and read by the backward,
    # which stores the constants times its upstream gradient.
    small = 4 * n * t * (5 * c + 3 * h * w)
    assert used.bytes <= 1.05 * (least + small)
