"""``F.cam_loss``: every loss against its reference twin, and values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import LAYOUTS, SHAPES, make, status_of, weights_for
from test_cam_iou import in_float64, loss_and_grads

from fastcam import functional as F
from fastcam import reference
from fastcam.ops.cam_loss import LOSSES
from fastcam.ops.library import raw

# Every loss, those that the library gets later too, and its other form.
CASES = {name: {"loss": name} for name in LOSSES}
CASES |= {
    f"{name}, away": {"loss": name, "away": True} for name in LOSSES if "away" in LOSSES[name][1]
}
DEAD = {
    "energy": lambda s, w: 1.0,
    "energy, away": lambda s, w: 0.0,
    "l1": lambda s, w: (w * s).sum() / w.sum(),
    "ppce": lambda s, w: -math.log(1e-3),
    "outside": lambda s, w: 0.0,
    "outside, away": lambda s, w: 0.0,
    "center": lambda s, w: sum(
        (((w * s).sum(1 - axis) * torch.arange(n)).sum() / (w * s).sum() - (n - 1) / 2) ** 2 / n**2
        for axis, n in enumerate(s.shape)
    ),
}
each = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def assert_reference(sample, reduction="none", tolerance=1e-9) -> None:
    got = loss_and_grads(F.cam_loss, sample, reduction)
    exact = loss_and_grads(reference.cam_loss, in_float64(sample), reduction)
    for one, wanted in zip(got, exact, strict=True):
        scale = max(wanted.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            one.double(), wanted, rtol=tolerance, atol=0.1 * tolerance * scale
        )


@each
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtype", (torch.float64, torch.float32, torch.float16, torch.bfloat16), ids=str
)
def test_value_and_gradients_are_the_reference_s(options, dtype, layout, device):
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-4}.get(dtype, 2e-2)
    for shape in SHAPES[1:3]:
        sample = make(shape, dtype=dtype, layout=layout, device=device, **options)
        assert_reference(sample, tolerance=tolerance)


@each
@pytest.mark.parametrize("name", weights_for(SHAPES[2]))
def test_cell_weights_where_and_reductions(options, name, device):
    weights = weights_for(SHAPES[2])[name]
    where = torch.tensor([[True, False], [False, False], [True, True]])
    sample = make(
        SHAPES[2], dtype=torch.float64, device=device, cell_weights=weights, where=where, **options
    )
    for reduction in ("none", "mean", "sum"):
        assert_reference(sample, reduction)
    plain = make(SHAPES[2], dtype=torch.float64, device=device, **options)
    assert not torch.allclose(*(loss_and_grads(F.cam_loss, s, "sum")[0] for s in (sample, plain)))


@each
def test_gradcheck(options, device):
    sample = make((2, 2, 3, (3, 2), (1, 1)), dtype=torch.float64, device=device, **options)
    weights = torch.rand(3, 2, dtype=torch.float64, device=device) + 0.5
    assert torch.autograd.gradcheck(
        lambda a, d: F.cam_loss(
            a, d, sample.regions, cell_weights=weights, reduction="none", **options
        ),
        sample.leaves(),
    )


@each
@pytest.mark.parametrize("limit", (1e-3, 0.5, 1e6))
def test_a_cut_gradient_is_the_reference_s(options, limit, device):
    for shape in SHAPES[1:3]:
        sample = make(shape, dtype=torch.float64, device=device, **options)
        sample.options["max_pair_pull"] = limit
        assert_reference(sample)


@pytest.mark.parametrize("name", DEAD)
def test_a_dead_map_has_its_value_and_no_gradient(name, device):
    weights = weights_for(SHAPES[2])["[H,W]"]
    sample = make(
        SHAPES[2], dtype=torch.float64, device=device, cell_weights=weights, **CASES[name]
    )
    sample.gradients[1, 0] = -sample.gradients[1, 0].abs()
    loss, grad_a, grad_d = loss_and_grads(F.cam_loss, sample, "none")
    wanted = DEAD[name](sample.regions[1, 0].cpu(), weights.double())
    assert loss[1, 0].item() == pytest.approx(float(wanted), rel=1e-12)
    assert (grad_d[1, 0] == 0).all() and grad_d[0, 0].any() and grad_a[0].any()
    status = status_of(sample, **CASES[name])
    assert status[1, 0] == 3 and (status[[0, 2]] == 1).all()
    assert_reference(sample)


@each
def test_an_invalid_pair_is_exactly_zero_whatever_the_inputs_hold(options, device):
    sample = make(SHAPES[3], device=device, **options)
    sample.regions[0] = 0
    for poison in (float("nan"), float("inf")):
        sample.activations[0, ::3] = poison
        sample.gradients[0] = poison
        loss, grad_a, grad_d = loss_and_grads(F.cam_loss, sample, "none")
        assert (loss[0] == 0).all() and (grad_a[0] == 0).all() and (grad_d[0] == 0).all()
        assert loss[1].isfinite().all() and grad_a[1].any() and grad_d[1].isfinite().all()
        assert (status_of(sample, **options)[0] == 0).all()
        assert_reference(sample, tolerance=1e-4)


@pytest.mark.parametrize("away", (False, True))
def test_outside_needs_an_outside(away, device):
    sample = make(SHAPES[3], device=device, loss="outside", away=away)
    sample.regions[0, 1] = 1
    sample.gradients[0, 1] = float("nan")
    status = status_of(sample, loss="outside", away=away)
    assert bool(status[0, 1] & 1) == away and (status[1] & 1).all()
    loss, grad_a, grad_d = loss_and_grads(F.cam_loss, sample, "none")
    if away:
        assert loss[0, 1].isnan() and grad_d[0, 1].isnan().any()
    else:
        assert loss[0, 1] == 0 and (grad_d[0, 1] == 0).all() and grad_a.isfinite().all()
        assert_reference(sample, "mean", tolerance=1e-4)
        # What resizing a mask leaves above 1 does not make an outside.
        sample.regions[0, 1, 0] += 1e-4
        assert loss_and_grads(F.cam_loss, sample, "none")[0][0, 1] == 0
        assert_reference(sample, "mean", tolerance=1e-4)


@each
@pytest.mark.parametrize("poison", (float("nan"), float("inf")))
def test_nan_and_inf_in_a_valid_pair_stay_visible(options, poison, device):
    sample = make(SHAPES[2], device=device, **options)
    sample.gradients.abs_()
    sample.activations[1, 4, 3, 2] = poison
    loss, grad_a, grad_d = loss_and_grads(F.cam_loss, sample, "none")
    assert loss[1].isnan().all() and loss[[0, 2]].isfinite().all()
    assert grad_d[1].isnan().any() and grad_d[[0, 2]].isfinite().all()
    assert grad_a[[0, 2]].isfinite().all()
    assert (
        reference.cam_loss(
            sample.activations, sample.gradients, sample.regions, reduction="none", **options
        )[1]
        .isnan()
        .all()
    )


@each
def test_ties_give_the_peak_gradient_to_the_first_cell(options, device):
    activations = torch.tensor([[0.2, 1.0, 0.5], [1.0, 0.7, 1.0]], dtype=torch.float64)
    sample = make((1, 1, 1, (2, 3), (1, 1)), dtype=torch.float64, device=device, **options)
    sample.activations.copy_(activations)
    sample.gradients.fill_(6)
    assert_reference(sample)


@each
@pytest.mark.parametrize("shape", ((0, 2, 4, (5, 5), (3, 3)), (3, 0, 4, (5, 5), (3, 3))))
def test_empty_axes(options, shape, device):
    sample = make(shape, device=device, **options)
    loss, grad_a, _ = loss_and_grads(F.cam_loss, sample, "none")
    assert loss.shape == shape[:2] and (grad_a == 0).all()
    assert F.cam_loss(sample.activations, sample.gradients, sample.regions, **options) == 0


# ---- values worked out by hand -------------------------------------------------------------------

X = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.25, 0.75]], dtype=torch.float64)
S = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]], dtype=torch.float64)
W = torch.tensor([[1.0, 2.0, 1.0], [1.0, 1.0, 2.0]], dtype=torch.float64)


def of_map(x, s=S, w=W, **options):
    """The loss of a normalised map: one channel, whose weight is 1."""
    device = x.device
    gradients = torch.full((1, 1, 1, 1, 1), float(x.numel()), dtype=torch.float64, device=device)
    return F.cam_loss(
        x[None, None], gradients, s[None, None].to(device), cell_weights=w.to(device), **options
    ).item()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("energy", 1 - (1 + 0.25) / (1 + 1 + 0.25 + 1.5)),
        ("energy, away", (1 + 0.25) / 3.75),
        ("l1", (0 + 2 * 0.5 + 0.5 + 0 + 0.75 + 2 * 0.75) / 8),
        ("ppce", -(math.log(1.001) + 0.5 * math.log(0.001) + math.log(0.251)) / 2.5),
        ("outside", (2 * 0.25 + 0 + 2 * 0.75**2) / (2 + 0.5 + 1 + 2)),
        ("outside, away", (1 + 0.25**2) / 2.5),
        # centroids: x (1.75, 4.25) / 3.75, S (1, 2) / 2.5
        ("center", ((1.75 / 3.75 - 1 / 2.5) / 2) ** 2 + ((4.25 / 3.75 - 2 / 2.5) / 3) ** 2),
    ],
)
def test_values_by_hand(name, wanted, device):
    assert of_map(X.to(device), **CASES[name]) == pytest.approx(wanted, rel=1e-12)


def test_iou_is_cam_iou_loss_with_its_defaults(device):
    sample = make(SHAPES[2], device=device)
    arguments = sample.activations, sample.gradients, sample.regions
    assert torch.equal(F.cam_loss(*arguments, loss="iou"), F.cam_iou_loss(*arguments))
    assert torch.equal(
        F.cam_loss(*arguments, loss="iou", eps=0.1), F.cam_iou_loss(*arguments, eps=0.1)
    )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"loss": "iuo"}, ValueError, "loss: expected one of 'iou', 'energy', .*, got 'iuo'"),
        ({"loss": ["iou"]}, ValueError, "loss: expected one of"),
        ({"loss": "l1", "away": True}, ValueError, "away: .* 'l1' .*'energy' and 'outside'"),
        ({"loss": "center", "away": True}, ValueError, "away: expected nothing with the loss"),
        ({"loss": "iou", "away": True}, ValueError, "away: expected nothing with the loss 'iou'"),
        ({"loss": "energy", "eps": 1e-3}, ValueError, "eps: .*'energy' .*'iou' and 'ppce'.*0.001"),
        ({"loss": "energy", "away": 1}, TypeError, "away: expected True or False, got int"),
        ({"loss": "ppce", "eps": 0.0}, ValueError, "eps: expected a number finite and > 0"),
        ({"loss": "ppce", "eps": "a"}, TypeError, "eps: expected a number finite and > 0"),
        ({"loss": "ppce", "eps": [1]}, TypeError, "eps: expected a number finite and > 0"),
        ({"reduction": "avg"}, ValueError, "reduction: expected one of"),
        ({"max_pair_pull": 0.0}, ValueError, "max_pair_pull: expected"),
    ],
)
def test_options_that_do_not_fit(options, error, words, device):
    sample = make(SHAPES[1], device=device)
    with pytest.raises(error, match=words):
        F.cam_loss(sample.activations, sample.gradients, sample.regions, **options)


# ---- properties ----------------------------------------------------------------------------------

SIZES = st.integers(1, 9)


@st.composite
def maps(draw, dtype=torch.float64):
    """A sample of one loss, and its options."""
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 20)),
        (draw(SIZES), draw(SIZES)),
        (draw(SIZES), draw(SIZES)),
    )
    options = CASES[draw(st.sampled_from(list(CASES)))]
    seed = draw(st.integers(0, 2**16))
    return make(shape, dtype=dtype, layout=draw(st.sampled_from(LAYOUTS)), seed=seed, **options)


def pairs(sample, **changes):
    arguments = sample.activations, sample.gradients, sample.regions
    return F.cam_loss(*arguments, reduction="none", **(sample.options | changes))


@settings(max_examples=60, deadline=None)
@given(sample=maps())
def test_any_call_is_the_reference_s(sample, device):
    assert_reference(sample.on(device), tolerance=1e-7)


@settings(max_examples=60, deadline=None)
@given(sample=maps(torch.float32))
def test_bounds(sample, device):
    most = {"ppce": -math.log(1e-3), "center": 2.0, "iou": math.inf}.get(
        sample.options["loss"], 1.0
    )
    least = -math.log1p(1e-3) if sample.options["loss"] == "ppce" else 0.0
    value = pairs(sample.on(device))
    assert (value >= least - 1e-5).all() and (value <= most + 1e-5).all()


@settings(max_examples=40, deadline=None)
@given(sample=maps(), by=st.floats(1e-3, 1e3), weight=st.floats(0.5, 4))
def test_scales_of_the_map_and_of_the_weights_change_nothing(sample, by, weight, device):
    sample = sample.on(device)
    wanted = pairs(sample)
    sample.activations = sample.activations * by
    changes = {}
    if sample.options["loss"] != "iou":  # whose eps is not scaled
        changes["cell_weights"] = torch.full(
            sample.regions.shape[-2:], weight, dtype=torch.float64, device=device
        )
    torch.testing.assert_close(pairs(sample, **changes), wanted, rtol=1e-6, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(sample=maps())
def test_flipping_map_and_region_changes_nothing(sample, device):
    sample = sample.on(device)
    wanted = pairs(sample)
    sample.activations = sample.activations.flip(-2)
    sample.regions = sample.regions.flip(-2)
    torch.testing.assert_close(pairs(sample), wanted, rtol=1e-6, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), cols=st.integers(1, 9), data=st.data())
def test_a_map_that_is_its_region_costs_nothing(rows, cols, data, device):
    cells = st.lists(st.booleans(), min_size=rows * cols, max_size=rows * cols)
    mask = torch.tensor(data.draw(cells)).view(rows, cols).double()
    mask[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))] = 1
    x, w = mask.to(device), torch.rand(rows, cols, dtype=torch.float64) + 0.5
    for name in ("iou", "energy", "center", "l1", "outside"):
        assert of_map(x, mask, w, loss=name) == pytest.approx(0, abs=1e-9)
    assert of_map(x, mask, w, loss="ppce") == pytest.approx(-math.log(1.001), rel=1e-9)
    assert of_map(x, mask, w, loss="energy", away=True) == pytest.approx(1, rel=1e-12)
    assert of_map(x, mask, w, loss="outside", away=True) == pytest.approx(1, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    down=st.integers(0, 4), right=st.integers(0, 4), seed=st.integers(0, 99), twice=st.booleans()
)
def test_center_is_the_distance_that_a_pattern_was_moved(down, right, seed, twice, device):
    pattern = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    s, x = torch.zeros(7, 8, dtype=torch.float64), torch.zeros(7, 8, dtype=torch.float64)
    s[:3, :4] = pattern
    x[down : down + 3, right : right + 4] = pattern * (2 if twice else 1)
    wanted = (down / 7) ** 2 + (right / 8) ** 2
    ones = torch.ones_like(s)
    assert of_map(x.to(device), s, ones, loss="center") == pytest.approx(wanted, abs=1e-12)


# ---- torch's own checks: these two are left out of the emulator's run ----------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_opcheck(name, device):
    kind, options = LOSSES[name]
    params = [float(value) for value in options.values() if not isinstance(value, str)]
    sample = make(SHAPES[2], device=device)
    arguments = (sample.activations, sample.gradients, sample.regions, None, None)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        raw._cam_loss_forward, (*arguments, kind, params, 0.0, 1, True), test_utils=tests
    )


@each
def test_fullgraph_equals_eager(options, device):
    sample = make(SHAPES[2], device=device)

    def loss(a, d):
        return F.cam_loss(a, d, sample.regions, **options)

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = sample.leaves()
        value = function(*leaves)
        results.append((value, *torch.autograd.grad(value, leaves)))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)
