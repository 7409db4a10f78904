"""Values out of range: masks of 0 to 255, negative and NaN masks and weights, integer masks."""

from __future__ import annotations

import pytest
import torch
from networks import grids, small_cnn
from samples import SHAPES, make

from fastcam import functional as F
from fastcam import reference
from fastcam.cam.tap import ActivationTap
from fastcam.losses.cam import IoUCamLoss
from fastcam.models.checkpoint import Preprocessing

NAN, INF = float("nan"), float("inf")
GOOD = make(SHAPES[2])


def call(regions=GOOD.regions, **options):
    return F.cam_iou_loss(GOOD.activations, GOOD.gradients, regions, **options)


def changed(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Of pair (1, 0) one cell in the middle."""
    regions = GOOD.regions.clone().to(dtype)
    regions[1, 0, 3, 2] = value
    return regions


BAD_REGIONS = (255.0, 1.01, -0.01, -1.0, NAN, INF, -INF)
BAD_WEIGHTS = (-1.0, -1e-6, NAN, INF)


@pytest.mark.parametrize("value", BAD_REGIONS)
@pytest.mark.parametrize(
    "dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str
)
def test_regions_beyond_0_to_1(value, dtype):
    message = r"^regions: expected values in \[0, 1\], got "
    with pytest.raises(ValueError, match=message) as caught:
        call(changed(value, dtype))
    assert ("divide a mask of 0 to 255 by 255" in str(caught.value)) == (value > 1)
    with pytest.raises(ValueError, match=message):
        F.valid_targets(changed(value, dtype))
    with pytest.raises(ValueError, match=message):
        F.cam_iou_loss(GOOD.activations.double(), GOOD.gradients, changed(value, dtype))


@pytest.mark.parametrize("value", BAD_WEIGHTS)
@pytest.mark.parametrize("shape", ((7, 7), (1, 1, 7, 7), (3, 1, 7, 7), (1, 2, 7, 7), (3, 2, 7, 7)))
def test_weights_that_are_negative_or_not_finite(value, shape):
    weights = torch.ones(shape)
    weights[..., 6, 6] = value
    message = "^cell_weights: expected finite values >= 0, got "
    with pytest.raises(ValueError, match=message):
        call(cell_weights=weights)
    with pytest.raises(ValueError, match=message):
        F.valid_targets(GOOD.regions, weights)
    with pytest.raises(ValueError, match=message):  # finite until it is float32
        call(cell_weights=torch.full(shape, 1e300, dtype=torch.float64))


def test_what_rounding_leaves_beyond_0_to_1_passes():
    for value in (1.0005, -0.0005, 0.0, 1.0):
        assert call(changed(value)).isfinite()
        F.valid_targets(changed(value))
    assert call(cell_weights=torch.zeros(7, 7)) == 0


def test_pairs_that_are_switched_off_are_not_looked_at():
    """A mask that is missing may hold anything."""
    where = torch.ones(3, 2, dtype=torch.bool)
    where[1, 0] = False
    wanted = call(where=where)
    weights = torch.ones(3, 2, 7, 7)
    weights[1, 0] = NAN
    for value in BAD_REGIONS:
        assert torch.equal(call(changed(value), where=where), wanted)
        assert torch.equal(call(changed(value), where=where, cell_weights=weights), wanted)
        assert torch.equal(F.valid_targets(changed(value), weights, where), where)


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int64, torch.int32), ids=str)
def test_integer_masks_say_how_to_convert_them(dtype):
    with pytest.raises(TypeError, match=r"^regions: .* pass a 0/1 mask as mask.bool\(\)"):
        call((GOOD.regions > 0.5).to(dtype))
    with pytest.raises(TypeError, match=r"^regions: .* one of 0 to 255 as mask / 255"):
        F.valid_targets((GOOD.regions * 255).to(dtype))
    with pytest.raises(TypeError, match=r"^cell_weights: .* pass cell_weights.float\(\)"):
        call(cell_weights=torch.ones(7, 7, dtype=dtype))
    with pytest.raises(TypeError, match=r"^where: expected dtype bool \(as labels > 0 is\)"):
        call(where=torch.ones(3, 2, dtype=dtype))
    mask = GOOD.regions > 0.5
    assert torch.equal(call(mask), call(mask.float()))


@pytest.mark.parametrize("head", ["auto", "autograd"])
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"regions": 255 * grids(4, 6, 6)}, "^regions: expected values"),
        ({"regions": -grids(4, 6, 6)}, "^regions: expected values"),
        ({"regions": grids(4, 6, 6).masked_fill(grids(4, 6, 6) == 0, NAN)}, "^regions: .* nan"),
        ({"cell_weights": torch.full((6, 6), -1.0)}, "^cell_weights: expected finite values"),
        ({"cell_weights": torch.full((6, 6), NAN)}, "^cell_weights: .* got nan"),
    ],
)
def test_the_criterion_looks_too(changes, match, head):
    net = small_cnn()
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    arguments = {"regions": grids(4, 6, 6)} | changes
    with ActivationTap(net, "4") as tap, pytest.raises(ValueError, match=match):
        IoUCamLoss(head=head)(net(x), tap, arguments.pop("regions"), 1, **arguments)


@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
def test_a_compiled_graph_says_the_same(backend):
    loss = torch.compile(call, fullgraph=True, backend=backend)
    valid = torch.compile(F.valid_targets, fullgraph=True, backend=backend)
    for compiled in (loss, valid):
        compiled(GOOD.regions)
        with pytest.raises(RuntimeError, match=r"regions: expected values in \[0, 1\]"):
            compiled(GOOD.regions * 255)
    with pytest.raises(RuntimeError, match="cell_weights: expected finite values >= 0"):
        loss(GOOD.regions, cell_weights=-torch.ones(7, 7))


def test_shapes_without_values_are_not_looked_at():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = torch.empty(3, 2, 7, 7)
        assert F.valid_targets(fake).shape == (3, 2)
    assert F.valid_targets(GOOD.regions.to("meta")).shape == (3, 2)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16), ids=str)
def test_masks_of_the_tone_curve(dtype):
    mask = torch.tensor([0.0, 0.5, 1.0], dtype=dtype)
    F.tone_curve(mask.clone().requires_grad_(), n=2.0).sum().backward()
    for value in (255.0, -0.5, INF):
        with pytest.raises(ValueError, match=r"^mask: expected values in \[0, 1\], got "):
            F.tone_curve(mask + value, n=2.0)
    mask[1] = NAN  # of a network that diverged
    assert F.tone_curve(mask, n=2.0)[1].isnan()
    assert F.tone_curve(mask[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", (torch.uint8, torch.float32, torch.float64), ids=str)
def test_normalizing_images_leaves_them_alone(dtype):
    images = torch.randint(0, 256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    images = images.to(dtype)
    kept = images.clone()
    normal = Preprocessing().normalize(images)
    assert torch.equal(images, kept)
    assert normal.dtype == torch.float32
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (Preprocessing().mean, Preprocessing().std)
    )
    torch.testing.assert_close(normal, (kept.float() / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_a_cell_at_the_threshold_is_outside_of_the_hard_set(device):
    a = torch.tensor([1.0, 0.5], device=device, dtype=torch.float64).view(1, 1, 1, 2)
    regions = torch.tensor([True, False], device=device).view(1, 1, 2)
    for function in (F.cam_iou_loss, reference.cam_iou_loss):
        assert function(a, torch.ones_like(a), regions, binarize="hard") == 0
